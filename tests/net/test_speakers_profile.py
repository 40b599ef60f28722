"""The owner's profile: recordings that are uploaded, and those that are none."""
import http.client
import signal
import struct

from support.daemon import merge
from support.embedder import constant
from support.receiver import Answer
from support.speakers import RATE, embedder, questions, recording, request, talker, voices, with_speakers  # noqa: F401
from support.wait import holds, until


def wav(pcm, rate=RATE, channels=1, bits=16, kind=1, said=None):
    """A WAV file; said: the length that its header claims."""
    said = len(pcm) if said is None else said
    return b"RIFF" + struct.pack("<I", min(said + 36, 0xffffffff)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits) + b"data" + \
        struct.pack("<I", said) + pcm


def form(data, name="file", filename="voice.wav", boundary="xyz", end=True):
    return (b"--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\nContent-Type: audio/wav\r\n\r\n"
            % (boundary.encode(), name.encode(), filename.encode()) + data +
            (b"\r\n--%s--\r\n" % boundary.encode() if end else b""))


def upload(daemon, body, content_type="audio/wav", uid="ann"):
    return request(daemon, "POST", "/v1/speech-profile", uid, body, content_type)


def owner_words():
    """Six seconds of one man."""
    return recording("goforward.raw") + recording("numbers.raw")


def with_profile(peer, **speakers):
    return merge(with_speakers(peer, dict({"profile_min": "5s"}, **speakers)), {
        "plugin vad": {}, "ingress": {"max_body": "8MiB"}})


def test_profile(start_daemon, embedder, talker):
    daemon = start_daemon(with_profile(embedder))
    assert request(daemon, "GET", "/v1/speech-profile", "ann") == (200, {"has_profile": False, "samples": 0})
    assert request(daemon, "DELETE", "/v1/speech-profile", "ann")[0] == 404
    words = owner_words()
    status, said = upload(daemon, wav(words))
    assert status == 200 and said["has_profile"] and abs(said["seconds"] - len(words) / 32000) < 0.01, said
    assert 3 < said["speech_seconds"] <= said["seconds"]
    status, got = request(daemon, "GET", "/v1/speech-profile", "ann")
    assert got == {"has_profile": True, "created_at": said["created_at"], "samples": 0,
                   "speech_seconds": said["speech_seconds"]}
    assert request(daemon, "GET", "/v1/speech-profile", "eve")[1]["has_profile"] is False

    # The owner is recognised; a session that was there before the profile knows it, too.
    t = talker(daemon, "ann")
    mine = t.utter(recording("something.raw"), speaker=1)
    t.suggested()
    until(lambda: t.current(mine)["is_user"], what="the owner")
    t.utter(recording("-0930.wav"), speaker=2)
    until(lambda: questions(daemon, "nobody") == 1, what="somebody else")
    # Other formats, and a form, take the place of the former.
    stereo = b"".join(words[i:i + 2] * 2 for i in range(0, len(words), 2))
    samples_ = struct.unpack("<%dh" % (len(words) // 2), words)
    floats = struct.pack("<%df" % len(samples_), *(s / 32768 for s in samples_))
    repeated = b"".join(words[i:i + 2] * 12 for i in range(0, len(words), 2))  # 192 kHz
    for body, kind in ((wav(stereo, channels=2), "audio/x-wav"), (wav(floats, bits=32, kind=3), "audio/wave"),
                       (wav(repeated, rate=192000), "audio/wav"), (wav(words, said=0xffffffff), "audio/wav"),
                       (form(wav(words), filename="../../etc/passwd"), 'multipart/form-data; boundary="xyz"')):
        status, said = upload(daemon, body, kind)
        assert status == 200 and abs(said["seconds"] - len(words) / 32000) < 0.05, (kind, said)
    assert voices(daemon, "ann") == [("user", 1)]
    t.utter(recording("something.raw"), speaker=3)
    t.suggested(2)
    assert request(daemon, "DELETE", "/v1/speech-profile", "ann") == (204, None)
    nobody = questions(daemon, "nobody")
    failed = questions(daemon, "owner")
    holds(lambda: not t.utter(recording("something.raw"), speaker=3)["is_user"], 0.3)
    assert questions(daemon, "owner") == failed and questions(daemon, "nobody") == nobody  # there is nobody to compare with


def test_recordings_that_are_none(start_daemon, embedder):
    daemon = start_daemon(with_profile(embedder))
    words = owner_words()
    noise = bytes(range(256)) * 2000
    cases = [
        (b"", "audio/wav", 400, "file: it is empty"),
        (b"<html>", "audio/wav", 400, "file: not a RIFF file"),
        (wav(words), "text/plain", 415, "Content-Type: expected audio/wav"),
        (wav(words), "", 415, "Content-Type: expected audio/wav"),
        (wav(b""), "audio/wav", 400, "file: it holds no audio"),
        (wav(b"ab"), "audio/wav", 400, "file: 0.0 s of audio, at least 5 s"),
        (wav(words[:32000]), "audio/wav", 400, "file: 1.0 s of audio, at least 5 s"),
        (wav(words * 20, rate=8000), "audio/wav", 400, "at most 120 s"),
        (wav(words, said=len(words) * 2), "audio/wav", 400, "file: its header promises"),
        (wav(words, said=len(words) // 2), "audio/wav", 400, "file: its header promises"),
        (wav(words, channels=6), "audio/wav", 400, "file: 6 channels"),
        (wav(words, rate=4000), "audio/wav", 400, "file: a sample rate of 4000 Hz"),
        (wav(words, kind=85), "audio/wav", 400, "file: format 85"),
        (wav(b"\0\0\xc0\x7f" * RATE * 6, bits=32, kind=3), "audio/wav", 400, "file: sample 0 is not a number"),
        (wav(bytes(RATE * 12)), "audio/wav", 400, "file: it is silent"),
        (wav(struct.pack("<h", 32767) * RATE * 6), "audio/wav", 400, "file: it is clipped"),
        (wav(constant(1000, 6)), "audio/wav", 400, "s of speech"),
        (noise, "multipart/form-data; boundary=xyz", 400, "body: "),
        (form(wav(words)), "multipart/form-data", 400, "body: "),
        (form(wav(words), end=False), "multipart/form-data; boundary=xyz", 400, "body: "),
        (form(wav(words), name="other"), "multipart/form-data; boundary=xyz", 400, "file: none of the body's 1 parts"),
        (form(b""), "multipart/form-data; boundary=xyz", 400, "file: not a RIFF file"),
        (b"".join(form(b"x", end=False) + b"\r\n" for _ in range(10000)) + b"--xyz--\r\n",
         "multipart/form-data; boundary=xyz", 400, "body: "),
        (bytes(9 << 20), "audio/wav", 413, None),
    ]
    for body, kind, wanted, why in cases:
        try:
            status, said = upload(daemon, body, kind)
        except (ConnectionError, http.client.HTTPException):
            assert wanted == 413
            continue
        assert status == wanted and (why is None or why in said["error"]), (kind, status, said, why)
    assert not embedder.asked and daemon.healthz() == 200
    for answer, wanted in ((500, 503), (b"<html>", 503), (b"[0,0]", 503), (b"[1, NaN, 2]", 503), (b"[1e99, 1]", 503),
                           (b"[" + b"1," * 999999 + b"1]", 503), (422, 400), (429, 503)):
        embedder.on(answer)
        status, said = upload(daemon, wav(words))
        assert status == wanted and "voice" in said["error"], said
    assert voices(daemon, "ann") == []
    until(lambda: daemon.status()["sessions"]["memory_bytes"] == 0, what="all memory is given back")


def test_profile_while_the_hosted_vad_hangs(start_daemon, embedder, receiver):
    """Speech is looked for here when the service does not answer in time."""
    receiver.on("/detect", Answer(hang=True))
    settings = with_profile(embedder, profile_scan="300ms")
    settings["plugin vad"] = {"url": receiver.url("/detect")}
    daemon = start_daemon(settings)
    status, said = upload(daemon, wav(owner_words()))
    assert status == 200 and said["speech_seconds"] > 3, said
    assert len(receiver.at("/detect")) == 1 and voices(daemon, "ann") == [("user", 1)]
    status, said = upload(daemon, wav(constant(1000, 6)))
    assert status == 400 and "s of speech" in said["error"]


def test_profile_without_plugins(start_daemon, embedder):
    daemon = start_daemon({"listen": {"ping": "200ms"}})
    status, said = upload(daemon, b"x")
    assert status == 503 and "role embed" in said["error"]
    daemon.rewrite(with_speakers(embedder))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "role vad" in upload(daemon, b"x")[1]["error"], what="that speech can't be looked for")
