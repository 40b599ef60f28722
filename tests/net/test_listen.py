"""The listen protocol, from the first ping on: how a session starts, what clients send, what they are told."""
import http.client
import json
import subprocess
import time

import pytest

from support.daemon import program
from support.deepgram import Mode
from support.settings import with_deepgram
from support.talker import FLOOR, SHORT, UUID4, leaves_nothing, stored_text, talker  # noqa: F401
from support.wait import SLOW, until

FIELDS = {"id", "text", "speaker", "speaker_id", "is_user", "person_id", "start", "end", "translations",
          "speech_profile_processed", "stt_provider"}


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
