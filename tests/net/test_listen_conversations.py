"""Conversations of the listen protocol: resumed, ended, swept, and what a crash or a stop leaves of them."""
import json
import time
from collections import Counter

from support.daemon import merge
from support.deepgram import Mode
from support.settings import with_deepgram
from support.store import rows, status_of
from support.talker import FLOOR, SHORT, UUID4, leaves_nothing, stored_text, talker  # noqa: F401
from support.wait import SLOW, holds, until


# ------------------------------------------------------------------------ conversations


def test_resume(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="again").wait_ready()
    first = t.conversation()
    t.say("Before the tunnel.")
    t.heard("Before the tunnel.")
    t.hang_up()
    leaves_nothing(daemon)
    t = talker(daemon, uid="again").wait_ready()
    assert t.conversation() == first
    t.say("After the tunnel.", speaker=1)
    t.heard("After the tunnel.")
    t.close()
    until(lambda: stored_text(daemon, first) == "Before the tunnel. After the tunnel.",
          what=lambda: "both in the store: %r" % stored_text(daemon, first))
    assert status_of(daemon, first) == 0


def test_client_conversation_id(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    mine = talker(daemon, uid="mine")
    first = mine.conversation()
    mine.close()
    leaves_nothing(daemon)
    thief = talker(daemon, uid="thief", client_conversation_id=first)
    assert thief.conversation() != first
    assert talker(daemon, uid="mine", client_conversation_id=first).conversation() == first
    for odd in ("x", "../../etc", "0" * 36, first + "x"):
        assert UUID4.fullmatch(talker(daemon, uid="odd" + str(len(odd)), client_conversation_id=odd).conversation())


def test_conversation_ends(start_daemon, talker, receiver):
    """Several at once, on whatever reactors: each client and each partner is told, and told once."""
    daemon = start_daemon({**FLOOR, "plugin webhooks": {"memory_created": [receiver.url("/memory")]}})
    talkers = [talker(daemon, uid="ends%d" % i, conversation_timeout=SHORT).wait_ready() for i in range(8)]
    first = [t.conversation() for t in talkers]
    for i, t in enumerate(talkers):
        t.say("We talked about the garden number%d. It was a long talk." % i)
    for i, t in enumerate(talkers):
        assert t.conversation(2) != first[i]
        until(lambda: t.of_type("memory_created"), what="the memory")
        kinds = [m["type"] for m in t.messages]
        assert kinds.index("memory_processing_started") < kinds.index("memory_created")
        started, = t.of_type("memory_processing_started")
        assert started["memory"]["id"] == first[i] and started["memory"]["status"] == "processing"
        created, = t.of_type("memory_created")
        memory = created["memory"]
        assert created["messages"] == [] and memory["id"] == first[i] and memory["status"] == "completed"
        assert "number%d" % i in memory["structured"]["title"] + memory["structured"]["overview"]
        assert memory["structured"]["title"] and memory["structured"]["overview"]
        assert [s["text"] for s in memory["transcript_segments"]] == [
            "We talked about the garden number%d. It was a long talk." % i]
        assert status_of(daemon, first[i]) == 2
    until(lambda: len(receiver.at("/memory")) >= 8, what="webhooks")
    holds(lambda: all(len(t.of_type("memory_created")) == 1 for t in talkers), 1.0, "told twice")
    told = Counter(d.json["id"] for d in receiver.at("/memory"))
    assert told == Counter(first)
    for i, t in enumerate(talkers):  # the next one goes on
        t.say("The next subject.", 10)
        t.heard("The next subject.")


def test_empty_conversations_are_deleted(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, conversation_timeout=SHORT).wait_ready()
    first, second = t.conversation(), t.conversation(2)
    assert first != second
    until(lambda: status_of(daemon, first) is None, what="the empty one to be deleted")
    t.hang_up()
    until(lambda: not rows(daemon, "SELECT id FROM conversation"), what="the sweeper to delete the last one")
    assert not t.of_type("memory_created") and not t.of_type("memory_processing_started")


def test_floor_of_the_timeout(start_daemon, talker):
    daemon = start_daemon({})
    t = talker(daemon, conversation_timeout=0)
    assert rows(daemon, "SELECT timeout FROM conversation WHERE id = ?", t.conversation()) == [(120000,)]
    t = talker(daemon, conversation_timeout=-1)
    assert rows(daemon, "SELECT timeout FROM conversation WHERE id = ?", t.conversation()) == [(14400000,)]
    t = talker(daemon, conversation_timeout=-2 ** 63)
    assert rows(daemon, "SELECT timeout FROM conversation WHERE id = ?", t.conversation()) == [(120000,)]


def test_swept_without_any_session(start_daemon, talker, receiver):
    daemon = start_daemon({**FLOOR, "plugin webhooks": {"memory_created": [receiver.url("/memory")]}})
    t = talker(daemon, conversation_timeout=SHORT).wait_ready()
    conversation = t.conversation()
    t.say("Nobody hears the end of this.")
    t.heard("Nobody")
    t.hang_up()
    leaves_nothing(daemon)
    assert status_of(daemon, conversation) == 0
    until(lambda: receiver.at("/memory"), what="the webhook")
    until(lambda: status_of(daemon, conversation) == 2, what="completed")
    structured, = rows(daemon, "SELECT structured FROM conversation WHERE id = ?", conversation)
    assert "Nobody hears" in json.loads(structured[0])["title"]
    assert [d.json["id"] for d in receiver.at("/memory")] == [conversation]


def test_sessions_with_different_timeouts(start_daemon, talker):
    """What one of them ends is not what the other is given next."""
    daemon = start_daemon(FLOOR)
    patient = talker(daemon, uid="both", conversation_timeout=100).wait_ready()
    first = patient.conversation()
    hasty = talker(daemon, uid="both", conversation_timeout=SHORT).wait_ready()
    assert hasty.conversation() == first
    patient.say("Once upon a time.")
    second = patient.conversation(2)
    assert hasty.conversation(2) == second != first
    until(lambda: patient.of_type("memory_created") and hasty.of_type("memory_created"), what="the memory")
    patient.say("And then again.", 20)
    hasty.heard("And then again.")
    assert stored_text(daemon, first) == "Once upon a time."


def test_timeout_of_whoever_joins_stays(start_daemon, talker):
    """Also when it is in memory that it joins: the sweeper goes by it when both have left."""
    daemon = start_daemon(merge(FLOOR, {"store": {"sweep": "100ms"}}))
    patient = talker(daemon, uid="both", conversation_timeout=1000).wait_ready()
    c = patient.conversation()
    patient.say("Once upon a time.")
    patient.heard("a time.")
    hasty = talker(daemon, uid="both", conversation_timeout=SHORT).wait_ready()
    assert hasty.conversation() == c
    hasty.close()
    patient.close()
    until(lambda: daemon.sessions() == 0, what="both have left")
    until(lambda: rows(daemon, "SELECT timeout FROM conversation WHERE id = ?", c) == [(SHORT * 1000,)], what="on disk")
    until(lambda: status_of(daemon, c) == 2, 20, what="the sweep")


# ------------------------------------------------------------------------------ crashes


def crashed(daemon, talker, timeout):
    """A conversation that was open when omid was killed, its text on disk."""
    t = talker(daemon, uid="survivor", conversation_timeout=timeout).wait_ready()
    conversation = t.conversation()
    t.say("Said before the crash.")
    t.heard("Said before")
    until(lambda: stored_text(daemon, conversation) == "Said before the crash.", what="the flush")
    daemon.kill()
    until(lambda: t.closed, what="the client to see it")
    return conversation


def test_resumed_after_a_crash(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    conversation = crashed(daemon, talker, 100)
    daemon.start()
    t = talker(daemon, uid="survivor", conversation_timeout=5 * SHORT).wait_ready()  # it counts from what was said before
    assert t.conversation() == conversation
    t.say("Said after it.", speaker=1)
    until(lambda: t.of_type("memory_created"), 30, what="the memory")
    assert [s["text"] for s in t.of_type("memory_created")[0]["memory"]["transcript_segments"]] == [
        "Said before the crash.", "Said after it."]


def test_swept_after_a_crash(start_daemon, talker, receiver):
    """The conversation's time has passed while omid was down: it is processed at the start, and the plugins hear of it."""
    daemon = start_daemon({**FLOOR, "plugin webhooks": {"memory_created": [receiver.url("/memory")]}})
    conversation = crashed(daemon, talker, SHORT)
    finished, = rows(daemon, "SELECT finished + timeout FROM conversation WHERE id = ?", conversation)[0]
    until(lambda: time.time() * 1000 > finished, what="its end")
    daemon.start()
    until(lambda: status_of(daemon, conversation) == 2, what="completed")
    until(lambda: receiver.at("/memory"), what="the webhook")
    assert receiver.at("/memory")[0].json["transcript_segments"][0]["text"] == "Said before the crash."


# ---------------------------------------------------------------------------------- stop


def test_sigterm(start_daemon, deepgram, talker):
    """Clients are told 1001, what they said is on disk, the exit status is 0."""
    deepgram.default = Mode(tail=[("Tail.", 0)])
    settings = with_deepgram(deepgram)
    settings["listen"] = {**settings["listen"], "transcript_flush": "30s"}
    settings["store"] = {"flush": "30s"}
    daemon = start_daemon(settings)
    own = talker(daemon, uid="own").wait_ready()
    own_conversation = own.conversation()
    own.say("Not yet flushed.")
    streamed = talker(daemon, uid="streamed", custom_stt="disabled").wait_ready()
    streamed_conversation = streamed.conversation()
    streamed.speak(1.0, 7)
    until(lambda: daemon.metric("omid_listen_segments_total") >= 3, what="segments")
    daemon.stop()
    own.ended(1001)
    streamed.ended(1001)
    assert own.text() == "Not yet flushed." and streamed.text() == "v7 n1. v7 n2."
    assert stored_text(daemon, own_conversation) == "Not yet flushed."
    assert stored_text(daemon, streamed_conversation).startswith("v7 n1. v7 n2. Tail.")


def test_sigterm_while_a_provider_is_silent(start_daemon, deepgram, talker):
    """The drain is bounded, and the plugin is not left with the streams."""
    deepgram.default = Mode(silent=True)
    settings = with_deepgram(deepgram, close_timeout="60s")
    settings["daemon"] = {"drain": "4s"}
    daemon = start_daemon(settings)
    for _ in range(3):
        t = talker(daemon, custom_stt="disabled").wait_ready()
        t.speak(0.2)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 8 * SLOW
