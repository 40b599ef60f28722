"""Recordings: spooled, stored in a directory or a bucket, read back, kept and deleted; nothing is lost on the way."""
import http.client
import io
import os
import re
import socket
import sqlite3
import ssl
import struct
import subprocess
import wave

import pytest

from support.daemon import program
from support.s3 import S3
from support.wait import until

FAST = {"append": "200ms", "retry": "1s", "batch": "1s"}


def rest(daemon, method, path, uid="ann", headers=None):
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        c.request(method, path, headers={"Authorization": "Bearer " + daemon.admin_key + uid, **(headers or {})})
        r = c.getresponse()
        return r.status, r.read(), dict(r.getheaders())
    finally:
        c.close()


def audio(daemon, conversation, uid="ann", query="", **headers):
    return rest(daemon, "GET", "/v1/conversations/%s/audio%s" % (conversation, query), uid,
                {k.replace("_", "-"): v for k, v in headers.items()})


def count(daemon, what, **labels):
    return daemon.metric("omid_plugin_storage_%s_total" % what, **labels) or 0


def folder(daemon, name):
    return daemon.dir / "state/plugins/storage" / name


def stored(daemon):
    return count(daemon, "batches", outcome="stored")


def spool(daemon):
    return sorted(p.name for p in folder(daemon, "spool").glob("*"))


def wav(data):
    with wave.open(io.BytesIO(data)) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, 16000)
        return w.readframes(w.getnframes())


def ramp(seconds, rate, first=0):
    """Samples that say where they are: every 100 ms another value."""
    step = rate // 10
    return b"".join(int(100 * (first + i + 1)).to_bytes(2, "little", signed=True) * step
                    for i in range(int(seconds * 10)))


def conversation_of(daemon, uid="ann"):
    """The id of the one conversation that has audio."""
    found = until(lambda: spool(daemon) or list(folder(daemon, "audio").glob("*/*/*")), what="audio in the spool")
    return found[0].split(".")[0] if isinstance(found[0], str) else found[0].parent.name


def caller(phone, daemon, uid, rate):
    """One that brings its own text: something is said, so that the conversation is kept."""
    p = phone(daemon, uid=uid, sample_rate=rate, custom_stt="enabled")
    p.send({"type": "suggested_transcript", "segments": [{"text": "Hello.", "speaker": "SPEAKER_00", "start": 0, "end": 1}]})
    return p


def record(daemon, phone, seconds, uid="ann", rate=16000, first=0):
    """Speaks and leaves; waits until it is all stored."""
    was = count(daemon, "spool_bytes", event="added")
    p = caller(phone, daemon, uid, rate)
    p.play(ramp(seconds, rate, first), speed=20)
    until(lambda: count(daemon, "spool_bytes", event="added") - was >= seconds * rate * 2 * .9, what="the audio to come")
    c = conversation_of(daemon)
    p.close()
    return c


def settled(daemon, spooled):
    until(lambda: count(daemon, "batches", outcome="spooled") >= spooled and not spool(daemon), what="an empty spool")


def test_directory(start_daemon, phone):
    d = start_daemon({"plugin storage": FAST})
    c = record(d, phone, 3.5)
    settled(d, 4)
    files = sorted(folder(d, "audio").glob("ann/%s/*.wav" % c))
    assert len(files) == 4 and stored(d) == 4
    starts = [int(f.stem) for f in files]
    assert [b - a for a, b in zip(starts, starts[1:])] == [1000, 1000, 1000]
    # The whole of it.
    status, body, headers = audio(d, c)
    assert status == 200 and headers["Content-Type"] == "audio/wav" and headers["Accept-Ranges"] == "bytes"
    assert wav(body) == ramp(3.5, 16000)
    etag = headers["ETag"]
    # Ranges of it, odd ones too; each byte where it was.
    size = len(body)
    for given, first, last in (("0-0", 0, 0), ("0-43", 0, 43), ("43-45", 43, 45), ("45-45", 45, 45),
                               ("32001-70000", 32001, 70000), ("1-", 1, size - 1), ("-1", size - 1, size - 1),
                               ("-999999999", 0, size - 1), ("100-999999999", 100, size - 1),
                               ("%d-" % (size - 1), size - 1, size - 1)):
        status, part, headers = audio(d, c, Range="bytes=" + given)
        assert status == 206 and headers["Content-Range"] == "bytes %d-%d/%d" % (first, last, size), given
        assert part == body[first:last + 1], given
    for given in ("%d-" % size, "999999999-", "-0"):
        status, part, headers = audio(d, c, Range="bytes=" + given)
        assert status == 416 and headers["Content-Range"] == "bytes */%d" % size, given
    for given in ("bytes=5-4", "bytes=a-b", "bytes=", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=1-2x"):
        assert audio(d, c, Range=given)[0] == 200, given
    assert audio(d, c, Range="bytes=0-9", If_Range=etag)[0] == 206
    assert audio(d, c, Range="bytes=0-9", If_Range='"other"')[0] == 200
    assert audio(d, c, Range="bytes=0-9", If_Range="Wed, 21 Oct 2015 07:28:00 GMT")[0] == 200
    status, part, headers = audio(d, c, If_None_Match=etag)
    assert status == 304 and part == b"" and headers["ETag"] == etag
    status, part, headers = rest(d, "HEAD", "/v1/conversations/%s/audio" % c)
    assert status == 200 and headers["Content-Length"] == str(size) and part == b""
    # Nobody else's, nothing that is not there.
    assert audio(d, c, uid="bob")[0] == 404
    assert audio(d, "00000000-0000-4000-8000-000000000000")[0] == 404
    for path in ("..", "%2e%2e", "..%2f..%2fetc", "a%2fb", "%00"):
        assert audio(d, path)[0] in (400, 404), path
    assert audio(d, c, query="?format=mp3")[0] == 400
    assert audio(d, c, query="?format=ogg")[0] == 406
    assert rest(d, "GET", "/v1/conversations/%s/audio" % c, headers={"Authorization": "Bearer no"})[0] == 401
    assert count(d, "dropped_bytes", reason="memory") == 0
    # Deleted by its user: with all that is kept of it, and what comes late.
    assert rest(d, "DELETE", "/v1/conversations/" + c)[0] == 204
    until(lambda: not list(folder(d, "audio").glob("*/*")), what="the files to be deleted")
    until(lambda: audio(d, c)[0] == 404, what="the recording to be gone")
    until(lambda: count(d, "batches", outcome="deleted") == 4, what="each to be counted")
    start = starts[0] + 100000
    (folder(d, "spool") / ("%s.%d.late.pcm" % (c, start))).write_bytes(
        b"omid-spool 1 %d 16000 ann %s\n" % (start, c.encode()) + b"\1\0" * 16000)
    (folder(d, "spool") / ("%s.%d.theirs.pcm" % (c, start))).write_bytes(
        b"omid-spool 1 %d 16000 bob %s\n" % (start, c.encode()) + b"\1\0" * 16000)
    d.stop()
    d.start()
    until(lambda: count(d, "batches", outcome="deleted") == 1 and not spool(d), what="the late one to be dropped")
    until(lambda: audio(d, c, uid="bob")[0] == 200, what="another's of this id")
    assert audio(d, c)[0] == 404


def silent(daemon, phone, uid, seconds=1.5):
    """Speaks nothing that anybody transcribes, and leaves: an empty conversation with audio."""
    was = count(daemon, "spool_bytes", event="added")
    p = phone(daemon, uid=uid, sample_rate=16000, custom_stt="enabled")
    p.play(ramp(seconds, 16000), speed=20)
    until(lambda: count(daemon, "spool_bytes", event="added") - was >= seconds * 32000 * .9, what="the audio to come")
    p.close()


def deleted_rows(daemon):
    """Deletions that are not told for good."""
    with sqlite3.connect("file:%s?mode=ro" % (daemon.dir / "state/store.db"), uri=True) as db:
        return db.execute("SELECT count(*) FROM deleted").fetchone()[0]


def test_audio_goes_with_its_conversation(start_daemon, phone):
    d = start_daemon({"plugin storage": FAST, "listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s", "lifecycle_check": "100ms"},
                      "store": {"sweep": "200ms"}})
    # Nothing was said into it: nobody could delete its audio, so the daemon does.
    silent(d, phone, "ann")
    until(lambda: list(folder(d, "index").glob("ann/*")) or count(d, "batches", outcome="deleted"), what="its audio")
    until(lambda: count(d, "batches", outcome="deleted") >= 1 and not spool(d) and
          not list(folder(d, "audio").glob("*/*/*")) and not list(folder(d, "index").glob("*/*")), what="it to be gone")
    # Killed between the deletion and its event: told at the next start, by the row that the deletion left.
    c = record(d, phone, 1, uid="bob")
    settled(d, 1)
    until(lambda: audio(d, c, uid="bob")[0] == 200, what="it to be heard")
    d.kill()
    store = d.dir / "state/store.db"
    with sqlite3.connect(store) as db:
        db.execute("PRAGMA foreign_keys=ON")
        assert db.execute("DELETE FROM conversation WHERE id=?", (c,)).rowcount == 1
    d.start()
    until(lambda: audio(d, c, uid="bob")[0] == 404, what="it to be gone after a crash")

    until(lambda: deleted_rows(d) == 0, what="the rows to go")


def test_kill_loses_at_most_what_was_not_appended(start_daemon, phone):
    d = start_daemon({"plugin storage": {**FAST, "batch": "60s"}})
    p = caller(phone, d, "a.b@c:d", 8000)
    p.play(ramp(3, 8000), speed=10)
    until(lambda: count(d, "spool_bytes", event="added") >= 2.8 * 16000, what="the audio to be appended")
    c = conversation_of(d)
    assert [n.split(".")[-1] for n in spool(d)] == ["run"]
    # It can be heard already.
    status, body, _ = audio(d, c, uid="a.b@c:d")
    assert status == 200 and len(wav(body)) >= 2.8 * 32000
    d.kill()
    d.start()
    until(lambda: stored(d) == 1 and not spool(d), what="what was left to be stored")
    assert count(d, "batches", outcome="recovered") == 1
    status, body, _ = audio(d, c, uid="a.b@c:d")
    assert status == 200 and len(wav(body)) >= 2.8 * 32000
    assert [p.name for p in folder(d, "audio").glob("*")] == ["a.b%40c%3Ad"]
    # Between the steps: whole and no job; stored and not in the index; in the index and still in the spool.
    file = next(folder(d, "audio").glob("*/*/*.wav"))
    index = next(folder(d, "index").glob("*/*"))
    line, sound = index.read_text(), file.read_bytes()
    start = file.stem
    session = line.split()[-2]
    head = b"omid-spool 2 %s 8000 a.b%%40c%%3Ad %s %s\n" % (start.encode(), c.encode(), session.encode())
    for left in ("whole", "stored", "indexed"):
        d.kill()
        (folder(d, "spool") / ("%s.%s.%s.pcm" % (c, start, left))).write_bytes(head + sound[44:])
        if left == "whole":
            file.unlink()
        if left != "indexed":
            index.unlink()
        d.start()
        until(lambda: count(d, "batches", outcome="recovered") == 1 and not spool(d), what="the %s one" % left)
        assert index.read_text() == line and file.read_bytes() == sound, left
        assert len(list(file.parent.glob("*"))) == 1, left
        assert (count(d, "batches", outcome="repeated"), stored(d)) == ((1, 0) if left == "indexed" else (0, 1)), left
    # A torn line of the index, a torn sample, files that are none.
    d.kill()
    index.write_text(line + "1 17 16000 99")
    other = b"omid-spool 1 %d 8000 a.b%%40c%%3Ad %s\n" % (int(start) + 60000, c.encode())
    (folder(d, "spool") / (c + ".1.x.pcm")).write_bytes(other + b"\1\0" * 8000 + b"\7")
    (folder(d, "spool") / (c + ".2.x.pcm")).write_bytes(b"what is this?")
    (folder(d, "spool") / (c + ".3.x.pcm")).write_bytes(b"")
    (folder(d, "spool") / (c + ".4.x.pcm.new")).write_bytes(b"half")
    d.start()
    until(lambda: count(d, "batches", outcome="bad") == 2 and stored(d) == 1, what="them to be looked at")
    assert [n.split(".", 1)[1] for n in spool(d)] == ["2.x.pcm.bad", "3.x.pcm.bad"]
    body = wav(audio(d, c, uid="a.b@c:d")[1])
    assert len(body) == 61 * 32000 and body[-20000:-10000] == b"\1\0" * 5000 and not any(body[10 * 32000:50 * 32000])


def bucket(s3, **more):
    return {**FAST, "bucket": s3.bucket, "endpoint": s3.endpoint(), "region": s3.region, "access_key": s3.key_id,
            "secret_key": s3.secret, "prefix": "omid/audio", **more}


@pytest.mark.parametrize("kind", ["http", "https", "ogg", "host", "no ranges", "ogg, no ranges"])
def test_bucket(start_daemon, phone, authority, kind):
    s3 = S3(tls=authority.server_context() if kind == "https" else None, token="to+ken==" if kind == "https" else None,
            host_style=kind == "host")
    s3.ranges = "no ranges" not in kind
    kind = kind.split(",")[0]
    more = {"session_token": s3.token} if s3.token else {}
    if kind == "ogg":
        more["format"] = "ogg"
    if kind == "host":  # every name below localhost is this machine
        more.update(style="host", endpoint=s3.endpoint("localhost"))
    try:
        d = start_daemon({"plugin storage": bucket(s3, **more)}, {"CURL_CA_BUNDLE": str(authority.ca)})
        c = record(d, phone, 2.5, uid="x@y")
        settled(d, 3)
        assert not s3.refused and stored(d) == 3
        keys = sorted(s3.objects)
        ext = "ogg" if kind == "ogg" else "wav"
        assert all(re.fullmatch(r"omid/audio/x%%40y/%s/\d+\.%s" % (c, ext), k) for k in keys) and len(keys) == 3
        status, body, _ = audio(d, c, uid="x@y")
        assert status == 200 and not s3.refused
        if kind == "ogg":
            check_ogg(d, c, body, [s3.objects[k] for k in keys])
        else:
            assert wav(body) == ramp(2.5, 16000)
            del s3.requests[:]
            assert audio(d, c, uid="x@y", Range="bytes=40001-60000")[1] == body[40001:60001]
            asked = [headers.get("range") for method, _, headers in s3.requests if method == "GET"]
            if kind == "http":  # no more of a batch than what is wanted of it
                assert len(asked) == 1 and asked == ["bytes=8000-28001"], asked
            assert audio(d, c, uid="x@y", Range="bytes=30000-40001")[1] == body[30000:40002]
        assert rest(d, "DELETE", "/v1/conversations/" + c, uid="x@y")[0] == 204
        until(lambda: not s3.objects, what="the objects to be deleted")
        until(lambda: audio(d, c, uid="x@y")[0] == 404, what="the recording to be gone")
        assert not s3.refused
        assert s3.secret not in d.log()
    finally:
        s3.stop()


def check_ogg(d, c, decoded, objects):
    status, body, headers = audio(d, c, uid="x@y", query="?format=ogg")
    assert status == 200 and headers["Content-Type"] == "audio/ogg" and body == b"".join(objects)
    assert audio(d, c, uid="x@y", query="?format=ogg", Range="bytes=100-%d" % (len(body) - 50))[1] == body[100:-49]
    sound = wav(decoded)
    assert len(sound) == 2.5 * 32000
    for data, seconds in zip(objects, (1.0, 1.0, .5)):  # an independent decoder
        path = d.dir / "batch.ogg"
        path.write_bytes(data)
        told = subprocess.run(["opusinfo", str(path)], capture_output=True, text=True)
        assert told.returncode == 0 and "WARNING" not in told.stdout, told.stdout
        assert "Playback length: 0m:%06.3fs" % seconds in told.stdout, told.stdout
        out = d.dir / "batch.wav"
        subprocess.run(["opusdec", "--quiet", "--rate", "16000", str(path), str(out)], check=True)
        with wave.open(str(out)) as w:
            assert w.getnframes() == seconds * 16000
    middle = lambda i: int.from_bytes(sound[i * 3200 + 1600:i * 3200 + 1602], "little", signed=True)
    assert all(abs(middle(i)) < 32767 for i in range(25))


FAULTS = ["hang", "reset", "empty", "drip", "garbage", "huge", "403", "429", "500", "503", "gone", "refuse", "lost"]


@pytest.mark.parametrize("kind", ["http", "https"])
def test_bucket_that_fails(start_daemon, phone, authority, kind):
    """Whatever it does, all is stored when it is well again."""
    s3 = S3(tls=authority.server_context() if kind == "https" else None)
    try:
        d = start_daemon({"plugin storage": bucket(s3, timeout="500ms", connect_timeout="500ms",
                                                   breaker={"failures": 1000, "open": "100ms"})},
                         {"CURL_CA_BUNDLE": str(authority.ca)})
        for i, fault in enumerate(FAULTS):
            failed = count(d, "store_failures")
            s3.there, s3.mode = fault != "gone", fault if fault not in ("gone", "refuse") else "ok"
            if fault == "refuse":
                secret, s3.secret = s3.secret, "another"
            p = caller(phone, d, "user%d" % i, 8000)
            p.play(ramp(.5, 8000), speed=10)
            p.close()
            until(lambda: count(d, "store_failures") > failed, what="%s to be seen" % fault)
            s3.there, s3.mode = True, "ok"
            if fault == "refuse":
                s3.secret = secret
                assert s3.refused
                s3.refused.clear()
        until(lambda: len({k.split("/")[2] for k in s3.objects}) == len(FAULTS) and not spool(d), 40, "all of it")
        assert not s3.refused and count(d, "dropped_bytes") == 0
        # Killed while a batch is on its way, and after it has arrived: it is there, once.
        for fault in ("hang", "lost"):
            s3.mode, before, seen = fault, set(s3.objects), s3.seen
            p = caller(phone, d, "killed-" + fault, 8000)
            p.play(ramp(.5, 8000), speed=10)
            p.close()
            until(lambda: set(s3.objects) > before if fault == "lost" else s3.seen > seen, what="the request")
            d.kill()
            s3.mode = "ok"
            d.start()
            until(lambda: len({k for k in s3.objects if "/killed-%s/" % fault in k}) == 1 and not spool(d), what=fault)
            assert len(list(folder(d, "index").glob("killed-%s/*" % fault))) == 1
    finally:
        s3.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file system of its own")
def test_full_disk(start_daemon, phone):
    d = start_daemon({"plugin storage": {**FAST, "memory_session": "256KiB", "batch": "60s"}})
    until(lambda: folder(d, "").exists(), what="the plugin's folder")
    small = folder(d, "spool")
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(small)], check=True)
    try:
        p = caller(phone, d, "ann", 16000)
        p.play(ramp(6, 16000), speed=20)  # 192,000 bytes: more than the disk, less than the memory
        until(lambda: count(d, "spool_failures") > 0, what="the disk to be full")
        assert count(d, "dropped_bytes") == 0
        p.play(ramp(6, 16000, 60), speed=20)  # and now more than both
        lost = until(lambda: count(d, "dropped_bytes", reason="memory"), what="the loss to be told")
        assert "is lost: the disk does not take it" in d.log() and "No space left" in d.log()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        p.close()
        until(lambda: stored(d) >= 1 and not spool(d), what="the rest to be stored")
        kept = sum(f.stat().st_size - 44 for f in folder(d, "audio").glob("*/*/*"))
        assert kept + lost == 12 * 32000
    finally:
        subprocess.run(["umount", "-l", str(small)])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file system of its own")
def test_directory_without_room(start_daemon, phone):
    """The spool has room, and where recordings are kept there is none: they wait, and nothing half stays there."""
    d = start_daemon({"plugin storage": FAST})
    until(lambda: folder(d, "").exists(), what="the plugin's folder")
    small = folder(d, "audio")
    small.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k,mode=700", "tmpfs", str(small)], check=True)
    try:
        c = record(d, phone, 3)
        until(lambda: count(d, "store_failures", reason="disk") >= 2, what="attempts in vain")
        assert d.logged("No space left") and spool(d)
        assert wav(audio(d, c)[1]) == ramp(3, 16000), "it can be heard all the same"
        assert not [f for f in small.glob("*/*/*") if f.suffix != ".wav"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        settled(d, 3)
        assert stored(d) == 3 and wav(audio(d, c)[1]) == ramp(3, 16000)
        assert len(list(small.glob("*/*/*"))) == 3 and count(d, "dropped_bytes") == 0
    finally:
        subprocess.run(["umount", "-l", str(small)])


def test_bucket_that_vanishes(start_daemon, phone):
    """With what it holds: who listens is told, what is deleted is deleted when it is back, and the next is stored."""
    s3 = S3()
    try:
        d = start_daemon({"plugin storage": bucket(s3, breaker={"failures": 1000})})
        c = record(d, phone, 1.5)
        settled(d, 2)
        s3.there = False
        before = count(d, "reads", outcome="failed")
        try:
            status, body, _ = audio(d, c)
            assert status >= 500 or len(body) < 1.5 * 32000, status
        except (http.client.HTTPException, ConnectionError):
            pass  # it was cut: not to be taken for the whole
        assert count(d, "reads", outcome="failed") > before
        assert rest(d, "DELETE", "/v1/conversations/" + c)[0] == 204
        failed = count(d, "store_failures", reason="status")
        until(lambda: count(d, "store_failures", reason="status") > failed, what="the deletion to be tried")
        assert s3.objects and d.logged("NoSuchBucket")
        until(lambda: audio(d, c)[0] == 404, what="the conversation not to be told any more")
        s3.there = True
        until(lambda: not s3.objects, what="what it held to be deleted")
        c = record(d, phone, 1, uid="bob")
        until(lambda: s3.objects and not spool(d), what="the next to be stored")
        assert wav(audio(d, c, uid="bob")[1]) == ramp(1, 16000)
    finally:
        s3.stop()


def test_keep(start_daemon, phone):
    d = start_daemon({"plugin storage": {**FAST, "keep": "4s", "keep_check": "200ms"}})
    c = record(d, phone, 1)
    settled(d, 1)
    assert audio(d, c)[0] == 200
    until(lambda: not list(folder(d, "audio").glob("*/*/*")), what="it to be old")
    until(lambda: audio(d, c)[0] == 404, what="it to be gone")
    until(lambda: count(d, "batches", outcome="expired") >= 1 and not list(folder(d, "index").glob("*/*")),
          what="its index to be gone")


def test_keep_while_the_bucket_is_down(start_daemon, phone):
    """Each walk finds the same recordings again: one job deletes them, when the bucket is there. Beside it the queue has
    no room for what the user deletes meanwhile: that is told until it has, whatever happens to the daemon."""
    s3 = S3()
    try:
        d = start_daemon({"plugin storage": bucket(s3, keep="1s", keep_check="100ms", uploads=1, breaker={"failures": 1000}),
                          "queue": {"max_jobs": 100, "max_share": 0.015}, "store": {"sweep": "100ms"}})
        c = record(d, phone, 1)
        until(lambda: s3.puts(), what="it to be stored")
        until(lambda: rest(d, "GET", "/v1/conversations/" + c)[0] == 200, what="the conversation")
        s3.mode = "503"
        known = d.metric("omid_queue_duplicates_total")
        until(lambda: d.metric("omid_queue_duplicates_total") >= known + 3, what="walks that find it again")
        jobs = lambda: sum(d.metric("omid_queue_jobs", state=s) for s in ("ready", "delayed", "leased"))
        assert jobs() == 1, {k: v for k, v in d.metrics().items() if k[0] == "omid_queue_jobs"}
        assert rest(d, "DELETE", "/v1/conversations/" + c)[0] == 204
        told_again = lambda: until(lambda: d.metric("omid_queue_over_share_total", outcome="refused") >= 3,
                                   what="the deletion to be told again and again")
        told_again()
        d.kill()
        d.start()
        told_again()
        assert jobs() == 1 and deleted_rows(d) == 1
        s3.mode = "ok"
        until(lambda: not s3.objects and jobs() == 0, what="it to be deleted")
        until(lambda: deleted_rows(d) == 0, what="the deletion to be told")
        until(lambda: list(folder(d, "deleted").glob(c + ".*")), what="its mark, for what comes late")
        assert count(d, "batches", outcome="expired") == 1
    finally:
        s3.stop()


def test_reload_in_the_middle(start_daemon, phone):
    """Another format, and then a bucket, while somebody speaks: all of it is there, whatever each minute is kept as."""
    s3 = S3()
    try:
        d = start_daemon({"plugin storage": FAST})
        p = caller(phone, d, "ann", 16000)
        for n, settings in enumerate(({**FAST, "format": "ogg"}, bucket(s3), {**FAST, "format": "wav"}), 1):
            p.play(ramp(1.5, 16000, 15 * (n - 1)), speed=10)
            d.rewrite({"plugin storage": settings})
            done = subprocess.run([program("omictl"), "--socket", d.control, "reload"], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        p.play(ramp(1.5, 16000, 45), speed=10)
        c = conversation_of(d)
        p.close()
        until(lambda: not spool(d) and d.sessions() == 0, what="all to be stored")
        names = [f.suffix for f in folder(d, "audio").glob("ann/%s/*" % c)]
        assert ".ogg" in names and ".wav" in names and s3.objects and not s3.refused
        samples = 0
        for line in next(folder(d, "index").glob("ann/*")).read_text().splitlines():
            samples += int(line.split()[3])
        assert samples == 6 * 16000 and count(d, "dropped_bytes") == 0
        d.rewrite({"plugin storage": bucket(s3)})  # with the bucket's key again it can all be read
        assert subprocess.run([program("omictl"), "--socket", d.control, "reload"], capture_output=True).returncode == 0
        status, body, _ = audio(d, c)
        assert status == 200 and len(wav(body)) == 6 * 32000
    finally:
        s3.stop()


def test_readers_of_all_kinds(start_daemon, authority):
    """Over TLS: ranges; readers that stop, or vanish, in the middle: each costs a bounded piece of memory, and its place
    only until it is gone."""
    certificate, private = authority.issue()
    c, seconds = "00000000-0000-4000-8000-000000000001", 120
    d = start_daemon({"ingress": {"answer_timeout": "1s", "tls": {"certificate": certificate, "key": private}},
                      "plugin storage": {**FAST, "reads": 3, "batch": "60s"}})
    d.stop()
    sound = b"".join(int(100 * (i % 300)).to_bytes(2, "little") * 1600 for i in range(10 * seconds))
    d.get = lambda path, headers=None, timeout=10.0: d.get_control(path, timeout)  # what is public speaks TLS
    folder(d, "spool").mkdir(exist_ok=True)
    for at in (0, seconds // 2):
        (folder(d, "spool") / ("%s.%d.x.pcm" % (c, 1000000 + 1000 * at))).write_bytes(
            b"omid-spool 1 %d 16000 ann %s\n" % (1000000 + 1000 * at, c.encode()) +
            sound[32000 * at:32000 * (at + seconds // 2)])
    d.start()
    settled(d, 0)
    until(lambda: stored(d) == 2, what="it to be stored")
    host, port = d.address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=authority.ca)

    def ask(method="GET", **headers):
        with socket.create_connection((host, int(port)), 30) as plain, context.wrap_socket(plain, server_hostname=host) as s:
            lines = ["%s /v1/conversations/%s/audio HTTP/1.1" % (method, c), "Host: x", "Connection: close",
                     "Authorization: Bearer " + d.admin_key + "ann"]
            s.sendall(("\r\n".join(lines + ["%s: %s" % (k.replace("_", "-"), v) for k, v in headers.items()]) +
                       "\r\n\r\n").encode())
            r = http.client.HTTPResponse(s, method=method)
            r.begin()
            return r.status, r.read(), r.headers

    status, whole, headers = ask()
    assert status == 200 and whole[44:] == sound and len(whole) == 44 + len(sound)
    assert ask("HEAD")[:2] == (200, b"") and ask("HEAD")[2]["Content-Length"] == str(len(whole))
    for given, want in (("bytes=1000001-1900000", (206, whole[1000001:1900001])), ("bytes=-70001", (206, whole[-70001:])),
                        ("bytes=%d-" % len(whole), (416, None)), ("bytes=0-1,5-6", (200, whole))):
        status, body, _ = ask(Range=given)
        assert status == want[0] and (want[1] is None or body == want[1]), given
    assert ask(Range="bytes=1-2", If_Range=headers["ETag"])[:2] == (206, whole[1:3])
    assert ask(Range="bytes=1-2", If_Range='"no"')[1] == whole

    def begin():
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(30)
        plain.connect((host, int(port)))
        s = context.wrap_socket(plain, server_hostname=host)
        s.sendall(("GET /v1/conversations/%s/audio HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %sann\r\n\r\n" %
                   (c, d.admin_key)).encode())
        status = s.recv(12)
        if status == b"HTTP/1.1 200":
            return s
        s.close()
        assert status == b"HTTP/1.1 503"
        return None  # of those before not all are noticed yet

    def cut(s):
        try:
            return sum(iter(lambda: len(s.recv(65536)), 0)) < len(whole)
        except OSError:
            return True

    before = d.metric("omid_memory_heap_used_bytes")
    for turn in range(4):
        slow = [until(begin, what="a place") for _ in range(3)]
        status, _, headers = ask()
        assert status == 503 and headers["Retry-After"]
        assert d.metric("omid_memory_heap_used_bytes") - before < 20 << 20  # a batch and the pieces before the socket, each
        if turn % 2:  # silent: they are cut when they have not taken a piece in answer_timeout
            until(lambda: ask("HEAD")[0] == 200, what="a silent one to be cut")
            assert any([cut(s) for s in slow])  # and it sees that it was not all
        for s in slow:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        until(lambda: ask("HEAD")[0] == 200, what="the vanished ones to be noticed")
    assert ask()[1] == whole
    until(lambda: d.metric("omid_memory_sessions_bytes") == 0, what="nothing to be left of them")
