"""Multi-channel sessions: a stream of speech-to-text for each channel, one conversation, mixed audio for consumers."""
import json
import re
import struct

import pytest

from support.aio import background
from support.codecs import Encoder, likeness
from support.daemon import merge
from support.deepgram import Mode
from support.settings import with_deepgram
from support.store import rows, status_of
from support.wait import holds, until

MIC, REMOTE = 1, 2


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return Encoder(tmp_path_factory.mktemp("encoder"))


def value(v, ms, rate=16000):
    return struct.pack("<h", v) * (rate * ms // 1000)


def send(phone, channel, data):
    phone.send(bytes([channel]) + data)


async def _talk(phone, frames):
    for channel, data in frames:
        await phone.ws.send(bytes([channel]) + data)


def talk(phone, frames):
    """(channel, data) ..."""
    background().run(_talk(phone, list(frames)), timeout=120)


def both(a, b, ms, rate=16000):
    """So many ms in frames of 100, side by side."""
    return [(channel, value(v, 100, rate)) for _ in range(ms // 100) for channel, v in ((MIC, a), (REMOTE, b))]


def conversation_of(phone):
    until(lambda: phone.of_type("conversation_session"), what="the conversation")
    return phone.of_type("conversation_session")[0]["conversation_id"]


def test_two_streams(start_daemon, deepgram, phone, receiver):
    daemon = start_daemon(merge(with_deepgram(deepgram, keyterms=["omid", "nova"]), {"plugin webhooks": {
        "audio_bytes": [receiver.url("/audio") + ",1"]}}))
    # 8 kHz of the client's is 16 kHz to providers and consumers.
    p = phone(daemon, channels=2, sample_rate=8000, codec="pcm16", call_id="call-1").wait_ready()
    assert p.statuses() == ["initiating", "in_progress_conversations_processing", "stt_initiating", "ready"]
    assert len(deepgram.streams) == 2
    for s in deepgram.streams:
        assert s.attempt.query["sample_rate"] == ["16000"] and s.attempt.query["channels"] == ["1"]
        assert s.attempt.query["multichannel"] == ["false"] and "keyterm" not in s.attempt.query
    for channel in (0, 3, 255):
        send(p, channel, value(77, 100, 8000))
    send(p, MIC, b"")
    p.send(b"\1\2")
    talk(p, both(1000, 300, 4000, 8000))
    until(lambda: sum(s.results for s in deepgram.streams) >= 14, what="results")
    until(lambda: len(p.segments) >= 2 and p.text().count("n7.") == 2, what=lambda: "the transcript: " + p.text())
    p.close()
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), what="the end")
    assert {s.audio for s in deepgram.streams} <= set(range(127900, 128001))  # the filter keeps its last millisecond
    told = {(s["speaker"], s["speaker_id"], s["is_user"]) for s in p.segments.values()}
    assert told == {("SPEAKER_00", 0, True), ("SPEAKER_01", 1, False)}
    for s in p.segments.values():  # each says what was on its channel
        for heard in re.findall(r"v(-?\d+)", s["text"])[1:]:
            assert abs(int(heard) - (1000 if s["is_user"] else 300)) < 30, s
    until(lambda: receiver.at("/audio"), what="mixed audio")
    for d in receiver.at("/audio"):
        assert d.query["sample_rate"] == ["16000"]
        mixed = struct.unpack("<%dh" % (len(d.body) // 2), d.body)
        assert 1250 < sorted(mixed)[len(mixed) // 2] < 1350  # the sum
    assert daemon.metric("omid_listen_unknown_channels_total") == 3
    assert daemon.metric("omid_listen_mix_rejoins_total") == 0


def test_mix_is_clamped_and_whole(start_daemon, deepgram, phone, receiver):
    daemon = start_daemon(merge(with_deepgram(deepgram), {"plugin webhooks": {
        "audio_bytes": [receiver.url("/audio") + ",1"]}}))
    p = phone(daemon, channels=2, sample_rate=16000).wait_ready()
    whole = b""
    # One by one: what waits too long for the receiver gives way to what is newer.
    for n, (a, b, mix) in enumerate([(20000, 20000, 32767), (-20000, -20000, -32768), (20000, -5000, 15000)]):
        talk(p, both(a, b, 1100))
        whole += value(mix, 1100)
        until(lambda: sum(len(d.body) for d in receiver.at("/audio")) >= 32000 * (n + 1), what="mixed audio")
    mixed = b"".join(d.body for d in receiver.at("/audio"))
    assert len(mixed) >= 3 * 32000 and whole.startswith(mixed)


@pytest.mark.parametrize("silent", [MIC, REMOTE])
def test_one_channel_is_silent(start_daemon, deepgram, phone, receiver, silent):
    daemon = start_daemon(merge(with_deepgram(deepgram), {"plugin webhooks": {
        "audio_bytes": [receiver.url("/audio") + ",1"]}}))
    p = phone(daemon, channels=2, sample_rate=16000).wait_ready()
    speaking = MIC + REMOTE - silent
    talk(p, [(speaking, value(500, 100)) for _ in range(45)])
    # It is waited for, a second; then the mix goes on without it.
    until(lambda: receiver.at("/audio"), what="mixed audio")
    assert all(value(500, 5000).startswith(d.body) for d in receiver.at("/audio"))
    # Back again, it is heard beside what comes now, and its words are told at their time.
    talk(p, [(c, value(v, 100)) for _ in range(20) for c, v in ((speaking, 500), (silent, 40))])
    until(lambda: any(value(540, 500) in d.body for d in receiver.at("/audio")), what="both in the mix")
    until(lambda: len({s["speaker"] for s in p.segments.values()}) == 2, what="both speakers")
    late, = [s for s in p.segments.values() if "v40" in s["text"]][:1]
    assert abs(late["start"] - 4.5) < 0.25, late
    assert late["is_user"] == (silent == MIC) and daemon.metric("omid_listen_mix_rejoins_total") == 0
    talk(p, [(speaking, value(500, 100)) for _ in range(20)] + [(silent, value(40, 100))])
    until(lambda: daemon.metric("omid_listen_mix_rejoins_total") == 1, what="the channel to join again")


def test_compressed(start_daemon, deepgram, phone, encoder, speech):
    """Each channel has a decoder of its own."""
    deepgram.default = Mode(keep=True, every=10)
    daemon = start_daemon(with_deepgram(deepgram))
    backwards = b"".join(speech[i:i + 2] for i in range(len(speech) - 2, -2, -2))
    ours, theirs = encoder.packets("opus", 16000, speech), encoder.packets("opus", 16000, backwards)
    alone = phone(daemon, codec="opus").wait_ready()
    background().run(_raw(alone, ours), timeout=60)
    alone.close()
    until(lambda: deepgram.streams[0].closed, what="the stream's end")
    p = phone(daemon, codec="opus", channels=2).wait_ready()
    talk(p, [f for pair in zip(ours, theirs) for f in ((MIC, pair[0]), (REMOTE, pair[1]))])
    p.close()
    until(lambda: len(deepgram.streams) == 3 and not deepgram.live(), what="the streams' end")
    a, b = deepgram.streams[1:]
    if a.pcm != deepgram.streams[0].pcm:
        a, b = b, a
    assert a.pcm == deepgram.streams[0].pcm
    assert likeness(backwards, b.pcm, 400) > 0.9


async def _raw(phone, packets):
    for packet in packets:
        await phone.ws.send(packet)


def test_ready_when_all_are(start_daemon, deepgram, phone):
    deepgram.script(Mode(), Mode(hang=True))
    daemon = start_daemon(with_deepgram(deepgram, connect_timeout="1500ms"))
    p = phone(daemon, channels=2)
    until(lambda: deepgram.streams and len(deepgram.attempts) == 2, what="the first of both")
    holds(lambda: not p.ready(), 0.5, "ready with one of two")
    p.wait_ready()
    assert len(deepgram.live()) == 2 and p.statuses().count("ready") == 1


def test_failure_of_one_ends_the_session(start_daemon, deepgram, phone):
    deepgram.script(Mode(), Mode(status=401))
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, channels=2)
    until(lambda: p.closed, what="the end")
    assert p.close_code == 1011 and p.statuses().count("stt_failed") == 1
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), what="nothing to be left")
    until(lambda: daemon.status()["memory"]["used"] == 0, what=lambda: "memory: %s" % daemon.status()["memory"])


def test_gone_while_one_is_opening(start_daemon, deepgram, phone):
    """What the other channel has said is transcribed and processed; nothing waits for a provider that never comes."""
    deepgram.script(Mode(), Mode(hang=True))
    daemon = start_daemon(with_deepgram(deepgram, connect_timeout="60s"))
    p = phone(daemon, channels=2, sample_rate=16000)
    c = conversation_of(p)
    until(lambda: deepgram.streams and len(deepgram.attempts) == 2, what="the first of both")
    talk(p, both(1000, 300, 1700))
    until(lambda: deepgram.streams[0].audio >= 1.7 * 32000 - 960, what="the audio of one")
    p.hang_up()
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), 10, what="the end")
    assert deepgram.attempts[1].gone or until(lambda: deepgram.attempts[1].gone, what="the attempt is given up")
    until(lambda: status_of(daemon, c) == 2, what="the processing")
    (text,), = rows(daemon, "SELECT group_concat(text, ' ') FROM segment")
    assert re.findall(r"n(\d+)\.", text) == ["1", "2", "3", "4"]
    until(lambda: daemon.status()["memory"]["used"] == 0, what=lambda: "memory: %s" % daemon.status()["memory"])


@pytest.mark.parametrize("broken", [Mode(drop_after=1.2), Mode(close_after=(1.2, 1011))], ids=["reset", "closed"])
def test_one_is_lost_and_goes_on(start_daemon, deepgram, phone, broken):
    """The clock of each goes on: nothing is said twice, and both end when the audio does."""
    deepgram.script(Mode(), broken)
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, channels=2, sample_rate=16000).wait_ready()
    talk(p, [f for i in range(10) for f in both(1000 + i, 2000 + i, 500)])
    until(lambda: len(deepgram.streams) == 3 and sum(s.results for s in deepgram.streams) >= 20, what="all results")
    until(lambda: p.text().count("n") >= 20, what=lambda: p.text())
    for speaker, base in (("SPEAKER_00", 1000), ("SPEAKER_01", 2000)):
        said = sorted((s for s in p.segments.values() if s["speaker"] == speaker), key=lambda s: s["start"])
        heard = [int(v) for s in said for v in re.findall(r"v(\d+)", s["text"])]
        assert heard == [base + i for i in range(10)], said
        assert said[0]["start"] < 0.1 and 4.9 < said[-1]["end"] < 5.1, said
        assert all(a["end"] <= b["start"] for a, b in zip(said, said[1:])), said
    assert p.statuses().count("ready") == 1 and not p.closed


def test_each_has_a_provider_of_its_own(start_daemon, deepgram, phone):
    """One is refused and gives way to the next of the list; the table names both."""
    deepgram.script(Mode(), Mode(status=401))
    daemon = start_daemon(with_deepgram(deepgram, models=["dg-nova-3", "dg-nova-2"]))
    p = phone(daemon, channels=2, sample_rate=16000).wait_ready()
    row, = json.loads(daemon.get_control("/v1/admin/sessions")[1])["sessions"]
    assert sorted(row["provider"].split(",")) == ["dg-nova-2", "dg-nova-3"]
    talk(p, both(1000, 300, 1000))
    until(lambda: p.text().count("n2.") == 2, what=lambda: p.text())
    assert {s["stt_provider"] for s in p.segments.values()} == {"dg-nova-2", "dg-nova-3"}


def test_capacity_is_for_both(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram, streams=1))
    p = phone(daemon, channels=2)
    until(lambda: p.closed, what="the end")
    assert p.close_code == 1013 and p.statuses().count("stt_failed") == 1
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), what="nothing to be left")


@pytest.mark.parametrize("way", ["close", "hang_up"])
def test_processed_at_the_disconnect(start_daemon, deepgram, phone, receiver, way):
    """Whatever its timeout; one of a single channel stays open."""
    daemon = start_daemon(merge(with_deepgram(deepgram), {"plugin webhooks": {
        "memory_created": [receiver.url("/memory")]}}))
    p = phone(daemon, uid="caller", channels=2, sample_rate=16000, conversation_timeout=120,
              call_id="call-7").wait_ready()
    conversation = conversation_of(p)
    talk(p, both(1000, 300, 1500))
    until(lambda: len({s["speaker"] for s in p.segments.values()}) == 2, what="both speakers")
    timeout, call_id = rows(daemon, "SELECT timeout, call_id FROM conversation WHERE id = ?", conversation)[0]
    assert timeout == 14400 * 1000 and call_id == "call-7"
    getattr(p, way)()
    until(lambda: status_of(daemon, conversation) == 2, what=lambda: "completed: %s" % status_of(daemon, conversation))
    until(lambda: receiver.at("/memory"), what="the webhook")
    memory = receiver.at("/memory")[0].json
    told = {(s["speaker"], s["is_user"]) for s in memory["transcript_segments"]}
    assert told == {("SPEAKER_00", True), ("SPEAKER_01", False)}
    # The last words, which come after the client has gone, are part of it.
    assert memory["id"] == conversation and memory["call_id"] == "call-7" and "n3." in " ".join(s["text"] for s in memory["transcript_segments"])
    again = phone(daemon, uid="caller", channels=2).wait_ready()
    assert conversation_of(again) != conversation
    nothing = conversation_of(again)
    again.close()
    until(lambda: status_of(daemon, nothing) is None, what="the empty one to go")
    single = phone(daemon, uid="caller", sample_rate=16000).wait_ready()
    open_one = conversation_of(single)
    single.speak(1.0, speed=10)
    until(lambda: single.segments, what="segments")
    single.close()
    until(lambda: daemon.sessions() == 0, what="the end")
    holds(lambda: status_of(daemon, open_one) == 0, 0.5, "still open")


def test_another_session_speaks_on(start_daemon, deepgram, phone):
    """A conversation that two sessions share does not end with the call."""
    daemon = start_daemon(with_deepgram(deepgram))
    single = phone(daemon, uid="pair", sample_rate=16000).wait_ready()
    shared = conversation_of(single)
    call = phone(daemon, uid="pair", channels=2, sample_rate=16000).wait_ready()
    assert conversation_of(call) == shared
    talk(call, both(1000, 300, 1000))
    until(lambda: len({s["speaker"] for s in call.segments.values()}) == 2, what="both speakers")
    call.close()
    until(lambda: daemon.sessions() == 1, what="the call's end")
    holds(lambda: status_of(daemon, shared) == 0, 0.5, "still open")
    assert not single.closed


def test_custom_stt(start_daemon, phone, receiver):
    daemon = start_daemon({"plugin webhooks": {"audio_bytes": [receiver.url("/audio") + ",1"]}})
    p = phone(daemon, channels=8, sample_rate=16000, custom_stt="enabled").wait_ready()
    talk(p, both(10, 20, 2500))
    until(lambda: receiver.at("/audio"), what="mixed audio")
    assert all(value(30, 3000).startswith(d.body) for d in receiver.at("/audio"))
