"""Recordings made offline: uploaded, transcribed and merged into conversations."""
import hashlib
import http.client
import json
import struct
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from support.admin import Admin
from support.codecs import Encoder
from support.daemon import ADMIN_KEY, merge
from support.receiver import Answer
from support.settings import KEY
from support.wait import until

NOON = 1767268800  # 2026-01-01 12:00:00 UTC


def wav(pcm, rate=16000, channels=1, bits=16, kind=1, length=None):
    size = len(pcm) if length is None else length
    block = channels * bits // 8
    return (b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " +
            struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * block, block, bits) + b"data" +
            struct.pack("<I", size) + bytes(pcm))


def tone(seconds, rate=16000):
    """Nothing that is speech."""
    return struct.pack("<%dh" % int(seconds * rate), *(6000 if i // 40 % 2 else -6000 for i in range(int(seconds * rate))))


def form(files, boundary="xXxboundaryxXx"):
    """(file name, content, start or None) each."""
    out = b""
    for name, content, start in files:
        if start is not None:
            out += b'--%s\r\nContent-Disposition: form-data; name="start"\r\n\r\n%s\r\n' % (boundary.encode(), str(start).encode())
        out += (b'--%s\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n'
                b'Content-Type: application/octet-stream\r\n\r\n%s\r\n' % (boundary.encode(), name.encode(), content))
    return out + b"--" + boundary.encode() + b"--\r\n", "multipart/form-data; boundary=" + boundary


def ask(daemon, method, path, uid="ann", body=None, kind=None, address=None):
    host, port = (address or daemon.address).rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    headers = {"Authorization": "Bearer " + ADMIN_KEY + uid}
    if kind:
        headers["Content-Type"] = kind
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else None
    finally:
        connection.close()


def upload(daemon, files, uid="ann", query="", expect=202, address=None):
    body, kind = form(files)
    status, answer = ask(daemon, "POST", "/v1/sync-local-files" + query, uid, body, kind, address)
    assert status == expect, (status, answer)
    return answer


def finished(daemon, job, uid="ann"):
    def over():
        status, answer = ask(daemon, "GET", "/v1/sync-jobs/" + job["id"], uid)
        assert status == 200
        return answer if answer["status"] != "processing" else None
    return until(over, 60, lambda: "the job: %s" % (ask(daemon, "GET", "/v1/sync-jobs/" + job["id"], uid),))


def conversations(daemon, uid="ann"):
    return ask(daemon, "GET", "/v1/conversations", uid)[1]


def completed(daemon, n, uid="ann"):
    return until(lambda: [c for c in [conversations(daemon, uid)] if len(c) == n and
                          all(x["status"] == "completed" for x in c)], 30,
                 lambda: "%d completed: %s" % (n, [(c["id"], c["status"]) for c in conversations(daemon, uid)]))[0]


def transcript(*words):
    """What Deepgram answers: (word, start, end, speaker) each."""
    said = [{"word": w.lower(), "punctuated_word": w, "start": a, "end": b, "confidence": 0.9, "speaker": s}
            for w, a, b, s in words]
    return json.dumps({"metadata": {"request_id": "r"}, "results": {"channels": [
        {"detected_language": "en", "alternatives": [{"transcript": " ".join(w[0] for w in words), "confidence": 0.9,
                                                      "words": said}]}]}}).encode()


@pytest.fixture
def settings(receiver):
    receiver.on("/v1/listen", Answer(body=transcript(("Hello", 0.1, 0.5, 0), ("there.", 0.5, 0.9, 0))))
    return {"stt": {"models": ["dg-nova-3"]}, "sync": {"check": "50ms", "retry": "20ms", "attempts": 3},
            "store": {"sweep": "100ms"}, "ingress": {"max_body": "8MiB"},
            "plugin deepgram": {"url": receiver.url(""), "key": KEY, "backoff": "20ms", "breaker": {"failures": 1000}}}


def left(daemon):
    folder = Path(daemon.dir) / "state/sync"
    return sorted(f.name for f in folder.iterdir()) if folder.exists() else []


def test_deepgram(start_daemon, settings, receiver):
    """The request field by field, the segments in absolute time, and the same recording twice."""
    d = start_daemon(settings)
    content = wav(tone(2))
    job = upload(d, [("../../etc/rec.wav", content, NOON)], query="?language=en")
    assert job["status"] in ("processing", "completed") and job["files"][0]["name"] == "rec.wav"
    assert job["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    done = finished(d, job)
    assert done["status"] == "completed" and done["files"][0]["status"] == "done"
    assert done["files"][0]["seconds"] == 2 and done["files"][0]["start"].startswith("2026-01-01T12:00:00")
    sent, = receiver.at("/v1/listen")
    assert sent.method == "POST" and sent.headers["content-type"] == "audio/wav"
    assert sent.headers["authorization"] == "Token " + KEY
    assert sent.query == {"model": ["nova-3"], "language": ["multi"], "smart_format": ["true"], "punctuate": ["true"],
                          "diarize": ["true"], "utterances": ["true"]}
    assert sent.body[:4] == b"RIFF" and sent.body[44:] == tone(2) and sent.body[22:28] == struct.pack("<HI", 1, 16000)
    c, = completed(d, 1)
    assert c["id"] in done["files"][0]["conversation_ids"]
    assert c["started_at"].startswith("2026-01-01T12:00:00.1") and c["finished_at"].startswith("2026-01-01T12:00:00.9")
    whole = ask(d, "GET", "/v1/conversations/" + c["id"])[1]
    segment, = whole["transcript_segments"]
    assert segment["text"] == "Hello there." and segment["start"] == 0 and segment["end"] == 0.8
    assert segment["stt_provider"] == "dg-nova-3" and segment["speaker"] == "SPEAKER_00"
    # Once more, under another name: nothing is done again.
    again = finished(d, upload(d, [("other.wav", content, NOON)]))
    assert again["files"][0]["duplicate"] is True and again["files"][0]["conversation_ids"] == [c["id"]]
    # Another user's is another recording.
    finished(d, upload(d, [("rec.wav", content, NOON)], uid="ben"), uid="ben")
    assert len(receiver.at("/v1/listen")) == 2
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))
    assert ask(d, "GET", "/v1/sync-jobs/" + job["id"], "ben")[0] == 404
    assert ask(d, "GET", "/v1/sync-jobs/" + str(uuid.uuid4()))[0] == 404


def test_merging(start_daemon, settings, receiver):
    """By time: one that is near joins, before or behind; one that is far makes its own."""
    d = start_daemon(settings)
    finished(d, upload(d, [("a_%d.wav" % (NOON + 60), wav(tone(2)), None)]))
    first, = completed(d, 1)
    finished(d, upload(d, [("b.wav", wav(tone(2.1)), NOON + 150)]))  # behind it
    finished(d, upload(d, [("c.wav", wav(tone(2.2)), (NOON - 10) * 1000)]))  # before it; in milliseconds
    finished(d, upload(d, [("d.wav", wav(tone(2.3)), NOON + 1000)]))  # far away
    every = completed(d, 2)
    joined = ask(d, "GET", "/v1/conversations/" + first["id"])[1]
    assert [round(s["start"]) for s in joined["transcript_segments"]] == [0, 70, 160]
    assert joined["started_at"].startswith("2026-01-01T11:59:50.1")
    assert joined["finished_at"].startswith("2026-01-01T12:02:30.9")
    far = next(c for c in every if c["id"] != first["id"])
    assert far["started_at"].startswith("2026-01-01T12:16:40")


def test_told_again(start_daemon, settings, receiver):
    """What joins a conversation that was told is told once more: a new webhook-id, for what is new in it."""
    d = start_daemon(merge(settings, {"plugin webhooks": {"memory_created": [receiver.url("/memory")],
                                                          "allow_private": ["127.0.0.0/8"]}}))
    admin = Admin(d)
    admin.call("POST", "/v1/admin/apps", {"id": "notes", "name": "Notes", "uid": "owner", "url": receiver.url("/notes"),
                                          "triggers": ["memory_creation"]}, 201)
    admin.call("POST", "/v1/admin/apps/notes/enable", {"uid": "ann"})
    for revision, (seconds, start) in enumerate(((2, NOON), (2.1, NOON + 60), (2.2, NOON - 60))):
        finished(d, upload(d, [("a.wav", wav(tone(seconds)), start)]))
        c, = completed(d, 1)
        for path in ("/memory", "/notes"):
            until(lambda: len(receiver.at(path)) == revision + 1, what="it to be told")
            told = receiver.at(path)
            assert told[-1].json["id"] == c["id"] and told[-1].json["revision"] == revision
            assert len(told[-1].json["transcript_segments"]) == revision + 1
            assert len({x.headers["webhook-id"] for x in told}) == revision + 1
    # Sent again, it is nothing new; asked for again, neither.
    finished(d, upload(d, [("b.wav", wav(tone(2)), NOON)]))
    assert ask(d, "POST", "/v1/conversations/%s/reprocess" % c["id"])[0] == 202
    completed(d, 1)
    finished(d, upload(d, [("c.wav", wav(tone(3)), NOON + 5000)]))
    until(lambda: all(len(receiver.at(path)) == 4 for path in ("/memory", "/notes")), what="another one to be told")
    for path in ("/memory", "/notes"):
        assert [x.json["revision"] for x in receiver.at(path)] == [0, 1, 2, 0]
    assert ask(d, "GET", "/v1/conversations/" + c["id"])[1]["revision"] == 2


def test_speech_between_silences(start_daemon, have_sphinx, speech):
    """The local provider and the local engine, over a window's length: only speech is transcribed."""
    if not have_sphinx:
        pytest.skip("built without the sphinx plugin")
    d = start_daemon({"stt": {"models": ["sphinx"]}, "plugin sphinx": {}, "plugin vad": {}, "sync": {"check": "50ms"},
                      "ingress": {"upload": {"address": "127.0.0.1:0"}}, "store": {"sweep": "100ms"}})
    long = bytes(32000 * 20) + speech + bytes(32000 * 300) + speech + bytes(32000)
    address = d.uploads[0]
    assert ask(d, "POST", "/v1/sync-local-files", body=b"x" * (2 << 20), kind="text/plain")[0] == 413
    job = upload(d, [("long.wav", wav(long), NOON), ("quiet.wav", wav(bytes(64000)), NOON + 5000)], query="?language=en",
                 address=address)
    done = finished(d, job)
    assert [f["status"] for f in done["files"]] == ["done", "skipped"], done
    assert done["files"][1]["conversation_ids"] == [] and done["files"][1]["error"] is None
    assert len(done["files"][0]["conversation_ids"]) == 2  # 300 s of silence lie between
    texts = [ask(d, "GET", "/v1/conversations/" + i)[1]["transcript_segments"][0]["text"]
             for i in done["files"][0]["conversation_ids"]]
    assert all("go forward ten meters" in t.lower() for t in texts), texts
    seconds = len(speech) / 32000
    starts = sorted(c["started_at"] for c in completed(d, 2))
    assert starts[0] >= "2026-01-01T12:00:20" and starts[1] >= "2026-01-01T12:05:%02d" % (20 + int(seconds))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder(tmp_path_factory.mktemp("encode"))


def test_kinds(start_daemon, settings, receiver, speech, encoder, tmp_path):
    """Opus as devices keep it and in Ogg; WAV of other shapes; what lies about itself."""
    d = start_daemon(settings)
    packets = encoder.packets("opus", 16000, speech)
    frames = b"".join(struct.pack("<I", len(p)) + p for p in packets)
    (tmp_path / "in.wav").write_bytes(wav(speech))
    subprocess.run(["opusenc", "--quiet", str(tmp_path / "in.wav"), str(tmp_path / "out.ogg")], check=True)
    stereo = b"".join(speech[i:i + 2] * 2 for i in range(0, len(speech), 2))
    floats = struct.pack("<%df" % (len(speech) // 2), *(v / 32768 for v in struct.unpack("<%dh" % (len(speech) // 2), speech)))
    seconds = len(speech) / 32000
    fine = {"dev_%d.bin" % NOON: frames, "cut_%d.bin" % (NOON + 1000): frames[:-7],
            "ogg_%d.ogg" % (NOON + 2000): (tmp_path / "out.ogg").read_bytes(),
            "stereo_%d.wav" % (NOON + 3000): wav(stereo, channels=2),
            "slow_%d.wav" % (NOON + 4000): wav(speech, rate=8000), "fast_%d.wav" % (NOON + 5000): wav(speech, rate=192000),
            "float_%d.wav" % (NOON + 6000): wav(floats, bits=32, kind=3),
            "liar_%d.wav" % (NOON + 7000): wav(speech, length=len(speech) * 9),
            "modest_%d.wav" % (NOON + 8500): wav(speech, length=len(speech) // 2),
            "odd_%d.wav" % (NOON + 8700): wav(struct.pack("<4f", float("nan"), float("inf"), -1e38, 0.1) * 4000, bits=32,
                                              kind=3),
            "one_%d.wav" % (NOON + 8000): wav(b"\1\0")}
    done = finished(d, upload(d, [(n, c, None) for n, c in fine.items()]))
    by_name = {f["name"].split("_")[0]: f for f in done["files"]}
    assert all(f["status"] == "done" for f in by_name.values()), done
    expected = {"slow": 2 * seconds, "fast": seconds / 12, "one": 0, "modest": seconds / 2, "odd": 1}
    for name, f in by_name.items():
        assert abs(f["seconds"] - expected.get(name, seconds)) < 0.1, f
    bad = {"empty.wav": wav(b""), "adpcm.wav": wav(speech, kind=17), "cut.ogg": b"OggS" + bytes(100),
           "rate.wav": wav(speech, rate=1000), "rubbish.bin": bytes(range(256)) * 4}
    done = finished(d, upload(d, [(n, c, NOON + 9000) for n, c in bad.items()]))
    got = {f["name"]: (f["status"], f["error"]) for f in done["files"]}
    assert got["empty.wav"][0] == "skipped"
    assert got["adpcm.wav"] == ("failed", "format 17 is not PCM")
    assert got["cut.ogg"][0] == "failed" and "Opus" in got["cut.ogg"][1]
    assert got["rate.wav"] == ("failed", "its sample rate is 1000, expected 4000 to 192000")
    assert got["rubbish.bin"][0] == "failed" and "Opus" in got["rubbish.bin"][1]
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))


def test_bad_uploads(start_daemon, settings):
    d = start_daemon(merge(settings, {"sync": {"max_files": 3}}))
    good, kind = form([("a.wav", wav(tone(1)), NOON)])
    for body, content_type, query, reason in (
            (good, "text/plain", "", "Content-Type: expected multipart/form-data"),
            (good, "multipart/form-data", "", "boundary"),
            (good, "multipart/form-data; boundary=" + "y" * 71, "", "boundary"),
            (good, "multipart/form-data; boundary=other", "", "its boundary is not in it"),
            (good[:-20], kind, "", "part 2: it has no end"),
            (b"", kind, "", "no part"),
            (good, kind, "?language=d%20e", "language: expected a code"),
            (form([("a.wav", wav(tone(1)), None)])[0], kind, "", "part 1 (a.wav): expected its start"),
            (form([("a.wav", wav(tone(1)), 12)])[0], kind, "", "part 2 (a.wav): expected its start"),
            (form([("a.wav", wav(tone(1)), int(time.time()) + 200000)])[0], kind, "", "not in the future"),
            (form([("a.wav", wav(tone(1)), "1e9")])[0], kind, "", "expected its start"),
            (form([("a.mp3", b"ID3" + bytes(100), NOON)])[0], kind, "", "(a.mp3): it is neither WAV nor Opus"),
            (form([("a.wav", b"", NOON)])[0], kind, "", "it is empty"),
            (form([("%d.wav" % i, wav(tone(1)), NOON) for i in range(4)])[0], kind, "", "more files than one upload"),
            (form([("x.wav", b"RIFF", NOON)] * 200)[0], kind, "", "more parts than are taken"),
            (b"--xXxboundaryxXx\r\nnonsense\r\n\r\nx\r\n--xXxboundaryxXx--", kind, "", "part 1: expected header lines"),
            (b"--xXxboundaryxXx\r\nA: " + b"b" * 9000 + b"\r\n\r\nx\r\n--xXxboundaryxXx--", kind, "", "longer than 8 KiB"),
            (form([])[0], kind, "", "at least one part")):
        status, answer = ask(d, "POST", "/v1/sync-local-files" + query, body=body, kind=content_type)
        assert status == 400 and reason in answer["error"], (status, answer, reason)
    assert left(d) == []
    assert ask(d, "GET", "/v1/sync-local-files")[0] == 405


def test_provider_fails(start_daemon, settings, receiver):
    """Each kind of failure is tried again and then told; a recording that had failed may be sent again."""
    good = receiver._answers["/v1/listen"][0]
    d = start_daemon(settings)
    for i, bad in enumerate([Answer(status=500, body=b"x"), Answer(body=b"<html></html>"), Answer(body=b""), Answer(body=b"[]"),
                             Answer(body=b'{"results":{"channels":[{"alternatives":[{"words":7}]}]}}'),
                             Answer(reset=True), Answer(status=401, body=b'{"err_code":"INVALID_AUTH","err_msg":"no"}'),
                             Answer(status=429), Answer(huge=5 << 20)]):
        receiver.on("/v1/listen", bad)
        recording = [("a.wav", wav(tone(1 + i / 100)), NOON + 1000 * i)]
        # One attempt fails, its second request too; then it goes well.
        receiver.on("/v1/listen", bad, bad, good) if i % 2 else receiver.on("/v1/listen", *[bad] * 12, good)
        f = finished(d, upload(d, recording))["files"][0]
        assert f["status"] in ("done", "failed"), f
        if f["status"] == "failed":
            assert f["error"].startswith("dg-nova-3: "), f
            assert KEY not in f["error"]
            receiver.on("/v1/listen", good)
            assert finished(d, upload(d, recording))["files"][0]["status"] == "done"
    empty = Answer(body=transcript())
    receiver.on("/v1/listen", empty)
    assert finished(d, upload(d, [("a.wav", wav(tone(3)), NOON)]))["files"][0]["status"] == "skipped"


def test_live_conversation(start_daemon, settings, receiver, phone):
    """One that belongs to a conversation in progress waits for its end, and joins it."""
    d = start_daemon(merge(settings, {"listen": {"conversation_timeout": "3s", "conversation_timeout_floor": "2s",
                                                 "lifecycle_check": "50ms"}}))
    p = phone(d, uid="ann", custom_stt="enabled").wait_ready()
    p.send({"type": "suggested_transcript", "segments": [
        {"text": "live words", "speaker": "SPEAKER_00", "speaker_id": 0, "is_user": True, "start": 0.0, "end": 1.0}]})
    until(lambda: any(c["transcript_segments"] for c in conversations(d)), what="the live transcript")
    job = upload(d, [("a.wav", wav(tone(1)), int(time.time() * 1000) - 500)])
    f = finished(d, job)["files"][0]
    assert f["status"] == "done"
    p.close()  # the session has gone on with a conversation that holds nothing
    c, = completed(d, 1)
    assert f["conversation_ids"] == [c["id"]]
    texts = [s["text"] for s in ask(d, "GET", "/v1/conversations/" + c["id"])[1]["transcript_segments"]]
    assert sorted(texts) == ["Hello there.", "live words"]
