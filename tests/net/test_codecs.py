"""Compressed audio: what the provider gets is what was said, and what does not decode is dropped."""
import asyncio
import os
import random
import subprocess
import wave

import pytest

from support.aio import background
from support.codecs import Encoder, likeness
from support.daemon import merge, program
from support.deepgram import Mode
from support.settings import with_deepgram
from support.wait import SLOW, until

CODECS = ["opus", "opus_fs320", "aac", "lc3", "lc3_fs1030"]
# What comes before the first sample: look-ahead and priming, in samples at 16 kHz.
DELAY = {"opus": 400, "opus_fs320": 400, "aac": 2400, "lc3": 400, "lc3_fs1030": 400}


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    return Encoder(tmp_path_factory.mktemp("encoder"))


def stream_all(phone, packets, pause_every=50):
    """Far faster than real time; the daemon's buffers take it."""
    async def go():
        for i, packet in enumerate(packets):
            await phone.ws.send(packet)
            if i % pause_every == 0:
                await asyncio.sleep(0)
    background().run(go(), timeout=120)


def undecoded(daemon, codec, reason):
    return daemon.metric("omid_listen_undecoded_total", codec=codec, reason=reason) or 0


@pytest.mark.parametrize("codec", CODECS)
def test_speech(start_daemon, deepgram, phone, receiver, encoder, speech, codec):
    """The rate of the client's query is its own, but for aac, whose stream becomes what was asked for."""
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(merge(with_deepgram(deepgram), {"plugin webhooks": {
        "audio_bytes": [receiver.url("/audio") + ",1"]}}))
    asked = 16000 if codec == "aac" else 8000
    p = phone(daemon, codec=codec, sample_rate=asked).wait_ready()
    packets = encoder.packets(codec, 16000, speech)
    stream_all(p, packets)
    stream, = deepgram.streams
    want = len(packets) * {"opus": 160, "opus_fs320": 320, "aac": 1024, "lc3": 160, "lc3_fs1030": 160}[codec] * 2
    p.close()
    until(lambda: stream.closed, what="the stream's end")
    assert stream.audio == want and stream.attempt.query["sample_rate"] == ["16000"]
    assert likeness(speech, stream.pcm, DELAY[codec]) > 0.9
    heard = [s for s in p.segments.values()]
    assert all(0 <= s["start"] <= s["end"] <= want / 32000 + 0.01 for s in heard)
    # In any order, and when the receiver is slow not all of it: audio that comes late is of no use.
    until(lambda: receiver.at("/audio"), what="the audio's webhook")
    for d in receiver.at("/audio"):
        assert d.query["sample_rate"] == ["16000"] and d.body in stream.pcm
    daemon.metric_is("omid_listen_audio_bytes_total", want)
    assert undecoded(daemon, codec, "malformed") == 0 == undecoded(daemon, codec, "too_long")


def garbage(codec):
    rnd = random.Random(codec)
    if codec.startswith("opus"):
        # Code 3 with no frames; a frame longer than the packet; 1276 bytes of one frame; two frames of 60 ms.
        return [b"\xff\x00\x00", b"\x0a\xff\xff\xff", b"\x00" + bytes(1276), b"\xff\x03" + bytes(10)]
    if codec == "lc3":
        return [bytes(19), bytes(401), rnd.randbytes(1900), b"\x00\x01\x02"]
    if codec == "lc3_fs1030":
        return [bytes(29), bytes(31), bytes(1999), b"\x00\x01\x02"]
    return [bytes(3), bytes(700), bytes(range(128)) * 3, bytes(1999)]


@pytest.mark.parametrize("codec", CODECS)
def test_garbage_in_between(start_daemon, deepgram, phone, encoder, speech, codec):
    """Not one sample is another because of it."""
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(with_deepgram(deepgram))
    packets = encoder.packets(codec, 16000, speech)
    bad = garbage(codec)
    mixed = []
    for i, packet in enumerate(packets):
        mixed.append(packet)
        if i % 10 == 0:
            mixed += [bad[i // 10 % len(bad)], b"", b"\1", b"\1\2"]
    for sent in (packets, mixed):
        p = phone(daemon, codec=codec, sample_rate=16000).wait_ready()
        stream_all(p, sent)
        p.close()
        until(lambda: deepgram.streams[-1].closed, what="the stream's end")
        assert p.close_code == 1000
    clean, dirty = deepgram.streams
    assert clean.audio > 0 and clean.pcm == dirty.pcm
    dropped = undecoded(daemon, codec, "malformed") + undecoded(daemon, codec, "too_long")
    if codec == "aac":
        assert dropped > 0  # what lies between two frames is one, however many messages it came in
    else:
        assert dropped == (len(packets) + 9) // 10
    assert len(daemon.logged("audio that does not decode")) == 1


def test_long_opus_packets(start_daemon, deepgram, phone, encoder, speech):
    """20 ms as `opus` has no room, as in the Omi backend; 10 ms as `opus_fs320` has."""
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(with_deepgram(deepgram))
    long, short = encoder.packets("opus_fs320", 16000, speech), encoder.packets("opus", 16000, speech)
    p = phone(daemon, codec="opus").wait_ready()
    stream_all(p, long)
    until(lambda: undecoded(daemon, "opus", "too_long") == len(long), what="the packets to be dropped")
    assert daemon.logged("opus_fs320") and not p.closed and deepgram.streams[0].audio == 0
    stream_all(p, short)
    until(lambda: deepgram.streams[0].audio >= len(short) * 320 - 960, what="those that have room")
    q = phone(daemon, codec="opus_fs320").wait_ready()
    stream_all(q, short)
    until(lambda: deepgram.streams[1].audio >= len(short) * 320 - 960, what="short ones, too")
    assert undecoded(daemon, "opus_fs320", "too_long") == 0


def test_aac_becomes_the_session_s_rate(start_daemon, deepgram, phone, encoder, speech):
    """The stream says its own rate, which may change; its frames are cut anywhere."""
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, codec="aac", sample_rate=8000).wait_ready()
    data = b"".join(encoder.packets("aac", 16000, speech))
    cut = [data[i:i + 333] for i in range(0, len(data), 333)]
    stream_all(p, cut + encoder.packets("aac", 48000, speech * 3))
    p.close()
    stream, = deepgram.streams
    until(lambda: stream.closed, what="the stream's end")
    assert stream.attempt.query["sample_rate"] == ["8000"]
    seconds = 2 * len(speech) / 32000.0
    assert abs(stream.audio / 16000.0 - seconds) < 0.3, stream.audio / 16000.0
    slow = b"".join(speech[i:i + 2] for i in range(0, len(speech), 4))  # 8 kHz, if roughly
    assert likeness(slow, stream.pcm, 1500) > 0.8


def test_pcm8_u8(start_daemon, deepgram, phone):
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(merge(with_deepgram(deepgram), {"listen": {"pcm8": "u8"}}))
    p = phone(daemon, codec="pcm8").wait_ready()
    p.send(bytes([128, 0, 255, 129]) * 1000)
    stream = deepgram.streams[0]
    until(lambda: stream.audio == 8000, what=lambda: "audio: %d" % stream.audio)
    assert bytes(stream.pcm) == b"\x00\x00\x00\x80\x00\x7f\x00\x01" * 1000


@pytest.mark.parametrize("codec", ["opus", "aac"])
def test_a_packet_that_waits_is_decoded_once(start_daemon, deepgram, phone, encoder, speech, codec):
    """Speech-to-text is late, its buffer full, the client held back: in the end not one sample is another."""
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(merge(with_deepgram(deepgram, connect_timeout="1s"), {"listen": {"audio_buffer": "64KiB"}}))
    packets = encoder.packets(codec, 16000, speech * 4)
    p = phone(daemon, codec=codec, sample_rate=16000).wait_ready()
    for batch in range(0, len(packets), 50):
        stream_all(p, packets[batch:batch + 50])
    p.close()
    until(lambda: deepgram.streams[0].closed, what="the stream's end")
    deepgram.script(Mode(hang=True))
    late = phone(daemon, codec=codec, sample_rate=16000)
    until(lambda: len(deepgram.attempts) == 2, what="the attempt that hangs")
    sending = background().start(late_send(late, packets))
    late.wait_ready()
    sending.result(120)
    # What still waits when a client leaves is not awaited: it stays until all but the last few ms have gone through.
    want = deepgram.streams[0].audio
    until(lambda: deepgram.streams[1].audio > want - 1000, 60, lambda: "%d of %d" % (deepgram.streams[1].audio, want))
    late.close()
    until(lambda: len(deepgram.streams) == 2 and deepgram.streams[1].closed, what="the stream's end")
    assert deepgram.streams[0].pcm == deepgram.streams[1].pcm


async def late_send(phone, packets):
    for packet in packets:
        await phone.ws.send(packet)


def test_memory_is_given_back(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram))
    phones = [phone(daemon, codec=codec, sample_rate=16000).wait_ready() for codec in CODECS]
    assert daemon.status()["memory"]["used"] > 100000
    for p in phones:
        p.send(bytes(300))
        p.hang_up()
    until(lambda: daemon.sessions() == 0 and daemon.status()["memory"]["used"] == 0,
          what=lambda: "memory: %s" % daemon.status()["memory"])


@pytest.mark.parametrize("codec, rate", [("opus", 16000), ("opus_fs320", 44100)])
def test_omictl_sends_opus(start_daemon, deepgram, speech, tmp_path, codec, rate):
    deepgram.default = Mode(keep=True)
    daemon = start_daemon(with_deepgram(deepgram))
    with wave.open(str(tmp_path / "voice.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(rate)
        w.writeframes(speech)
    command = [str(program("omictl")), "listen", "--url", "ws://%s/v4/listen" % daemon.address, "--token",
               daemon.admin_key + "ctl", "--codec", codec, "--speed", "10", "--wait", "1", str(tmp_path / "voice.wav")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    stream, = deepgram.streams
    until(lambda: stream.closed, what="the stream's end")
    seconds = len(speech) / 2.0 / rate
    assert abs(stream.audio / 32000.0 - seconds) < 0.03 and stream.attempt.query["sample_rate"] == ["16000"]
    if rate == 16000:
        assert likeness(speech, stream.pcm, 400) > 0.9
    refused = subprocess.run(command[:-1] + ["--frame", "100", command[-1]], capture_output=True, text=True)
    assert refused.returncode == 2 and "--frame" in refused.stderr
