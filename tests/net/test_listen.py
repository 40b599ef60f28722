"""The listen protocol, from the first ping to the completed conversation, and everything that can come between."""
import asyncio
import http.client
import json
import os
import re
import resource
import socket
import sqlite3
import subprocess
import time
import wave
from collections import Counter

import pytest
import websockets

from support.aio import background
from support.daemon import merge, program
from support.deepgram import Mode
from support.phone import Phone
from support.settings import with_deepgram
from support.store import rows, status_of
from support.wait import SLOW, holds, until

SHORT = 2  # seconds; the least that the floor of conversation_timeout allows
FLOOR = {"listen": {"conversation_timeout_floor": "2s", "ping": "200ms"}}
FIELDS = {"id", "text", "speaker", "speaker_id", "is_user", "person_id", "start", "end", "translations",
          "speech_profile_processed", "stt_provider"}
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Talker(Phone):
    """Keeps every text in its order, and does speech-to-text itself unless told otherwise."""

    def __init__(self, daemon, uid, raw_query=None, **query):
        query.setdefault("custom_stt", "enabled")
        self.raw = []
        super().__init__(daemon, uid, **query)
        if raw_query is not None:
            self.url = "ws://%s/v4/listen?%s" % (daemon.address, raw_query)

    def _take(self, text):
        self.raw.append(text)
        super()._take(text)

    def say(self, text, start=0.0, length=1.0, speaker=0, **more):
        segment = dict({"text": text, "speaker": "SPEAKER_%02d" % speaker, "start": start, "end": start + length}, **more)
        self.send({"type": "suggested_transcript", "segments": [segment]})

    def conversations(self):
        return [m["conversation_id"] for m in self.of_type("conversation_session")]

    def conversation(self, number=1):
        """The number-th conversation that it was told of."""
        until(lambda: len(self.conversations()) >= number or self.closed, what=lambda: "conversation %d; told: %s" % (
            number, self.messages[-5:]))
        return self.conversations()[number - 1]

    def heard(self, words):
        until(lambda: words in self.text() or self.closed, what=lambda: "%r, not %r" % (words, self.text()[-200:]))
        assert words in self.text(), (self.close_code, self.close_reason)

    def ended(self, code, reason=None):
        until(lambda: self.closed, what="the end")
        assert self.close_code == code and (reason is None or self.close_reason == reason), (
            self.close_code, self.close_reason)


class DeafTalker(Talker):
    """Has little room for what it does not read."""

    async def aconnect(self):
        host, port = re.match(r"ws://([^:/]+):(\d+)/", self.url).groups()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        self.ws = await websockets.connect(self.url, extra_headers={"Authorization": "Bearer " + self.token}, sock=sock,
                                           compression=None, max_size=None, ping_interval=None, close_timeout=5,
                                           max_queue=1, read_limit=4096)
        self._reader = asyncio.ensure_future(self._read())

    def stop_reading(self):
        def stop():  # for good: the stream reader above it pauses and resumes, too
            self.ws.transport.pause_reading()
            self.ws.transport.resume_reading = lambda: None
        background().loop.call_soon_threadsafe(stop)

    def read_on(self):
        def resume():
            del self.ws.transport.resume_reading
            self.ws.transport.resume_reading()
        background().loop.call_soon_threadsafe(resume)


@pytest.fixture
def talker():
    """talker(daemon, uid=None, **query) -> a connected Talker; gone after the test."""
    talkers = []

    def connect(daemon, uid=None, kind=Talker, **query):
        t = kind(daemon, uid or "talker%d-%d" % (os.getpid(), len(talkers)), **query)
        talkers.append(t)
        return t.connect()

    yield connect
    for t in talkers:
        if t.ws and not t.closed:
            t.hang_up()


def upgrade(daemon, query="", headers=None, path="/v4/listen"):
    """(status, body) of an upgrade request that is refused."""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=10 * SLOW)
    base = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    try:
        c.request("GET", path + ("?" + query if query else ""), headers=dict(base, **(headers or {})))
        response = c.getresponse()
        assert response.getheader("content-type", "").startswith("application/json")
        return response.status, json.loads(response.read())
    finally:
        c.close()


def stored_text(daemon, conversation):
    return " ".join(r[0] for r in rows(daemon, "SELECT s.text FROM segment s JOIN conversation c ON s.conversation = c.n"
                                               " WHERE c.id = ? ORDER BY s.start, s.n", conversation))


def leaves_nothing(daemon):
    until(lambda: daemon.sessions() == 0, what=lambda: "sessions to end: %s" % daemon.sessions())


# ---------------------------------------------------------------------------- the start


def test_order_of_the_start(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled").wait_ready()
    t.conversation()
    assert t.raw[0] == "ping"
    assert t.of_type("service_status") == [
        {"type": "service_status", "status": "initiating", "status_text": "Service Starting"},
        {"type": "service_status", "status": "in_progress_conversations_processing",
         "status_text": "Processing Conversations"},
        {"type": "service_status", "status": "stt_initiating", "status_text": "STT Service Starting"},
        {"type": "service_status", "status": "ready", "status_text": None}]
    session, = t.of_type("conversation_session")
    assert set(session) == {"type", "conversation_id", "status"} and session["status"] == "in_progress"
    assert UUID4.fullmatch(session["conversation_id"])
    until(lambda: t.pings >= 4, what="pings")


def test_ready_waits_for_speech_to_text_alone(start_daemon, deepgram, talker):
    deepgram.default = Mode(hang=True)
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled")
    t.conversation()
    until(lambda: t.pings >= 3, what="pings")
    assert t.statuses() == ["initiating", "in_progress_conversations_processing", "stt_initiating"]
    t.hang_up()
    until(lambda: deepgram.attempts and deepgram.attempts[-1].gone, what="the attempt to be given up")
    leaves_nothing(daemon)


QUERY_FAULTS = {
    "sample_rate=fast": "sample_rate", "sample_rate=": "sample_rate", "sample_rate=16000.5": "sample_rate",
    "sample_rate=99999999999999999999": "sample_rate", "channels=two": "channels", "channels=0": "channels",
    "conversation_timeout=soon": "conversation_timeout", "include_speech_profile=perhaps": "include_speech_profile",
    "language=%zz": "language", "source=%ff": "source", "custom_stt=7": "custom_stt",
}


def test_query_faults(start_daemon):
    daemon = start_daemon({})
    for query, name in QUERY_FAULTS.items():
        status, body = upgrade(daemon, query)  # without a token: this comes first
        assert status == 400 and name in json.dumps(body), (query, status, body)
    assert daemon.sessions() in (0, None)


def test_tokens(start_daemon):
    daemon = start_daemon({})
    key = daemon.admin_key
    wrong = [None, "", "Bearer", "Bearer ", "Bearer x", "Bearer " + key[:-1], "Bearer " + key, "Bearer " + key[:-2] + "x-me",
             "Bearer " + key.upper() + "me", "Basic " + key + "me", key + "me", "Bearer " + "x" * 4000]
    for token in wrong:
        status, body = upgrade(daemon, headers={} if token is None else {"Authorization": token})
        assert status == 403 and isinstance(body, dict) and body, (token, status, body)
    assert key not in daemon.log()


def test_uid_comes_from_the_token_alone(start_daemon, talker):
    daemon = start_daemon({})
    mine = talker(daemon, uid="alice", raw_query="custom_stt=enabled").conversation()
    again = talker(daemon, uid="alice", raw_query="custom_stt=enabled&uid=bob").conversation()
    other = talker(daemon, uid="bob", raw_query="custom_stt=enabled&uid=alice").conversation()
    assert mine == again != other


@pytest.mark.parametrize("query", [{"codec": "mp3"}, {"codec": ""}, {"codec": "PCM16"}, {"sample_rate": 7999},
                                   {"sample_rate": 48001}, {"sample_rate": -1}, {"sample_rate": 2 ** 62}], ids=str)
def test_codec_and_rate(start_daemon, talker, query):
    daemon = start_daemon({})
    t = talker(daemon, **query)
    t.ended(1003)
    assert t.close_reason and not t.messages
    leaves_nothing(daemon)


def test_languages(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    talker(daemon, custom_stt="disabled", language="xx-nowhere").ended(1008, "The language is not supported, xx-nowhere")
    talker(daemon, custom_stt="disabled", language="auto").wait_ready()
    assert deepgram.attempts[-1].query["language"] == ["multi"]
    talker(daemon, language="xx-nowhere").wait_ready()  # its own speech-to-text serves what it likes


def test_too_many_sessions(start_daemon, talker):
    daemon = start_daemon({"listen": {"max_sessions": 2}})
    a, b = talker(daemon).wait_ready(), talker(daemon).wait_ready()
    talker(daemon).ended(1013)
    a.hang_up()
    until(lambda: daemon.sessions() == 1, what="room")
    talker(daemon).wait_ready()
    assert not b.closed


def test_memory_budget(start_daemon, deepgram, talker):
    """Audio that waits counts. Beyond the budget new sessions are refused, the others keep what they have."""
    deepgram.default = Mode(hang=True)
    daemon = start_daemon({**with_deepgram(deepgram), "memory": {"sessions": "16MiB"}})
    waiting = [talker(daemon, custom_stt="disabled") for _ in range(3)]
    for t in waiting:
        for _ in range(6):
            t.send(b"\1\0" * 500000)
    until(lambda: daemon.status()["memory"]["used"] > 16 << 20, what=lambda: "memory: %s" % daemon.status()["memory"])
    talker(daemon).ended(1013)
    assert not any(t.closed for t in waiting)
    for t in waiting:
        t.hang_up()
    leaves_nothing(daemon)
    until(lambda: daemon.status()["memory"]["used"] < 1 << 20, what=lambda: "memory: %s" % daemon.status()["memory"])
    talker(daemon).wait_ready()


# ------------------------------------------------------------------------ what clients send


def test_small_and_odd_frames(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled").wait_ready()
    for frame in (b"", b"\1", b"\1\2"):
        t.send(frame)
    for _ in range(10):
        t.send(b"\x10\x20" * 400 + b"\x30")  # the odd byte is no sample, and does not shift the next frame
    stream, = deepgram.streams
    until(lambda: stream.audio >= 8000, what=lambda: "audio: %d" % stream.audio)
    assert stream.audio == 8000 and set(stream.values) == {0x2010}
    daemon.metric_is("omid_listen_audio_bytes_total", 8000)
    assert not t.closed


def test_pcm8_is_sixteen_bit_unless_told(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled", codec="pcm8").wait_ready()
    t.send(b"\x34\x12" * 800)
    until(lambda: deepgram.streams[0].audio == 1600, what="audio")
    assert set(deepgram.streams[0].values) == {0x1234}


def test_pcm8_unsigned(start_daemon, deepgram, talker):
    daemon = start_daemon({**with_deepgram(deepgram), "listen": {"pcm8": "u8"}})
    t = talker(daemon, custom_stt="disabled", codec="pcm8").wait_ready()
    t.send(b"\xff" * 800)
    until(lambda: deepgram.streams[0].audio == 1600, what="audio")
    assert set(deepgram.streams[0].values) == {127 * 256}


ODD_TEXTS = ["", " ", "{", "nonsense", "[]", "7", "null", '"keepalive"', "[" * 5000, '{"type":7}', '{"type":null}', "{}",
             '{"type":"no such type"}', '{"type":"suggested_transcript"} {}', '{"type":"x","a":' + "[" * 200 + "]" * 200 + "}"]


def test_texts_that_say_nothing(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon).wait_ready()
    for text in ODD_TEXTS:
        t.send(text)
    t.send({"type": "keepalive"})
    daemon.metric_is("omid_listen_messages_ignored_total", len(ODD_TEXTS))
    t.say("Still here.")
    t.heard("Still here.")


def test_wrong_types_in_suggestions(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon).wait_ready()
    for segments in (7, None, {}, "x", [7, None, "x", []], [{}], [{"text": 7, "start": 0, "end": 1}],
                     [{"text": "no", "start": "0", "end": "1"}], [{"text": "no", "start": -1, "end": 1}],
                     [{"text": "no", "start": 2, "end": 1}], [{"text": "no", "start": 1e300, "end": 1.1e300}],
                     [{"text": "", "start": 0, "end": 1}], [{"text": "no", "start": 0}]):
        t.send({"type": "suggested_transcript", "segments": segments})
    t.send({"type": "suggested_transcript", "stt_provider": 7, "segments": [
        {"text": "Yes.", "start": 1, "end": 2, "speaker": "me", "speaker_id": 10 ** 15, "is_user": "true"}]})
    t.heard("Yes.")
    segment, = t.segments.values()
    assert (segment["speaker"], segment["speaker_id"], segment["is_user"]) == ("SPEAKER_00", 0, False)


def test_names_that_are_cut(start_daemon, talker):
    """Names longer than is kept of them are cut at a character: the transcript, the store and omictl go on."""
    daemon = start_daemon(FLOOR)
    t = talker(daemon, language="\u00e9" * 40, source="x" + "\u00e9" * 40).wait_ready()
    for i, provider in enumerate(("\u00e9" * 40, "x" + "\u00e9" * 40)):
        t.send({"type": "suggested_transcript", "stt_provider": provider,
                "segments": [{"text": "Number %d." % i, "speaker": "SPEAKER_00", "start": 10 * i, "end": 10 * i + 1}]})
    t.heard("Number 0.")
    t.heard("Number 1.")
    assert {s["stt_provider"] for s in t.segments.values()} == {"\u00e9" * 15, "x" + "\u00e9" * 15}
    c = t.conversation()
    until(lambda: "Number 1." in stored_text(daemon, c), what="on disk")
    listed = subprocess.run([program("omictl"), "--socket", daemon.control, "--json", "sessions"], capture_output=True,
                            check=True, timeout=30 * SLOW)
    assert json.loads(listed.stdout)["sessions"][0]["language"] == "\u00e9" * 7
    t.send({"type": "suggested_transcript", "segments": [{"text": "a" * 300000, "start": 30, "end": 31}]})
    until(lambda: daemon.metric("omid_listen_messages_ignored_total") == 1, what="the one that is too long")
    assert not t.closed


def test_suggestions_without_custom_stt_are_ignored(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled").wait_ready()
    t.say("Not mine.")
    t.speak(0.6)
    t.heard("n1.")
    assert "Not mine" not in t.text()


def test_no_stream_is_opened_with_custom_stt(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon).wait_ready()
    t.speak(0.3)
    t.send({"type": "suggested_transcript", "stt_provider": "on-device", "segments": [
        {"text": "Said by the phone.", "speaker": "SPEAKER_02", "is_user": True, "start": 0.5, "end": 1.5}]})
    t.heard("Said by the phone.")
    segment, = t.segments.values()
    assert (segment["speaker"], segment["speaker_id"], segment["is_user"], segment["stt_provider"]) == (
        "SPEAKER_02", 2, True, "on-device")
    assert not deepgram.attempts


def test_inactivity(start_daemon, talker):
    """Any data frame is activity, a pong is none."""
    daemon = start_daemon({"listen": {"inactivity": "1500ms"}, "ingress": {"ping_interval": "1s"}})
    frames = {"keepalive": {"type": "keepalive"}, "unknown": {"type": "unknown"}, "bad": "{", "tiny": b"\0", "empty": b""}
    talkers = {name: talker(daemon).wait_ready() for name in frames}
    silent = talker(daemon).wait_ready()
    began = time.monotonic()
    while time.monotonic() - began < 3.5:
        for name, t in talkers.items():
            t.send(frames[name])
        time.sleep(0.2)
    assert not [name for name, t in talkers.items() if t.closed]
    assert silent.closed
    silent.ended(1001, "inactivity")
    for t in talkers.values():
        t.ended(1001, "inactivity")
    leaves_nothing(daemon)


# -------------------------------------------------------------------------- the transcript


def test_fields_of_a_segment(start_daemon, deepgram, talker):
    deepgram.default = Mode(words=lambda value, n: [("Hello", 1), ("there.", 1)])
    daemon = start_daemon(with_deepgram(deepgram))
    t = talker(daemon, custom_stt="disabled").wait_ready()
    t.speak(0.6)
    t.heard("Hello there.")
    segment = t.batches[0][0]
    assert set(segment) == FIELDS
    assert UUID4.fullmatch(segment["id"])
    assert (segment["speaker"], segment["speaker_id"]) == ("SPEAKER_01", 1)
    assert segment["is_user"] is False and segment["person_id"] is None and segment["translations"] == []
    assert segment["speech_profile_processed"] is True and segment["stt_provider"] == "dg-nova-3"
    assert segment["start"] == 0 and 0.4 < segment["end"] <= 0.6


def test_deleted_before_the_array(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    t = talker(daemon).wait_ready()
    t.say("So", 0, 1, speaker=0)
    t.heard("So")
    first, = t.segments
    t.say("we went to the market yesterday.", 1, 3, speaker=1)
    t.heard("market")
    assert t.text() == "So we went to the market yesterday."
    kinds = [(m["type"] if isinstance(m, dict) else "segments") for m in map(json.loads, (r for r in t.raw if r != "ping"))]
    assert kinds[-2:] == ["segments_deleted", "segments"]
    assert t.of_type("segments_deleted") == [{"type": "segments_deleted", "segment_ids": [first]}]
    until(lambda: stored_text(daemon, t.conversation()) == "So we went to the market yesterday.", what="the store")


def test_two_sessions_share_a_conversation(start_daemon, talker):
    daemon = start_daemon(FLOOR)
    a, b = talker(daemon, uid="shared").wait_ready(), talker(daemon, uid="shared").wait_ready()
    other = talker(daemon, uid="else").wait_ready()
    assert a.conversation() == b.conversation() != other.conversation()
    a.say("From the first.")
    b.heard("From the first.")
    b.say("From the second.", speaker=1)
    a.heard("From the second.")
    a.close()
    until(lambda: daemon.sessions() == 2, what="the first to leave")
    b.say("Alone now.", 5, speaker=2)
    b.heard("Alone now.")
    assert not other.segments


def test_text_comes_before_the_goodbye(start_daemon, talker):
    """What was understood and waits for its flush is told before a Close of ours."""
    daemon = start_daemon({"listen": {"inactivity": "1500ms", "transcript_flush": "30s"}})
    t = talker(daemon).wait_ready()
    t.conversation()
    t.say("Last words.")
    t.ended(1001, "inactivity")
    assert t.text() == "Last words."


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


# ---------------------------------------------------------------------------------- disk


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_full_disk(start_daemon, talker, tmp_path):
    state = tmp_path / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(state)], check=True)
    try:
        daemon = start_daemon({**FLOOR, "daemon": {"state_dir": state}})
        t = talker(daemon, uid="full").wait_ready()
        conversation = t.conversation()
        until(lambda: daemon.get("/readyz")[0] == 200, what="ready")
        with open(state / "filler", "wb", buffering=0) as filler:
            with pytest.raises(OSError):
                while True:
                    filler.write(b"\0" * 4096)
        said = 0
        while daemon.get("/readyz")[0] == 200:
            t.say("Sentence %d. %s" % (said, "x" * 2000), said, 0.5, speaker=said)
            t.heard("Sentence %d." % said)
            said += 1
            assert said < 500
        status, body = daemon.get("/readyz")
        assert status == 503 and "store" in body.decode() and "full" in body.decode(), body
        assert daemon.healthz() == 200
        t.say("While it is full.", said + 1, speaker=said)
        t.heard("While it is full.")
        late = talker(daemon, uid="late").wait_ready()  # begins without the store
        late.say("I came later.")
        late.heard("I came later.")
        os.unlink(state / "filler")
        until(lambda: daemon.get("/readyz")[0] == 200, what=lambda: "recovery: %s" % (daemon.get("/readyz"),))

        def stored(conversation):
            db = sqlite3.connect("file:%s?mode=ro" % (state / "store.db"), uri=True, timeout=5)
            try:
                return " ".join(r[0] for r in db.execute(
                    "SELECT s.text FROM segment s JOIN conversation c ON s.conversation = c.n WHERE c.id = ?"
                    " ORDER BY s.start, s.n", [conversation]))
            finally:
                db.close()

        until(lambda: stored(conversation).endswith("While it is full."), what="what was said meanwhile")
        assert stored(conversation).count("Sentence") == said
        until(lambda: stored(late.conversation()) == "I came later.", what="the late one")
        daemon.stop()
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_file_size_limit(start_daemon, talker):
    """Another way in which a disk says no; its signal must not end the daemon."""
    daemon = start_daemon({**FLOOR, "log": {"level": "error"}})
    t = talker(daemon).wait_ready()
    conversation = t.conversation()
    largest = max((daemon.dir / "state" / name).stat().st_size for name in os.listdir(daemon.dir / "state"))
    former = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    said = 0
    while daemon.get("/readyz")[0] == 200:
        t.say("Sentence %d. %s" % (said, "x" * 2000), said, 0.5, speaker=said)
        t.heard("Sentence %d." % said)
        said += 1
        assert said < 500
    assert daemon.running()
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, former)
    until(lambda: daemon.get("/readyz")[0] == 200, what="recovery")
    until(lambda: stored_text(daemon, conversation).count("Sentence") == said, what="all of it in the store")


# --------------------------------------------------------------------- starts that fail


def run_omid(tmp_path, text, *args):
    """(exit status, output) of an omid that does not start."""
    conf = tmp_path / "broken.conf"
    conf.write_text(text)
    done = subprocess.run([str(program("omid")), "-f", str(conf), *args], capture_output=True, text=True,
                          timeout=30 * SLOW)
    return done.returncode, done.stdout + done.stderr


def plain_conf(tmp_path, address="127.0.0.1:0", state=None, more=""):
    return ('daemon {\n  state_dir = "%s"\n  run_dir = "%s"\n}\ningress { address = { "%s" } }\n'
            'auth { admin_key = "a-key-for-scenarios-" }\n%s' % (state or tmp_path / "state", tmp_path / "run", address, more))


def test_state_directory_that_can_not_be(tmp_path):
    (tmp_path / "file").write_text("")
    status, out = run_omid(tmp_path, plain_conf(tmp_path, state=tmp_path / "file" / "state"))
    assert status == 1 and "daemon.state_dir" in out and "Not a directory" in out, (status, out)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a read-only file system")
def test_state_directory_that_is_read_only(tmp_path):
    state = tmp_path / "ro"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(state)], check=True)
    try:
        status, out = run_omid(tmp_path, plain_conf(tmp_path, state=state))
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert status == 1 and str(state) in out and "Read-only" in out, (status, out)


def test_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        status, out = run_omid(tmp_path, plain_conf(tmp_path, address=address))
    assert status == 1 and address in out and "in use" in out, (status, out)


def test_plugins_that_can_not_be_loaded(tmp_path, start_daemon):
    text = tmp_path / "text.so"
    text.write_text("no shared object\n")
    libc = next(p for p in ("/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6") if os.path.exists(p))
    for path, why in ((tmp_path / "missing.so", "No such file"), (text, ""), (libc, "omid_plugin")):
        block = 'plugin ghost {\n  path = "%s"\n  required = true\n}\n' % path
        status, out = run_omid(tmp_path, plain_conf(tmp_path, more=block))
        assert status == 78 and "broken.conf:7" in out and "ghost" in out and why in out, (status, out)
    daemon = start_daemon({"plugin ghost": {"path": tmp_path / "missing.so"}, "plugin echo": {}})
    assert daemon.logged("ghost") or "ghost" in daemon.log()
    assert "running" in json.dumps(daemon.status()["plugins"])


# ----------------------------------------------------------------------- slow readers


def flood(speaking, sentences, size, start=0):
    for i in range(start, start + sentences):
        speaking.say("Sentence %d. %s." % (i, "y" * size), i, 0.5, speaker=i % 2)


def test_a_client_that_never_reads(start_daemon, talker):
    daemon = start_daemon({"listen": {"down_buffer": "64KiB", "down_stall": "2s"}})
    deaf = talker(daemon, uid="one", kind=DeafTalker).wait_ready()
    speaking = talker(daemon, uid="one").wait_ready()
    deaf.stop_reading()
    said = 0
    while not daemon.metric("omid_listen_coalesced_total"):
        flood(speaking, 4, 8000, said)
        said += 4
        speaking.heard("Sentence %d." % (said - 1))
        assert said < 800
    speaking.heard("Sentence %d." % (said - 1))  # the others are served meanwhile
    until(lambda: daemon.sessions() == 1, 30, what="the deaf one to be closed")
    assert daemon.logged("closing.*1013")
    assert not speaking.closed and daemon.healthz() == 200
    speaking.say("Go on.", said + 10)
    speaking.heard("Go on.")


def test_a_client_that_sends_and_never_reads(start_daemon, talker):
    """Alive, with a window of zero: neither silence nor the kernel's limit ends it, but that nothing gets through."""
    settings = {"listen": {"down_buffer": "64KiB", "down_stall": "10min"}, "ingress": {"ping_interval": "200ms"}}
    daemon = start_daemon(settings)
    deaf = talker(daemon, uid="one", kind=DeafTalker).wait_ready()
    speaking = talker(daemon, uid="one").wait_ready()
    # Connected before: the kernel's own limit for what is not acknowledged stays longer than this.
    daemon.rewrite(merge(settings, {"ingress": {"receive_timeout": "2s"}}))
    done = subprocess.run([program("omictl"), "--socket", daemon.control, "reload"], capture_output=True, text=True,
                          timeout=60 * SLOW)
    assert done.returncode == 0, done
    deaf.stop_reading()
    said = most = 0
    while not daemon.metric("omid_listen_coalesced_total"):
        flood(speaking, 4, 8000, said)
        said += 4
        speaking.heard("Sentence %d." % (said - 1))
        deaf.send({"type": "keepalive"})
        assert said < 800

    def over():
        nonlocal most
        if daemon.sessions() == 1:
            return True
        deaf.send({"type": "keepalive"})
        most = max(most, daemon.status()["memory"]["used"])
        return False

    until(over, 12, what=lambda: "the deaf one's end\n" + daemon.log_tail(20))
    assert daemon.metric("omid_ingress_stalls_total") == 1
    assert daemon.metric("async_supervisor_exit_total", reason="disconnect") == 1
    assert not daemon.logged("closing.*1013") and most < 32 << 20, most
    assert not speaking.closed and daemon.healthz() == 200
    speaking.say("Go on.", said + 10)
    speaking.heard("Go on.")


def test_a_client_that_reads_late(start_daemon, talker):
    """Updates are merged meanwhile; in the end it has them all, also those of a conversation that has ended."""
    daemon = start_daemon({"listen": {"down_buffer": "64KiB", "conversation_timeout_floor": "2s"}})
    deaf = talker(daemon, uid="one", kind=DeafTalker, conversation_timeout=SHORT).wait_ready()
    speaking = talker(daemon, uid="one", conversation_timeout=SHORT).wait_ready()
    first = deaf.conversation()
    deaf.stop_reading()
    said = 0
    while not daemon.metric("omid_listen_coalesced_total"):
        flood(speaking, 4, 8000, said)
        said += 4
        speaking.heard("Sentence %d." % (said - 1))
        assert said < 800
    flood(speaking, 5, 8000, said)
    said += 5
    speaking.heard("Sentence %d." % (said - 1))
    speaking.conversation(2)
    deaf.read_on()
    deaf.heard("Sentence %d." % (said - 1))
    numbers = [int(n) for n in re.findall(r"Sentence (\d+)\.", deaf.text())]
    assert numbers == list(range(said))
    assert deaf.conversation(2) == speaking.conversation(2)
    kinds = [(m["type"] if isinstance(m, dict) else "segments") for m in map(json.loads, (r for r in deaf.raw if r != "ping"))]
    assert "segments" not in kinds[kinds.index("memory_processing_started"):]
    assert [m["memory"]["id"] for m in deaf.of_type("memory_processing_started")] == [first]
    assert not deaf.closed


# -------------------------------------------------------------------------- nothing left


def test_nothing_is_left(start_daemon, deepgram, talker):
    daemon = start_daemon(with_deepgram(deepgram))
    for i in range(16):  # each reactor once: what it opens at its first stream, it keeps
        talker(daemon, uid="warm%d" % i, custom_stt="disabled").wait_ready().close()
    upgrade(daemon)
    leaves_nothing(daemon)
    until(lambda: not deepgram.live(), what="the peer's streams to end")
    fds = daemon.fds()
    for i in range(10):
        upgrade(daemon, "sample_rate=x")
        upgrade(daemon, headers={"Authorization": "Bearer no"})
        talker(daemon, codec="mp3").ended(1003)
        talker(daemon, custom_stt="disabled", language="xx").ended(1008)
        a, b = talker(daemon, uid="pair"), talker(daemon, uid="pair", custom_stt="disabled")
        a.say("In passing.", i)
        b.speak(0.2, speed=10)
        a.hang_up() if i % 2 else a.close()
        b.close() if i % 2 else b.hang_up()
    leaves_nothing(daemon)
    until(lambda: not deepgram.live(), what="the peer's streams to end")
    until(lambda: daemon.fds() <= fds, what=lambda: "descriptors: %d at the start, now %d" % (fds, daemon.fds()))
    until(lambda: daemon.status()["memory"]["used"] == 0, what=lambda: "memory: %s" % daemon.status()["memory"])


# -------------------------------------------------------------------------------- omictl


def omictl(*args, daemon=None, status=0, timeout=60):
    environment = dict(os.environ)
    environment.pop("OMID_TOKEN", None)
    if daemon:
        environment["OMID_CONTROL"] = daemon.control
    done = subprocess.run([str(program("omictl")), *map(str, args)], capture_output=True, text=True,
                          timeout=timeout * SLOW, env=environment)
    assert done.returncode == status, (args, done.returncode, done.stdout, done.stderr)
    return done


def listen(daemon, *args, uid="ctl", **more):
    return omictl("listen", "--url", "ws://%s/v4/listen" % daemon.address, "--token", daemon.admin_key + uid, *args, **more)


@pytest.fixture
def recording(tmp_path):
    """Two seconds of one value, as a WAV file and as bare samples."""
    with wave.open(str(tmp_path / "voice.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(b"\x05\0" * 32000)
    (tmp_path / "voice.raw").write_bytes(b"\x05\0" * 32000)
    return tmp_path


def test_omictl_status_and_plugins(start_daemon, talker):
    daemon = start_daemon({"plugin echo": {}})
    talker(daemon).wait_ready()
    out = omictl("status", daemon=daemon).stdout
    assert daemon.address in out and "1 live" in out and "echo" in out
    for args in (("--json", "status"), ("status", "--json")):
        told = json.loads(omictl(*args, daemon=daemon).stdout)
        assert told["sessions"]["live"] == 1 and told["pid"] == daemon.process.pid
    assert "echo" in omictl("plugins", daemon=daemon).stdout
    plugin, = json.loads(omictl("plugins", "--json", daemon=daemon).stdout)["plugins"]
    assert plugin["name"] == "echo"
    daemon.stop()
    assert omictl("status", daemon=daemon, status=1).stderr


def test_omictl_usage(tmp_path):
    for args in ((), ("dance",), ("status", "now"), ("plugins", "all"), ("listen",), ("listen", "a", "b"), ("conf",),
                 ("conf", "check"), ("conf", "dance", "x"), ("receive",), ("receive", "--port", "x"),
                 ("receive", "--port", "70000"), ("listen", "--speed", "fast", "x"), ("listen", "--sessions", "0", "x"),
                 ("listen", "--raw", "x"), ("listen", "--no-such-option", "x"), ("--no-such-option",)):
        assert omictl(*args, status=2).stderr, args
    for command in ("status", "plugins", "conf", "listen", "receive"):
        assert command in omictl(command, "--help").stdout


def test_omictl_conf_check(start_daemon, tmp_path):
    daemon = start_daemon({})
    omictl("conf", "check", daemon.conf)
    broken = tmp_path / "broken.conf"
    broken.write_text('listen {\n  ping = 5\n}\n')
    done = omictl("conf", "check", broken, status=1)
    assert "broken.conf:2" in done.stdout + done.stderr and "ping" in done.stdout + done.stderr
    omictl("conf", "check", tmp_path / "missing.conf", status=1)


def test_omictl_listen(start_daemon, deepgram, recording):
    daemon = start_daemon(with_deepgram(deepgram))
    for args in (("voice.wav",), ("--raw", "--rate", "16000", "voice.raw")):
        done = listen(daemon, "--speed", "4", "--wait", "1", *args[:-1], recording / args[-1], uid="u" + args[-1])
        assert "v5 n4." in done.stdout and "sessions=1 failed=0" in done.stderr.splitlines()[-1]
    assert [s.audio for s in deepgram.streams] == [64000, 64000]
    done = listen(daemon, "--json", "--speed", "4", "--wait", "1", recording / "voice.wav", uid="json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["summary"]["failed"] == 0 and lines[-1]["summary"]["sessions"] == 1
    leaves_nothing(daemon)


def test_omictl_listen_many_and_abrupt(start_daemon, deepgram, recording):
    daemon = start_daemon(with_deepgram(deepgram))
    done = listen(daemon, "--sessions", "5", "--speed", "4", "--wait", "1", recording / "voice.wav")
    assert "sessions=5 failed=0" in done.stderr and len(deepgram.streams) == 5
    began = time.monotonic()
    listen(daemon, "--hangup-after", "0.5", recording / "voice.wav")
    assert time.monotonic() - began < 1.9 * SLOW
    leaves_nothing(daemon)
    assert daemon.logged("client left.*1006")


def test_omictl_listen_faults(start_daemon, deepgram, recording, tmp_path):
    daemon = start_daemon(with_deepgram(deepgram))
    (tmp_path / "no.wav").write_text("no WAV at all, though it says so")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((recording / "voice.wav").read_bytes()[:30])
    for name in ("no.wav", "empty.wav", "cut.wav", "missing.wav"):
        assert name in listen(daemon, tmp_path / name, status=1).stderr
    assert "403" in omictl("listen", "--url", "ws://%s/v4/listen" % daemon.address, "--token", "wrong",
                           recording / "voice.wav", status=1).stderr
    assert "400" in listen(daemon, "--query", "channels=many", recording / "voice.wav", status=1).stderr
    assert "1008" in listen(daemon, "--language", "xx", recording / "voice.wav", status=1).stderr
    deepgram.default = Mode(status=401)
    assert "1011" in listen(daemon, recording / "voice.wav", status=1).stderr
    leaves_nothing(daemon)


def test_omictl_receive(start_daemon, talker, tmp_path):
    ready = tmp_path / "receiver"
    out = open(tmp_path / "deliveries", "w+")
    receiver = subprocess.Popen([str(program("omictl")), "receive", "--json", "--port", "0", "--count", "1", "--ready-file",
                                 str(ready)], stdout=out, stderr=subprocess.STDOUT,
                                # h2o keeps its caches when a process ends
                                env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
    try:
        until(lambda: ready.exists() and ready.read_text().strip(), what="the receiver")
        address = ready.read_text().strip()
        url = address if address.startswith("http") else "http://" + address
        daemon = start_daemon({**FLOOR, "plugin webhooks": {"realtime_transcript": [url + "/transcript"]}})
        talker(daemon).wait_ready().say("To the receiver.")
        assert receiver.wait(20 * SLOW) == 0
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
    out.seek(0)
    assert "To the receiver." in out.read()


# ------------------------------------------------------------------------ real recognition


def test_sphinx(start_daemon, have_sphinx, speech, talker):
    if not have_sphinx:
        pytest.skip("built without sphinx")
    daemon = start_daemon({**FLOOR, "stt": {"models": ["sphinx"]}, "plugin sphinx": {"max_sessions": 1}})
    t = talker(daemon, custom_stt="disabled", sample_rate=16000, conversation_timeout=SHORT).wait_ready(60)
    busy = talker(daemon, custom_stt="disabled", sample_rate=16000)
    busy.ended(1013)
    failed, = [m for m in busy.of_type("service_status") if m["status"] == "stt_failed"]
    assert failed["outcome"] == "overloaded" and failed["retryable"] is True and failed["provider"] == "sphinx"
    t.play(speech)
    t.heard("go forward ten meters")
    until(lambda: t.of_type("memory_created"), 60, what="the memory")
    assert "go forward ten meters" in json.dumps(t.of_type("memory_created")[0]["memory"]).lower()
