"""The gate in front of speech-to-text: what the provider gets, what it is asked, and when things were said."""
import json
import os
import re
import signal
import struct
from pathlib import Path

import pytest

from support.daemon import PREFIX, merge
from support.deepgram import Mode
from support.settings import with_deepgram
from support.wait import until

BUILD = os.environ.get("OMID_BUILD_TREE")
LOUDNESS = Path(BUILD or ".") / "tests/plugins/.libs/loudness.so"
loudness = pytest.mark.skipif(not LOUDNESS.exists(),
                              reason="needs the test plugins; set OMID_BUILD_TREE to a tree after make check")
RATE = 8000
VOICE, QUIET, FAULT = 9000, 1000, -32768  # to the plugin loudness
FIELDS = ["session_duration_sec", "speech_ratio", "chunks_total", "chunks_speech", "chunks_silence", "bytes_received",
          "bytes_sent", "finalize_count", "finalize_errors", "keepalive_count", "mode"]


def alternate(value, n):
    return [("n%d." % n, n % 2)]


def gated(peer, mode="active", **more):
    settings = with_deepgram(peer, keepalive="400ms")
    return merge(merge(settings, {"stt": {"gate": mode, "catch_up": 100}, "plugin loudness": {"path": LOUDNESS}}), more)


def seconds(stream, rate=RATE):
    return stream.audio / (2.0 * rate)


def hears(stream, expected):
    until(lambda: abs(seconds(stream) - expected) < 0.001, what=lambda: "%s s of audio, not %s" % (expected, seconds(stream)))


def phrases(phone, apart=2.0):
    """Where the transcript has pauses: [(start, end)]."""
    found = []
    for start, end in sorted({(s["start"], s["end"]) for batch in phone.batches for s in batch}):
        if found and start - found[-1][1] < apart:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def account(daemon):
    lines = until(lambda: daemon.logged("vad_gate: {"), what="the session's account")
    text = re.search(r"vad_gate: (\{.*\})", lines[-1]).group(1)
    found = json.loads(text)
    assert list(found) == FIELDS
    return found


@loudness
def test_active(start_daemon, deepgram, phone):
    daemon = start_daemon(gated(deepgram))
    # Words of different speakers stay apart, so that segments don't grow over the silence.
    deepgram.default = Mode(words=alternate)
    p = phone(daemon).wait_ready()
    p.speak(3.0, QUIET, speed=10)
    p.speak(1.2, VOICE, speed=10)
    p.speak(10.0, QUIET, speed=10)
    stream, = deepgram.streams
    hears(stream, 0.3 + 1.2 + 4.0)
    until(lambda: stream.kinds().count("KeepAlive") >= 2, what="KeepAlives in the silence")
    assert stream.kinds().count("Finalize") == 1
    p.speak(0.8, VOICE, speed=10)
    hears(stream, 5.5 + 0.3 + 0.8)
    until(lambda: phrases(p)[-1][1] > 12.1, what=lambda: "two results of the second phrase: %s" % phrases(p))
    p.close()
    until(lambda: stream.closed, what="the stream's end")
    assert stream.kinds().count("Finalize") == 1 and stream.kinds()[-1] == "CloseStream"
    assert stream.empty_frames == 0

    # Results of half a second each, told in the conversation's time, which begins with the first: 2.7 s of the session.
    first, second = phrases(p)
    assert first[0] == 0 and first[1] == pytest.approx(5.5, abs=0.01)
    assert second == (pytest.approx(13.9 - 2.7, abs=0.01), pytest.approx(14.9 - 2.7, abs=0.01))

    found = account(daemon)
    assert found["mode"] == "active" and found["chunks_total"] == 150 and found["chunks_speech"] == 20
    assert found["chunks_silence"] == 130 and found["speech_ratio"] == pytest.approx(20 / 150, abs=0.001)
    assert found["bytes_received"] == 15 * 2 * RATE and found["bytes_sent"] == stream.audio
    assert found["finalize_count"] == 1 and found["finalize_errors"] == 0
    assert found["keepalive_count"] == stream.kinds().count("KeepAlive")
    assert found["session_duration_sec"] > 1
    withheld = daemon.metric("omid_gate_audio_bytes_total", mode="active", fate="withheld")
    sent = daemon.metric("omid_gate_audio_bytes_total", mode="active", fate="sent")
    assert sent == stream.audio and sent + withheld == 15 * 2 * RATE
    daemon.metric_is("omid_gate_chunks_total", 20, mode="active", verdict="speech")
    daemon.metric_is("omid_gate_chunks_total", 130, mode="active", verdict="silence")


@loudness
def test_shadow(start_daemon, deepgram, phone):
    daemon = start_daemon(gated(deepgram, "shadow"))
    p = phone(daemon).wait_ready()
    p.speak(3.0, QUIET, speed=10)
    p.speak(1.0, VOICE, speed=10)
    p.speak(6.0, QUIET, speed=10)
    stream, = deepgram.streams
    hears(stream, 10.0)
    p.close()
    until(lambda: stream.closed, what="the stream's end")
    assert stream.kinds().count("Finalize") == 0
    found = account(daemon)
    assert found["mode"] == "shadow" and found["bytes_sent"] == found["bytes_received"] == 10 * 2 * RATE
    assert (found["chunks_total"], found["chunks_speech"]) == (100, 10)
    daemon.metric_is("omid_gate_audio_bytes_total", 5.3 * 2 * RATE, mode="shadow", fate="sent")
    daemon.metric_is("omid_gate_audio_bytes_total", (2.7 + 2.0 - 0.3) * 2 * RATE, mode="shadow", fate="withheld")


@loudness
@pytest.mark.parametrize("configured,asked,all_of_it", [
    ("off", "enabled", False), ("active", "disabled", True), ("off", None, True), ("active", None, False)])
def test_client_asks(start_daemon, deepgram, phone, configured, asked, all_of_it):
    daemon = start_daemon(gated(deepgram, configured))
    p = phone(daemon, **({"vad_gate": asked} if asked else {})).wait_ready()
    p.speak(2.0, QUIET, speed=10)
    p.speak(0.5, VOICE, speed=10)
    p.speak(0.5, QUIET, speed=10)
    hears(deepgram.streams[0], 3.0 if all_of_it else 1.3)


@loudness
def test_failing_voice_activity(start_daemon, deepgram, phone):
    """Everything is sent from then on, what was held included; the session notices nothing."""
    daemon = start_daemon(gated(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(2.0, QUIET, speed=10)
    p.speak(0.1, FAULT)
    p.speak(3.0, QUIET, speed=10)
    stream, = deepgram.streams
    hears(stream, 0.3 + 0.1 + 3.0)
    until(lambda: p.segments, what="a transcript")
    daemon.metric_is("omi_fallback_total", 1, component="vad_gate", from_mode="active", to_mode="off", reason="error")
    assert daemon.logged("the gate fails")
    p.close()
    assert account(daemon)["bytes_sent"] == stream.audio
    until(lambda: daemon.sessions() == 0, what="the session's end")
    assert not p.of_type("error") and p.close_code == 1000


@loudness
def test_voice_activity_that_refuses(start_daemon, deepgram, phone):
    daemon = start_daemon(gated(deepgram))
    p = phone(daemon, sample_rate=11025).wait_ready()
    p.speak(2.0, QUIET, speed=10)
    hears(deepgram.streams[0], 20 * 1102 / RATE)  # the last few samples wait for more
    daemon.metric_is("omi_fallback_total", 1, component="vad_gate", reason="open", to_mode="off")


def test_no_voice_activity(start_daemon, deepgram, phone):
    daemon = start_daemon(merge(with_deepgram(deepgram), {"stt": {"gate": "active"}}))
    p = phone(daemon).wait_ready()
    p.speak(2.0, QUIET, speed=10)
    hears(deepgram.streams[0], 2.0)
    daemon.metric_is("omi_fallback_total", 1, component="vad_gate", reason="no_plugin", to_mode="off")


# What the attempts of a session meet in turn; the last ones are served well.
LOSSES = {
    "reset": [dict(mute_after=2.1, drop_after=2.4)],
    "1011": [dict(mute_after=2.1, close_after=(2.4, 1011))],
    "close-behind-finalize": [dict(on_finalize="close")] * 2,
    "reset-behind-finalize": [dict(on_finalize="drop")] * 2,
    "next-provider": [dict(mute_after=2.1, drop_after=2.4), *[dict(status=500)] * 3],
}


@loudness
@pytest.mark.parametrize("loss", LOSSES)
def test_lost_under_the_gate(start_daemon, deepgram, phone, loss):
    """A stream breaks in the second phrase or behind a phrase's end: nothing is lost nor doubled, and times stay the
    session's."""
    modes = [Mode(every=0.1, words=alternate, **more) for more in LOSSES[loss]]
    deepgram.script(*modes)
    deepgram.default = Mode(every=0.1, words=alternate)
    daemon = start_daemon(gated(deepgram, stt={"gate_hangover": "500ms", "models": ["dg-nova-3", "dg-nova-2"]}))
    p = phone(daemon).wait_ready()
    p.speak(2.0, QUIET, speed=10)
    p.speak(1.2, VOICE, speed=10)  # 2.0 to 3.2: 1.7 to 3.7 is sent, 2.0 s
    p.speak(5.0, QUIET, speed=10)
    first = (0, pytest.approx(3.7 - 1.7, abs=0.01))
    until(lambda: phrases(p) == [first], what=lambda: "the first phrase: %s" % phrases(p))
    p.speak(1.2, VOICE, speed=10)  # 8.2 to 9.4: 7.9 to 9.9
    p.speak(3.0, QUIET, speed=10)
    second = (pytest.approx(7.9 - 1.7, abs=0.01), pytest.approx(9.9 - 1.7, abs=0.01))
    until(lambda: phrases(p) == [first, second], what=lambda: "both phrases: %s\n%s" % (phrases(p), daemon.log_tail(20)))
    until(lambda: len(deepgram.attempts) == len(modes) + 1, what="the last stream")
    p.close()
    until(lambda: deepgram.streams[-1].closed, what="the end")
    said = sorted(p.segments.values(), key=lambda s: s["start"])
    gaps = [b["start"] - a["end"] for a, b in zip(said, said[1:])]
    assert sorted(gaps)[-1] == pytest.approx(7.9 - 3.7, abs=0.01) and sum(abs(g) > 0.01 for g in gaps) == 1, said
    assert said[-1]["stt_provider"] == ("dg-nova-2" if loss == "next-provider" else "dg-nova-3")
    ends = [max(s["end"] for s in batch) for batch in p.batches]
    assert ends == sorted(ends), "time runs backwards: %s" % ends


@loudness
def test_each_channel_has_its_own(start_daemon, deepgram, phone):
    """The one that speaks is sent, the other is not; each has an account."""
    daemon = start_daemon(gated(deepgram))
    p = phone(daemon, channels=2, sample_rate=16000).wait_ready()
    for _ in range(30):
        for channel, value in ((1, VOICE), (2, QUIET)):
            p.send(bytes([channel]) + struct.pack("<h", value) * 1600)
    until(lambda: sorted(seconds(s, 16000) for s in deepgram.streams) == [0.0, 3.0], what="the one channel's audio")
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    lines = until(lambda: len(daemon.logged("vad_gate: {")) == 2 and daemon.logged("vad_gate: {"), what="both accounts")
    found = [json.loads(re.search(r"vad_gate: (\{.*\})", line).group(1)) for line in lines]
    assert sorted(f["bytes_sent"] for f in found) == [0, 96000] and {f["bytes_received"] for f in found} == {96000}


@loudness
def test_reload_changes_the_gate(start_daemon, deepgram, phone):
    settings = gated(deepgram, "off")
    daemon = start_daemon(settings)
    p = phone(daemon).wait_ready()
    p.speak(1.0, QUIET, speed=10)
    stream, = deepgram.streams
    hears(stream, 1.0)
    daemon.rewrite(merge(settings, {"stt": {"gate": "active", "gate_preroll": "500ms"}}))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == 1, what="the reload")
    p.speak(2.0, QUIET, speed=10)
    p.speak(0.5, VOICE, speed=10)
    hears(stream, 1.0 + 0.5 + 0.5)
    daemon.rewrite(merge(settings, {"stt": {"gate": "off"}}))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == 2, what="the second reload")
    p.speak(6.0, QUIET, speed=10)
    hears(stream, 1.0 + 0.5 + 0.5 + 6.0)
    assert not p.closed


@loudness
def test_voice_activity_is_removed_and_comes_back(start_daemon, deepgram, phone):
    """A session keeps its engine until it ends; a session without one gets it at the next reload."""
    settings = gated(deepgram)
    without = {k: v for k, v in settings.items() if k != "plugin loudness"}
    daemon = start_daemon(without)
    p = phone(daemon).wait_ready()
    p.speak(1.0, QUIET, speed=10)
    stream, = deepgram.streams
    hears(stream, 1.0)
    daemon.rewrite(settings)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == 1, what="the reload")
    p.speak(2.0, QUIET, speed=10)
    p.speak(0.1, VOICE, speed=10)
    hears(stream, 1.4)
    daemon.rewrite(without)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == 2, what="the second reload")
    p.speak(6.0, QUIET, speed=10)
    hears(stream, 1.4 + 4.0)
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    assert not daemon.logged("engines left open")


def test_speech(start_daemon, deepgram, phone, speech):
    """The real plugin on a real voice: silence is withheld, the words are not."""
    if not (PREFIX / "lib/omid/plugins/vad.so").exists():
        pytest.skip("built without the plugin vad")
    deepgram.default = Mode(every=0.1)
    daemon = start_daemon(merge(with_deepgram(deepgram), {"stt": {"gate": "active"}, "plugin vad": {}}))
    p = phone(daemon, sample_rate=16000).wait_ready()
    silence = bytes(2 * 16000)
    p.play(silence * 5 + speech + silence * 10, speed=10)
    stream, = deepgram.streams
    length = len(speech) / 32000
    until(lambda: "Finalize" in stream.kinds() and seconds(stream, 16000) > 4.0 + 1.0, what="the voice and its hangover")
    p.close()
    until(lambda: stream.closed, what="the stream's end")
    found = account(daemon)
    assert found["finalize_count"] == stream.kinds().count("Finalize") == 1
    assert 4.3 + 0.5 * length <= seconds(stream, 16000) <= 4.3 + length
    assert found["bytes_sent"] == stream.audio < found["bytes_received"] * 0.5
    samples = struct.unpack("<%dh" % (len(speech) // 2), speech)
    loud = [i / 16000 for i, s in enumerate(samples) if abs(s) > 2000]
    assert seconds(stream, 16000) >= 4.3 + loud[-1] - loud[0], "nothing of the voice is missing"
    assert 10 * found["chunks_speech"] >= 0.75 * 100 * (loud[-1] - loud[0])
