"""Recordings made offline, while everything around them changes or fails."""
import array
import http.client
import json
import os
import re
import socket
import sqlite3
import ssl
import struct
import subprocess
import time
from pathlib import Path

import pytest

from support.daemon import ADMIN_KEY, Daemon, merge, program
from support.disk import FullDisk, LyingDisk
from support.receiver import Answer, Receiver
from support.store import rows
from support.wait import SLOW, until
from test_storage import audio, count, folder, ramp, spool
from test_storage import wav as samples
from test_sync import NOON, ask, completed, conversations, finished, form, left, settings, tone, transcript, upload, wav

LIVE = {"listen": {"conversation_timeout": "60s", "conversation_timeout_floor": "60s", "lifecycle_check": "50ms"}}


def reload(daemon):
    done = subprocess.run([str(program("omictl")), "--socket", daemon.control, "reload"], capture_output=True, text=True,
                          timeout=60 * SLOW)
    assert done.returncode == 0, done


def test_reload_while_asked(start_daemon, settings, receiver):
    """The list of models and the limits change while a provider is asked: the answer is used, the work goes on."""
    good = receiver._answers["/v1/listen"][0]
    models = {"stt": {"models": ["dg-nova-3", "dg-nova-2"]}}
    d = start_daemon(merge(settings, models))
    # The first model fails at once, the second one is slow, and leaves the list meanwhile.
    slow = Answer(body=good.body, drip=0.002)
    receiver.on("/v1/listen", Answer(status=400), slow, Answer(status=400), Answer(status=400), good)
    job = upload(d, [("a.wav", wav(tone(2)), NOON)], query="?language=en")
    until(lambda: len(receiver.at("/v1/listen")) == 2, what="the second model is asked")
    d.rewrite(settings)
    reload(d)
    f = finished(d, job)["files"][0]
    assert f["status"] == "done", f
    c, = completed(d, 1)
    segment, = ask(d, "GET", "/v1/conversations/" + c["id"])[1]["transcript_segments"]
    assert segment["stt_provider"] == "dg-nova-2"
    # And once more, with a failure behind the reload.
    d.rewrite(merge(settings, models))
    reload(d)
    receiver.on("/v1/listen", Answer(status=400), Answer(status=400, body=b'{"err_msg":"no"}', drip=0.01), good)
    before = len(receiver.at("/v1/listen"))
    job = upload(d, [("b.wav", wav(tone(2.5)), NOON + 5000)], query="?language=en")
    until(lambda: len(receiver.at("/v1/listen")) == before + 2, what="the second model is asked")
    d.rewrite(settings)
    reload(d)
    assert finished(d, job)["files"][0]["status"] == "done"


def test_times_beyond(start_daemon, settings, receiver):
    """Times that lie outside of what was sent are brought within it."""
    receiver.on("/v1/listen", Answer(body=transcript(("Far", 1.5, 80000.0, 0), ("away.", 86000.0, 86001.0, 1))))
    d = start_daemon(settings)
    assert finished(d, upload(d, [("a.wav", wav(tone(2)), NOON)]))["files"][0]["status"] == "done"
    c, = completed(d, 1)
    assert c["started_at"] >= "2026-01-01T12:00:01" and c["finished_at"] <= "2026-01-01T12:00:02.1", c


def test_waiting_leaves_room(start_daemon, settings, phone):
    """Who speaks all day long keeps no other user's recordings from being worked on."""
    d = start_daemon(merge(merge(settings, LIVE), {"sync": {"running": 1}}))
    p = phone(d, uid="ann", custom_stt="enabled").wait_ready()
    p.send({"type": "suggested_transcript", "segments": [
        {"text": "live words", "speaker": "SPEAKER_00", "speaker_id": 0, "is_user": True, "start": 0.0, "end": 1.0}]})
    until(lambda: any(c["transcript_segments"] for c in conversations(d)), what="the live transcript")
    waits = upload(d, [("a%d.wav" % i, wav(tone(1 + i / 10)), int(time.time() * 1000) - 500) for i in range(3)])
    until(lambda: d.metric("omid_sync_waiting") == 3, what="they wait for the conversation's end")
    others = [(uid, upload(d, [("b.wav", wav(tone(1)), NOON)], uid=uid)) for uid in ("ben", "cas", "dan")]
    for uid, job in others:
        assert finished(d, job, uid)["files"][0]["status"] == "done"
    assert ask(d, "GET", "/v1/sync-jobs/" + waits["id"])[1]["status"] == "processing"
    p.close()


def test_sent_again_otherwise(start_daemon, settings, receiver):
    """What has failed and is sent again is taken as it is sent now."""
    d = start_daemon(settings)
    content = wav(tone(1))
    receiver.on("/v1/listen", Answer(status=400))
    assert finished(d, upload(d, [("a.wav", content, NOON)], query="?language=fr"))["files"][0]["status"] == "failed"
    receiver.on("/v1/listen", Answer(body=transcript(("Hi.", 0.1, 0.5, 0))))
    f = finished(d, upload(d, [("a.wav", content, NOON + 3600)], query="?language=de"))["files"][0]
    assert f["status"] == "done" and f["start"].startswith("2026-01-01T13:00:00")
    c, = completed(d, 1)
    assert c["started_at"].startswith("2026-01-01T13:00:00") and c["language"] == "de"


SPOKEN = [1, 100, 200, 310, 400, 500]  # seconds of a recording, said by speakers 1, 2, ...; silence between them
LONG = wav(b"".join(struct.pack("<h", 1000 * (SPOKEN.index(s) + 1) if s in SPOKEN else 0) * 4000 for s in range(520)), 4000)


def finds(delivery):
    """The service that tells where speech is, by the sound that it is sent."""
    at = delivery.body.index(b"data", delivery.body.index(b"WAVE")) + 8
    pcm = array.array("h", delivery.body[at:at + struct.unpack_from("<I", delivery.body, at - 4)[0]])
    loud = [i / 10 for i in range(len(pcm) // 1600) if pcm[1600 * i + 800] > 500]
    begins = [t for t in loud if round(t - .1, 1) not in loud]
    return Answer(body=json.dumps([{"start": t, "end": t + 1, "duration": 1} for t in begins]).encode())


class Listener:
    """A provider that says what it is told to: words, or failures."""

    def __init__(self, receiver):
        receiver.on("/vad", finds)
        receiver.on("/v1/listen", self._answer)
        self.script, self.asked = [], []

    def _answer(self, delivery):
        n = round(struct.unpack_from("<h", delivery.body, 44 + 32000 * 8 // 10)[0] / 1000)
        self.asked.append(n)
        good = not self.script or self.script.pop(0)
        return Answer(body=transcript(("Word%d." % n, 0.3, 1.2, n))) if good else Answer(status=400)


def test_goes_on_where_it_was(start_daemon, settings, receiver):
    """An attempt asks for what the ones before it have not heard, also behind a failure for good and a crash; each piece
    that is heard lets it fail as often again."""
    partner = Listener(receiver)
    d = start_daemon(merge(settings, {"sync": {"attempts": 2}, "plugin vad": {"url": receiver.url("/vad")}}))
    partner.script = [True, False, True, False, True, True, False, False]
    job = upload(d, [("long.wav", LONG, NOON)], query="?language=en")
    f = finished(d, job)["files"][0]
    assert f["status"] == "failed" and f["error"].startswith("dg-nova-3: "), f
    assert partner.asked == [1, 2, 2, 3, 3, 4, 5, 5]
    d.kill()
    d.start()
    del partner.asked[:]
    f = finished(d, upload(d, [("again.wav", LONG, NOON)], query="?language=en"))["files"][0]
    assert f["status"] == "done" and partner.asked == [5, 6]
    c, = completed(d, 1)
    said = ask(d, "GET", "/v1/conversations/" + c["id"])[1]["transcript_segments"]
    assert [(s["text"], round(s["start"]), s["speaker_id"], s["stt_provider"]) for s in said] == [
        ("Word%d." % n, s - 1, n, "dg-nova-3") for n, s in enumerate(SPOKEN, 1)]
    assert rows(d, "SELECT count(*) FROM heard") == [(0,)]
    # In another language it is another transcript.
    partner.script = [True, False, False]
    job = upload(d, [("b.wav", LONG, NOON)], "ben", query="?language=en")
    assert finished(d, job, "ben")["files"][0]["status"] == "failed"
    del partner.asked[:]
    finished(d, upload(d, [("b.wav", LONG, NOON)], "ben", query="?language=de"), "ben")
    assert partner.asked == [1, 2, 3, 4, 5, 6]


def test_names(start_daemon, settings):
    """A file is never left out because of its name."""
    d = start_daemon(settings)
    body, kind = form([("a.wav", wav(tone(1)), NOON), ("NAME", wav(tone(1.5)), NOON + 1000)])
    for name, reason in ((b'filename="' + b"x" * 300 + b'.wav"', "part 4: its file name is longer than 255"),
                         (b"filename*=UTF-8''%c3%a9.wav", "part 4: expected filename"),
                         (b'filename="\xff.wav"', "part 4 (a file): its name is not UTF-8")):
        sent = body.replace(b'filename="NAME"', name)
        status, answer = ask(d, "POST", "/v1/sync-local-files", body=sent, kind=kind)
        assert status == 400 and reason in answer["error"], (status, answer)
    job = ask(d, "POST", "/v1/sync-local-files", body=body.replace(b'"NAME"', b'".."'), kind=kind)[1]
    assert len(job["files"]) == 2
    many = form([("x.wav", b"RIFF", NOON)] * 5000)[0]
    status, answer = ask(d, "POST", "/v1/sync-local-files", body=many, kind=kind)
    assert status == 400 and "more parts than are taken" in answer["error"]
    finished(d, job)
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))


def test_disk_fails(tmp_path, reactors, settings):
    """What can't be kept is refused, and nothing of it stays."""
    (tmp_path / "state").mkdir()
    disk = LyingDisk(tmp_path / "state", tmp_path)
    d = Daemon(tmp_path, reactors, settings, disk.environment)
    try:
        d.start()
        files = [("%d.wav" % i, wav(tone(1 + i / 10)), NOON + 1000 * i) for i in range(3)]
        disk.breaks()
        assert "can't be kept" in upload(d, files, expect=507)["error"]
        disk.mends()
        until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))
        job = until(lambda: [a for s, a in [ask(d, "POST", "/v1/sync-local-files", "ann", *form(files))] if s == 202],
                    what="it is taken")[0]
        assert [f["status"] for f in finished(d, job)["files"]] == ["done"] * 3
        d.stop()
    finally:
        d.remove()


def test_store_fails(tmp_path, reactors, settings, receiver):
    """What was transcribed while the disk fails waits in memory, and is tried less and less often, and counted."""
    (tmp_path / "state").mkdir()
    disk = LyingDisk(tmp_path / "state", tmp_path)
    receiver.on("/v1/listen", Answer(body=receiver._answers["/v1/listen"][0].body, drip=0.002))
    d = Daemon(tmp_path, reactors, settings, disk.environment)
    try:
        d.start()
        job = upload(d, [("a.wav", wav(tone(1)), NOON)])
        until(lambda: receiver.at("/v1/listen"), what="a request")
        disk.breaks()
        until(lambda: d.metric("omid_sync_store_retries_total") >= 5, what="it to be tried again")
        pauses = [int(re.search(r"pause_ms=(\d+)", line)[1]) for line in d.logged("the store does not take it")]
        assert all(b >= 2 * a for a, b in zip(pauses, pauses[1:])), pauses
        disk.mends()
        f = finished(d, job)["files"][0]
        assert f["status"] == "done" and len(receiver.at("/v1/listen")) == 1
        assert len(completed(d, 1)) == 1
        d.stop()
    finally:
        d.remove()


def test_too_many_wait(start_daemon, settings):
    """Refused because too many of one user wait: nothing of it is left when the client hears of it."""
    d = start_daemon(settings)
    finished(d, upload(d, [("a.wav", wav(tone(1)), NOON)]))
    until(lambda: left(d) == [], what="the first one's files to be gone")
    d.stop()
    db = sqlite3.connect(Path(d.dir) / "state/store.db")
    with db:
        db.executemany("INSERT INTO recording(file, uid, hash, format, start, language, created, status, attempts,"
                       " not_before, progress, seconds, stored) VALUES(?, 'ann', ?, 1, 0, 'en', ?, 0, 0, ?, 0, 0, 0)",
                       [("f%d" % i, "%064d" % i, int(time.time() * 1000), 1 << 60) for i in range(9999)])
    db.close()
    d.start()
    two = [("b.wav", wav(tone(2)), NOON), ("c.wav", wav(tone(3)), NOON)]
    assert "too many" in upload(d, two, expect=429)["error"]
    assert left(d) == []
    assert finished(d, upload(d, two, uid="ben"), "ben")["status"] == "completed"


def test_client_gone(start_daemon, settings, receiver):
    """One that leaves in the middle of its upload leaves nothing; one that leaves behind it is served."""
    d = start_daemon(settings)
    body, kind = form([("a.wav", wav(tone(4)), NOON)])
    head = ("POST /v1/sync-local-files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %sann\r\nContent-Type: %s\r\n"
            "Content-Length: %d\r\n\r\n" % (ADMIN_KEY, kind, len(body))).encode()
    host, port = d.address.rsplit(":", 1)
    before = d.metric("omid_memory_sessions_bytes")
    for part in (0, 1, 100, len(body) // 2, len(body) - 1):
        for reset in (False, True):
            s = socket.create_connection((host, int(port)), 30)
            s.sendall(head + body[:part])
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
    assert upload(d, [("b.mp3", b"ID3", NOON)], expect=400)  # these have been served by now, or never will be
    assert left(d) == [] and not receiver.at("/v1/listen")
    until(lambda: d.metric("omid_memory_sessions_bytes") == before, what="nothing to be left of them")
    s = socket.create_connection((host, int(port)), 30)
    s.sendall(head + body)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: d.metric("omid_sync_running") or receiver.at("/v1/listen"), what="it to be taken")
    s.close()
    assert len(completed(d, 1)) == 1
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))


def test_swept(start_daemon, settings, receiver):
    """What belongs to nothing goes while the daemon runs; what is worked on stays, however long it takes."""
    receiver.on("/v1/listen", Answer(hang=True))
    d = start_daemon(merge(settings, {"sync": {"sweep": "50ms"}}))
    job = upload(d, [("a.wav", wav(tone(1)), NOON)])
    until(lambda: receiver.at("/v1/listen"), what="a request")
    wanted = left(d)
    assert len(wanted) == 2 and wanted[1] == wanted[0] + ".pcm", wanted
    folder, old = Path(d.dir) / "state/sync", time.time() - 7200
    for name in ("0" * 16 + "-" + "1" * 64, "0" * 16 + "-" + "2" * 64 + ".pcm", "0-3.00000000-0000-4000-8000-000000000001"):
        (folder / name).write_bytes(b"x")
    (folder / "young").write_bytes(b"x")
    for name in left(d):
        if name != "young":
            os.utime(folder / name, (old, old))
    until(lambda: left(d) == sorted(wanted + ["young"]), what=lambda: "the others to be gone: %s" % left(d))
    seen = []
    until(lambda: seen.append(left(d)) or len(seen) > 20, what="more looks")
    assert all(s == sorted(wanted + ["young"]) for s in seen)
    d.rewrite(settings)
    reload(d)
    d.kill()
    os.utime(folder / "young", (time.time() - 5, time.time() - 5))
    receiver.on("/v1/listen", Answer(body=transcript(("Hi.", 0.1, 0.5, 0))))
    d.start()
    assert finished(d, job)["files"][0]["status"] == "done"
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))  # young, but of a former life


def test_no_room_to_decode(tmp_path, reactors, settings, receiver):
    """It takes what the disk has, and gives it back at once: others go on, and with room again so does it. It does not
    fail for that, however often it was tried."""
    (tmp_path / "state").mkdir()
    disk = FullDisk(tmp_path / "state", "40m")
    d = Daemon(tmp_path, reactors, merge(settings, {"sync": {"attempts": 2}}))
    d.prefix = disk.prefix
    inside = Path("/proc/%d/root%s/state/sync" % (disk.holder.pid, tmp_path))
    try:
        d.start()
        assert finished(d, upload(d, [("a.wav", wav(tone(1)), NOON)]))["files"][0]["status"] == "done"
        room = os.statvfs(inside)
        disk.ballast.write_bytes(bytes(room.f_bavail * room.f_bsize - (6 << 20)))
        long = wav(bytes(4000 * 2 * 300), rate=4000)  # 2.4 MB, which become 9.6
        big = upload(d, [("big.wav", long, NOON + 1000)])
        retried = d.metric("omid_sync_recordings_total", outcome="retried")
        until(lambda: d.metric("omid_sync_recordings_total", outcome="retried") >= retried + 5, what="attempts in vain")
        told = lambda: ask(d, "GET", "/v1/sync-jobs/" + big["id"])[1]["files"][0]
        until(lambda: "No space left" in (told()["error"] or ""), what="its reason")
        assert told()["status"] in ("queued", "processing")
        small = upload(d, [("b.wav", wav(tone(1.5)), NOON + 2000)])
        assert finished(d, small)["files"][0]["status"] == "done"
        disk.mends()
        assert finished(d, big)["files"][0]["status"] == "done"
        assert len(completed(d, 3)) == 3
        until(lambda: not list(inside.iterdir()), what="no files left")
        d.stop()
    finally:
        d.remove()
        disk.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file system of its own")
@pytest.mark.parametrize("batch", ["1s", "60s"], ids=["many files", "one file"])
def test_no_room_for_its_audio(start_daemon, settings, receiver, batch):
    """The disk takes a part of it at most: that is given back, and all of it is stored, once, when there is room."""
    sound = b"".join(ramp(1, 16000, 10 * (i % 30)) for i in range(50))
    receiver.on("/v1/listen", Answer(body=transcript(("Long", 0.0, 20.0, 0), ("talk.", 20.0, 50.0, 0))))
    d = start_daemon(merge(settings, {"plugin storage": {"append": "100ms", "retry": "1s", "batch": batch},
                                      "sync": {"attempts": 2}}))
    until(lambda: folder(d, "").exists(), what="the plugin's folder")
    small = folder(d, "spool")
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(small)], check=True)
    try:
        job = upload(d, [("a.wav", wav(sound), NOON)])
        retried = lambda: d.metric("omid_sync_recordings_total", outcome="retried")
        until(lambda: retried() >= 4, what="attempts in vain")
        assert d.logged("its audio is not stored: No space left")
        assert rows(d, "SELECT status, stored FROM recording") == [(2, 0)] and len(receiver.at("/v1/listen")) == 1
        c, = completed(d, 1)
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        until(lambda: rows(d, "SELECT stored FROM recording") == [(1,)] and not spool(d),
              what=lambda: "all to be stored: %s" % spool(d)[:3])
        assert samples(audio(d, c["id"])[1]) == sound
        files = list(folder(d, "audio").glob("*/*/*.wav"))
        assert sum(f.stat().st_size - 44 for f in files) == len(sound)
        assert count(d, "batches", outcome="repeated") == 0
        assert count(d, "spool_bytes", event="added") == count(d, "spool_bytes", event="removed") > len(sound)
        assert finished(d, job)["files"][0]["error"] is None
    finally:
        subprocess.run(["umount", "-l", str(small)])


@pytest.mark.parametrize("kind", ["hang", "drip", "refuse"])
def test_provider_never_answers(start_daemon, settings, receiver, kind):
    """One that is silent costs its own recordings alone, and stops nothing at the end."""
    d = start_daemon(merge(settings, {"sync": {"running": 2}}))
    if kind == "refuse":
        receiver.stop()
    else:
        receiver.on("/v1/listen", Answer(**{kind: True if kind == "hang" else 1.0}))
    job = upload(d, [("a.wav", wav(tone(1)), NOON)])
    if kind == "refuse":
        f = finished(d, job)["files"][0]
        assert f["status"] == "failed" and f["error"].startswith("dg-nova-3: ")
    else:
        until(lambda: receiver.at("/v1/listen"), what="a request")
    assert upload(d, [("b.wav", wav(b""), NOON)])["files"]
    d.stop()


def test_https(start_daemon, settings, authority):
    """The upload listener and the provider, both with TLS."""
    cert, key = authority.issue("here")
    provider = Receiver(authority.server_context())
    provider.on("/v1/listen", Answer(body=transcript(("Safe.", 0.1, 0.5, 0))))
    try:
        d = start_daemon(merge(settings, {
            "ingress": {"upload": {"address": "127.0.0.1:0"}, "tls": {"certificate": str(cert), "key": str(key)}},
            "plugin deepgram": {"url": provider.url(""), "tls": {"ca": str(authority.ca)}}}))
        host, port = d.uploads[0].rsplit(":", 1)
        secure = http.client.HTTPSConnection(host, int(port), timeout=60,
                                             context=ssl.create_default_context(cafile=str(authority.ca)))
        body, kind = form([("a.wav", wav(tone(1)), NOON)])
        head = {"Authorization": "Bearer " + ADMIN_KEY + "ann", "Content-Type": kind}
        secure.request("POST", "/v1/sync-local-files", body=body, headers=head)
        answer = secure.getresponse()
        job = json.loads(answer.read())
        assert answer.status == 202, job

        def over():
            secure.request("GET", "/v1/sync-jobs/" + job["id"], headers=head)
            told = json.loads(secure.getresponse().read())
            return told if told["status"] != "processing" else None
        assert until(over, 60, "the job")["files"][0]["status"] == "done"
        secure.close()
        sent, = provider.at("/v1/listen")
        assert sent.body[:4] == b"RIFF"
    finally:
        provider.stop()
