"""What a conversation holds, and the REST routes of conversations: photos, names of speakers, pages, deletion, crashes."""
import base64
import http.client
import json
import random
import sqlite3
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.settings import with_deepgram
from support.store import rows, status_of, store_held
from support.talker import stored_text, talker  # noqa: F401
from support.wait import SLOW, holds, until

FLOOR = {"listen": {"conversation_timeout_floor": "2s", "ping": "200ms"}}
LONG = 600
JPEG = bytes(range(256)) * 40


def rest(daemon, method, path, uid="ann", token=None, timeout=30.0):
    """(status, JSON or None)"""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=timeout * SLOW)
    try:
        headers = {} if token == "" else {"Authorization": "Bearer " + (token or daemon.admin_key + uid)}
        c.request(method, path, headers=headers)
        response = c.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else None
    finally:
        c.close()


def pieces(key, data=JPEG, n=4, **more):
    text = base64.b64encode(data).decode()
    size = -(-len(text) // n)
    return [dict({"type": "image_chunk", "id": key, "index": i, "total": n, "data": text[i * size:(i + 1) * size]}, **more)
            for i in range(n)]


def send_photo(t, key, data=JPEG, n=4, order=None):
    parts = pieces(key, data, n)
    for i in order or range(n):
        t.send(parts[i])


def photo_id(t, key):
    until(lambda: [m for m in t.of_type("photo_processing") if m["temp_id"] == key], what="photo_processing of " + key)
    return [m for m in t.of_type("photo_processing") if m["temp_id"] == key][0]["photo_id"]


def ignored(daemon):
    return daemon.metric("omid_listen_messages_ignored_total")


# ---------------------------------------------------------------------------- photos

def test_photo(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    send_photo(t, "one", order=[2, 0, 2, 3, 1])  # out of order, one of them twice
    first = photo_id(t, "one")
    until(lambda: t.of_type("photo_described"), what="the description")
    assert t.of_type("photo_described")[0] == {"type": "photo_described", "photo_id": first, "description": "",
                                               "discarded": False}
    until(lambda: rows(daemon, "SELECT data FROM photo WHERE id = ?", first) == [(JPEG,)], what="the photo on disk")
    status, one = rest(daemon, "GET", "/v1/conversations/" + c)
    assert status == 200 and base64.b64decode(one["photos"][0]["base64"]) == JPEG
    assert one["photos"][0]["id"] == first and one["photos"][0]["description"] == ""
    status, page = rest(daemon, "GET", "/v1/conversations")
    assert [p["base64"] for p in page[0]["photos"]] == [""]  # a page has none of the data


def test_photo_alone_is_content(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    c = t.conversation()
    send_photo(t, "only", n=1)
    photo_id(t, "only")
    until(lambda: t.of_type("memory_created"), what="memory_created")
    assert t.of_type("memory_processing_started")[0]["memory"]["id"] == c
    memory = t.of_type("memory_created")[0]["memory"]
    assert memory["id"] == c and len(memory["photos"]) == 1 and not memory["transcript_segments"]
    assert status_of(daemon, c) == 2


def test_photo_alone_is_resumed(start_daemon, talker):
    """By its id, with the timeout of whoever resumes it; its first words begin the transcript at zero."""
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    send_photo(t, "only", n=2)
    photo_id(t, "only")
    t.close()
    until(lambda: daemon.sessions() == 0, what="the end of the session")
    again = talker(daemon, uid="ann", conversation_timeout=2, client_conversation_id=c).wait_ready()
    assert again.conversation() == c
    again.say("What is to be seen here.", 40)
    until(lambda: again.of_type("memory_created"), what="memory_created")
    memory = again.of_type("memory_created")[0]["memory"]
    assert memory["id"] == c and len(memory["photos"]) == 1 and len(memory["transcript_segments"]) == 1
    assert memory["transcript_segments"][0]["start"] == 0


def test_photo_before_the_conversation_is_known(start_daemon, talker):
    """Sent at once after the upgrade: kept until the store has answered."""
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG)
    send_photo(t, "early", n=1)
    photo_id(t, "early")
    c = t.conversation()
    until(lambda: rows(daemon, "SELECT 1 FROM photo p JOIN conversation c ON p.conversation = c.n WHERE c.id = ?", c),
          what="the photo with its conversation")


def test_said_before_the_conversation_and_gone(start_daemon, talker):
    """The store has not answered when the client leaves: what it has said of its conversation is kept all the same."""
    daemon = start_daemon(FLOOR)
    with store_held(daemon):
        t = talker(daemon, uid="ann", conversation_timeout=LONG, custom_stt="enabled").wait_ready()
        send_photo(t, "early", n=3)
        t.send({"type": "speaker_assigned", "speaker_id": 1, "person_id": "p-bea", "person_name": "Bea", "segment_ids": []})
        t.close()
        until(lambda: daemon.sessions() == 0, what="the client has left")
        assert not t.of_type("photo_processing") and not t.of_type("conversation_session")
    until(lambda: rows(daemon, "SELECT data FROM photo") == [(JPEG,)], what="the photo on disk")
    until(lambda: rows(daemon, "SELECT name FROM person") == [("Bea",)], what="the name on disk")
    assert daemon.metric("omid_listen_dropped_total") == 0


def test_photo_does_not_block_audio(start_daemon, deepgram, talker):
    """Audio behind a photo does not wait for the store."""
    daemon = start_daemon(with_deepgram(deepgram))
    with store_held(daemon):
        t = talker(daemon, uid="ann", custom_stt="disabled").wait_ready()
        send_photo(t, "early", n=2)
        t.send(bytes(3200))
        until(lambda: [s for s in deepgram.live() if s.audio >= 3200] or t.of_type("conversation_session"),
              what="the audio")
        assert not t.of_type("conversation_session")


@pytest.mark.parametrize("bad", [
    {"id": None}, {"id": ""}, {"id": "x" * 129}, {"id": 5}, {"total": 0}, {"total": -1}, {"total": "4"}, {"total": 10001},
    {"total": 1e300}, {"index": -1}, {"index": 4}, {"index": 1.5}, {"index": None}, {"data": None}, {"data": 5},
    {"data": ["QQ=="]}], ids=str)
def test_pieces_that_are_none(start_daemon, talker, bad):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann").wait_ready()
    t.conversation()
    before = ignored(daemon)
    t.send(dict(pieces("p")[0], **bad))
    until(lambda: ignored(daemon) == before + 1, what="the count")
    send_photo(t, "good")
    photo_id(t, "good")


def test_photos_that_are_none(start_daemon, talker):
    daemon = start_daemon(dict(FLOOR, listen=dict(FLOOR["listen"], max_photo="8KiB", photo_buffer="64KiB")))
    t = talker(daemon, uid="ann").wait_ready()
    t.conversation()
    before = ignored(daemon)
    for text in ("%%%", "QUJD\n", "Q", "", "QQ==QQ=="):  # whole, and no base64 of anything
        t.send({"type": "image_chunk", "id": "n" + text, "index": 0, "total": 1, "data": text})
    t.send({"type": "image_chunk", "id": "big", "index": 0, "total": 1, "data": "A" * 8196})
    t.send({"type": "image_chunk", "id": "grows", "index": 0, "total": 3, "data": "A" * 8000})
    t.send({"type": "image_chunk", "id": "grows", "index": 1, "total": 3, "data": "A" * 400})
    t.send({"type": "image_chunk", "id": "changes", "index": 0, "total": 3, "data": "AAAA"})
    t.send({"type": "image_chunk", "id": "changes", "index": 1, "total": 4, "data": "AAAA"})
    until(lambda: ignored(daemon) == before + 8, what=lambda: "the count, not %s" % (ignored(daemon) - before))
    assert not t.of_type("photo_processing")
    send_photo(t, "good", JPEG[:3000])
    photo_id(t, "good")


def test_photos_that_never_become_whole(start_daemon, talker):
    daemon = start_daemon(dict(FLOOR, listen=dict(FLOOR["listen"], photo_timeout="1s", max_partial_photos=3)))
    t = talker(daemon, uid="ann").wait_ready()
    t.conversation()
    base = daemon.status()["sessions"]["memory_bytes"]
    for i in range(4):
        t.send(pieces("part%d" % i)[0])
    until(lambda: daemon.metric("omid_listen_dropped_total") == 1, what="the oldest is dropped")
    for part in pieces("part0")[1:]:  # its first piece is gone
        t.send(part)
    until(lambda: daemon.metric("omid_listen_dropped_total") == 5, what="all are too old")
    assert not t.of_type("photo_processing")
    until(lambda: daemon.status()["sessions"]["memory_bytes"] <= base + 1000, what="the memory is given back")


# -------------------------------------------------------------------------- speakers

def test_speaker_assigned(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    t.say("First sentence here.", 0, speaker=1)
    t.say("Other voice speaks.", 5, speaker=2)
    t.heard("Other voice speaks.")
    one = [s for s in t.segments.values() if s["speaker_id"] == 1][0]
    t.send({"type": "speaker_assigned", "speaker_id": 1, "person_id": "p-ben", "person_name": "Ben",
            "segment_ids": [one["id"], "no such segment", 7]})
    until(lambda: t.segments[one["id"]]["person_id"] == "p-ben", what="the name on the segment")
    assert not t.segments[one["id"]]["is_user"]
    t.say("Again the first one.", 60, speaker=1)
    t.say("That was me.", 70, speaker=2)
    t.heard("That was me.")
    by_text = {s["text"]: s for s in t.segments.values()}
    assert by_text["Again the first one."]["person_id"] == "p-ben"
    assert by_text["That was me."]["person_id"] is None
    mine = by_text["That was me."]["id"]
    t.send({"type": "speaker_assigned", "speaker_id": 2, "person_id": "user", "person_name": "Ann", "segment_ids": [mine]})
    until(lambda: t.segments[mine]["is_user"], what="the owner")
    assert t.segments[mine]["person_id"] is None
    until(lambda: len(rows(daemon, "SELECT 1 FROM speaker_sample WHERE status = 0")) == 2, what="two samples wait")
    assert rows(daemon, "SELECT id, name, uid FROM person") == [("p-ben", "Ben", "ann")]
    assert rows(daemon, "SELECT segments, person_id FROM speaker_sample ORDER BY n")[0] == (
        json.dumps([one["id"]]), "p-ben")
    until(lambda: rows(daemon, "SELECT person_id FROM segment WHERE id = ?", one["id"]) == [("p-ben",)], what="on disk")
    # It is known after a new connection, and after a crash.
    t.hang_up()
    daemon.kill()
    daemon.start()
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    assert t.conversation() == c
    t.say("Ben once more.", 100, speaker=1)
    t.heard("Ben once more.")
    assert [s["person_id"] for s in t.segments.values()] == ["p-ben"]


@pytest.mark.parametrize("bad", [
    {"speaker_id": -1}, {"speaker_id": 10000}, {"speaker_id": "1"}, {"speaker_id": None}, {"person_id": ""},
    {"person_id": None}, {"person_id": 5}, {"person_id": "x" * 129}, {"person_name": "n" * 257}, {"segment_ids": "all"},
    {"segment_ids": ["x"] * 1001}], ids=lambda b: str(b)[:40])
def test_speakers_that_are_none(start_daemon, talker, bad):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann").wait_ready()
    t.conversation()
    before = ignored(daemon)
    t.send(dict({"type": "speaker_assigned", "speaker_id": 1, "person_id": "p", "person_name": "P", "segment_ids": []},
                **bad))
    until(lambda: ignored(daemon) == before + 1, what="the count")
    t.say("Still here.")
    t.heard("Still here.")
    assert rows(daemon, "SELECT count(*) FROM person") == [(0,)]


# ----------------------------------------------------------------- one uid, two places

def test_last_memory(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    c = t.conversation()
    t.say("A thing to remember.")
    until(lambda: t.of_type("memory_created"), what="memory_created")
    t.close()
    assert not t.of_type("last_memory")
    t = talker(daemon, uid="ann", conversation_timeout=2)
    until(lambda: t.of_type("last_memory"), what="last_memory")
    assert t.of_type("last_memory") == [{"type": "last_memory", "memory_id": c}]
    other = talker(daemon, uid="bob").wait_ready()
    other.conversation()
    holds(lambda: not other.of_type("last_memory"), 0.5)


def test_second_session_joins_what_is_not_on_disk(start_daemon, talker):
    """The first one's conversation lives in memory alone for a while: the second is to find it there."""
    daemon = start_daemon(dict(FLOOR, store={"flush": "30s", "sweep": "100ms"}))
    one = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    c = one.conversation()
    end = time.monotonic() + 3  # beyond the timeout as the file knows it
    n = 0
    while time.monotonic() < end:
        n += 1
        one.say("Sentence number %d." % n, n)
        one.heard("number %d." % n)
        time.sleep(0.1)
    two = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    assert two.conversation() == c
    assert len(rows(daemon, "SELECT 1 FROM conversation")) == 1


def test_resume_id_of_another_uid(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    ann = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = ann.conversation()
    ann.say("For nobody else.")
    ann.heard("For nobody else.")
    bob = talker(daemon, uid="bob", client_conversation_id=c).wait_ready()
    assert bob.conversation() != c
    assert rest(daemon, "GET", "/v1/conversations/" + c, uid="bob")[0] == 404
    assert rest(daemon, "DELETE", "/v1/conversations/" + c, uid="bob")[0] == 404
    assert rest(daemon, "GET", "/v1/conversations?before=" + c, uid="bob")[0] == 400
    assert "For nobody" not in json.dumps(rest(daemon, "GET", "/v1/conversations", uid="bob")[1])
    ann.say("Goes on.", 60)
    ann.heard("Goes on.")


# -------------------------------------------------------------------------------- REST

def test_rest_needs_a_token(start_daemon):
    daemon = start_daemon()
    some = str(uuid.uuid4())
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/" + some), ("DELETE", "/" + some)):
        assert rest(daemon, method, "/v1/conversations" + path, token="")[0] == 401
        assert rest(daemon, method, "/v1/conversations" + path, token="wrong")[0] == 401
    assert rest(daemon, "PUT", "/v1/conversations")[0] == 405
    assert rest(daemon, "POST", "/v1/conversations/" + some)[0] == 405


@pytest.mark.parametrize("path,status,named", [
    ("?limit=0", 400, "limit"), ("?limit=101", 400, "limit"), ("?limit=abc", 400, "limit"), ("?limit=", 400, "limit"),
    ("?limit=-1", 400, "limit"), ("?limit=99999999999999999999", 400, "limit"), ("?offset=-1", 400, "offset"),
    ("?offset=x", 400, "offset"), ("?statuses=done", 400, "statuses"), ("?before=x", 400, "before"),
    ("?before=6f9619ff-8b86-4011-b42d-00c04fc964ff", 400, "before"), ("?limit=%zz", 400, "limit"),
    ("/x", 404, "id"), ("/6f9619ff-8b86-4011-b42d-00c04fc964ff", 404, "id"), ("/%00", 400, "id"), ("/%", 400, "id"),
    ("/..%2f..%2fetc%2fpasswd", 404, "id"), ("/" + "a" * 4000, 404, "id")], ids=lambda p: str(p)[:40])
def test_rest_faults(start_daemon, path, status, named):
    daemon = start_daemon()
    got, body = rest(daemon, "GET", "/v1/conversations" + path)
    assert got == status and body["error"].startswith(named + ":"), (got, body)


def test_rest_pages(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    made = []
    for i in range(5):
        t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
        made.append(t.conversation())
        t.say("Conversation number %d." % i)
        t.heard("number %d." % i)
        status, answer = rest(daemon, "POST", "/v1/conversations")
        assert status == 201 and answer["memory"]["id"] == made[i]
        t.close()
    newest_first = made[::-1]
    everything = [c["id"] for c in rest(daemon, "GET", "/v1/conversations?statuses=completed")[1]]
    assert everything == newest_first
    pages, before = [], ""
    while True:
        page = rest(daemon, "GET", "/v1/conversations?statuses=completed&limit=2" + before)[1]
        pages += [c["id"] for c in page]
        if not page:
            break
        before = "&before=" + page[-1]["id"]
    assert pages == newest_first
    assert [c["id"] for c in rest(daemon, "GET", "/v1/conversations?statuses=completed&limit=2&offset=3")[1]] == \
        newest_first[3:]
    assert rest(daemon, "GET", "/v1/conversations?statuses=failed,skipped")[1] == []
    one = rest(daemon, "GET", "/v1/conversations/" + made[2])[1]
    assert one["transcript_segments"][0]["text"] == "Conversation number 2." and one["status"] == "completed"
    assert one["messages"] == []


def test_rest_process_now(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    assert rest(daemon, "POST", "/v1/conversations")[0] == 404
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    assert rest(daemon, "POST", "/v1/conversations")[0] == 404  # nothing in it
    t.say("This is to be kept now.")
    t.heard("kept now.")
    status, answer = rest(daemon, "POST", "/v1/conversations")
    assert status == 201 and answer["memory"]["id"] == c and answer["memory"]["status"] == "completed"
    assert answer["memory"]["structured"]["title"] and answer["messages"] == []
    until(lambda: t.of_type("memory_created"), what="the live client is told, too")
    assert t.conversation(2) != c
    assert rest(daemon, "POST", "/v1/conversations", uid="bob")[0] == 404


def test_rest_process_what_is_ending(start_daemon, talker):
    """It has ended by itself and is not yet completed: that is the one that is meant, not none."""
    daemon = start_daemon({"listen": {"conversation_timeout_floor": "2s", "process_wait": "10ms", "lifecycle_check": "50ms"}})
    t = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    c = t.conversation()
    t.say("It ends by itself.")
    t.heard("by itself.")
    until(lambda: stored_text(daemon, c), what="on disk")
    with ThreadPoolExecutor(1) as pool:
        with store_held(daemon):
            until(lambda: t.of_type("memory_processing_started"), what="the end")
            first = pool.submit(rest, daemon, "POST", "/v1/conversations")
            t.conversation(2)  # in memory alone, and empty
            assert rest(daemon, "POST", "/v1/conversations") == (202, {"id": c, "status": "processing"})
        status, answer = first.result()
        assert (status, answer.get("id")) == (202, c) or (status, answer["memory"]["id"]) == (201, c)
    until(lambda: t.of_type("memory_created"), what="memory_created")
    until(lambda: rest(daemon, "POST", "/v1/conversations")[0] == 404, what="nothing is left to process")


def test_rest_delete_what_is_ending(start_daemon, talker):
    """Deleted between its end and its processing: it does not come back."""
    daemon = start_daemon({"listen": {"conversation_timeout_floor": "2s", "lifecycle_check": "50ms"}})
    t = talker(daemon, uid="ann", conversation_timeout=2).wait_ready()
    c = t.conversation()
    t.say("To be forgotten.")
    t.heard("be forgotten.")
    with ThreadPoolExecutor(1) as pool:
        with store_held(daemon):
            until(lambda: t.of_type("memory_processing_started"), what="the end")
            answer = pool.submit(rest, daemon, "DELETE", "/v1/conversations/" + c)
            until(lambda: daemon.logged("a conversation is deleted"), what="the request")
        assert answer.result()[0] == 204
    t.say("And this is new.")
    until(lambda: rows(daemon, "SELECT 1 FROM segment WHERE text = 'And this is new.'"), what="the second one on disk")
    assert status_of(daemon, c) is None and not t.of_type("memory_created")


def left_behind(daemon, talker, said):
    """A conversation that goes on when its session has ended: on disk, and to be had by the next one."""
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    t.say(said)
    t.heard(said)
    until(lambda: stored_text(daemon, c), what="on disk")
    t.close()
    until(lambda: daemon.sessions() == 0, what="the end of the session")
    return c


def test_rest_delete_while_a_session_is_given_it(start_daemon, talker):
    """The store has answered the session first: what it was given is taken away again, and does not come back."""
    daemon = start_daemon()
    c = left_behind(daemon, talker, "To be forgotten.")
    with ThreadPoolExecutor(1) as pool:
        with store_held(daemon):
            again = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
            answer = pool.submit(rest, daemon, "DELETE", "/v1/conversations/" + c)
            until(lambda: daemon.logged("a conversation is deleted"), what="the request")
        assert answer.result()[0] == 204
    until(lambda: again.conversations() and again.conversations()[-1] != c, what=lambda: again.conversations())
    again.say("And this is new.")
    until(lambda: rows(daemon, "SELECT 1 FROM segment WHERE text = 'And this is new.'"), what="the new one on disk")
    assert status_of(daemon, c) is None and again.text() == "And this is new."
    assert rows(daemon, "SELECT count(*) FROM segment WHERE text LIKE '%forgotten%'") == [(0,)]


def test_rest_process_while_a_session_is_given_it(start_daemon, talker):
    """It is processed, as was asked, and the session begins the next one: none is both."""
    daemon = start_daemon()
    c = left_behind(daemon, talker, "Said before.")
    with ThreadPoolExecutor(1) as pool:
        with store_held(daemon):
            again = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
            answer = pool.submit(rest, daemon, "POST", "/v1/conversations")
            holds(lambda: not answer.done(), 0.3, "an answer without the store")
        assert answer.result()[0] == 201 and answer.result()[1]["memory"]["id"] == c
    until(lambda: again.conversations() and again.conversations()[-1] != c, what=lambda: again.conversations())
    again.say("And this is new.")
    until(lambda: rows(daemon, "SELECT 1 FROM segment WHERE text = 'And this is new.'"), what="the new one on disk")
    assert status_of(daemon, c) == 2 and stored_text(daemon, c) == "Said before."
    assert status_of(daemon, again.conversations()[-1]) == 0


def test_rest_process_without_a_session(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    t.say("Said, then gone.")
    t.heard("then gone.")
    t.close()
    until(lambda: daemon.sessions() == 0, what="the end of the session")
    status, answer = rest(daemon, "POST", "/v1/conversations")
    assert status == 201 and answer["memory"]["id"] == c


def test_rest_delete(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    c = t.conversation()
    t.say("To be forgotten.")
    t.heard("be forgotten.")
    send_photo(t, "p")
    photo_id(t, "p")
    until(lambda: stored_text(daemon, c), what="on disk")
    assert rest(daemon, "DELETE", "/v1/conversations/" + c)[0] == 204  # while it is live
    second = t.conversation(2)
    assert second != c
    assert rest(daemon, "GET", "/v1/conversations/" + c)[0] == 404
    assert rest(daemon, "DELETE", "/v1/conversations/" + c)[0] == 404
    t.say("And this is new.")
    t.heard("And this is new.")
    until(lambda: stored_text(daemon, second) == "And this is new.", what="the second one on disk")
    assert rows(daemon, "SELECT count(*) FROM segment WHERE text LIKE '%forgotten%'") == [(0,)]
    assert rows(daemon, "SELECT count(*) FROM photo") == [(0,)]
    assert not t.of_type("memory_created") and not t.of_type("memory_processing_started")
    t.close()
    until(lambda: daemon.sessions() == 0, what="the end of the session")
    assert rest(daemon, "DELETE", "/v1/conversations/" + second)[0] == 204  # and without a session
    assert rest(daemon, "GET", "/v1/conversations")[1] == []


# ------------------------------------------------------------------------------ crashes

def test_killed_at_random_moments(start_daemon, talker):
    """What was said a flush interval before the crash is there afterwards; nothing twice, and no broken file."""
    daemon = start_daemon(dict(FLOOR, store={"flush": "100ms", "sweep": "100ms"}))
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    said, number = [], 0
    for _ in range(5):
        t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
        c = t.conversation()
        end = time.monotonic() + chance.uniform(0.2, 1.5)
        while time.monotonic() < end:
            number += 1
            t.say("Sentence number %d." % number, number * 10)
            t.heard("number %d." % number)
            said.append((number, time.monotonic()))
            time.sleep(chance.uniform(0, 0.05))
        killed = time.monotonic()
        daemon.kill()
        until(lambda: t.closed, what="the client's end")
        daemon.start()
        assert not daemon.logged("set aside")
        texts = [r[0] for r in rows(daemon, "SELECT text FROM segment")]
        there = [n for n, _ in said if sum("number %d." % n in text for text in texts) == 1]
        doubled = [n for n, _ in said if sum("number %d." % n in text for text in texts) > 1]
        assert not doubled, (seed, doubled)
        must = [n for n, when in said if when < killed - 1.0 * SLOW]
        assert set(must) <= set(there), (seed, sorted(set(must) - set(there)))
        said = [(n, 0 if n in there else 1e18) for n, _ in said]
        said = [x for x in said if x[1] == 0]
    assert number > 10 and said
    assert len(rows(daemon, "SELECT 1 FROM conversation")) == 1 and status_of(daemon, c) == 0


def test_a_cut_off_file_is_set_aside(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    t.say("Lost with the file.")
    t.heard("Lost with the file.")
    daemon.stop()
    path = daemon.dir / "state" / "store.db"
    with open(path, "r+b") as f:
        f.truncate(300)
    daemon.start()
    assert daemon.logged("set aside") and list(path.parent.glob("store.db.corrupt-*"))
    t = talker(daemon, uid="ann", conversation_timeout=LONG).wait_ready()
    t.say("A new beginning.")
    t.heard("A new beginning.")


def test_a_file_of_the_first_schema(start_daemon, talker):
    """As an older omid left it, with a conversation whose time is over."""
    daemon = start_daemon(FLOOR)
    daemon.stop()
    path = daemon.dir / "state" / "store.db"
    for f in path.parent.glob("store.db*"):
        f.unlink()
    old = str(uuid.uuid4())
    db = sqlite3.connect(path)
    db.executescript("""
        PRAGMA journal_mode=WAL;
        CREATE TABLE conversation(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL,
         language TEXT NOT NULL, source TEXT NOT NULL, status INTEGER NOT NULL, created INTEGER NOT NULL,
         started INTEGER NOT NULL, finished INTEGER NOT NULL, timeout INTEGER NOT NULL, structured TEXT, error TEXT);
        CREATE INDEX conversation_status ON conversation(status);
        CREATE INDEX conversation_of_uid ON conversation(uid, created);
        CREATE INDEX conversation_open ON conversation(uid) WHERE status = 0;
        CREATE INDEX conversation_ends ON conversation(finished + timeout) WHERE status = 0;
        CREATE TABLE segment(n INTEGER PRIMARY KEY, conversation INTEGER NOT NULL REFERENCES conversation(n)
         ON DELETE CASCADE, id TEXT NOT NULL, text TEXT NOT NULL, speaker TEXT NOT NULL, speaker_id INTEGER NOT NULL,
         is_user INTEGER NOT NULL, person_id TEXT, stt_provider TEXT, start REAL NOT NULL, "end" REAL NOT NULL,
         UNIQUE(conversation, id));
        PRAGMA application_id=1869441395; PRAGMA user_version=1;""")
    db.execute("INSERT INTO conversation VALUES(1, ?, 'ann', 'en', 'omi', 0, 1000, 1000, 2000, 2000, NULL, NULL)", (old,))
    db.execute("INSERT INTO segment VALUES(1, 1, 's', 'From long ago.', 'SPEAKER_00', 0, 0, NULL, 'x', 0, 1)")
    db.commit()
    db.close()
    daemon.start()
    until(lambda: status_of(daemon, old) == 2, what="the old conversation is processed")
    status, one = rest(daemon, "GET", "/v1/conversations/" + old)
    assert status == 200 and one["transcript_segments"][0]["text"] == "From long ago." and one["photos"] == []
