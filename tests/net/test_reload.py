"""Reload: what changes, what stays, and that nobody who is connected notices."""
import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
import websockets

from support.aio import background
from support.daemon import PREFIX, merge, program
from support.settings import with_deepgram
from support.wait import SLOW, holds, until


@pytest.fixture(scope="session")
def builds(tmp_path_factory):
    """{"one": a build of the test plugin, "two": another one, "broken": no shared object}"""
    folder = tmp_path_factory.mktemp("versioned")
    source = Path(__file__).parent / "support" / "versioned.c"
    out = {}
    for name in ("one", "two"):
        out[name] = folder / (name + ".so")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-fvisibility=hidden", "-Wall",
                        "-I%s" % (PREFIX / "include"), '-DANSWER="%s"' % name, str(source), "-o", str(out[name])],
                       check=True)
    out["broken"] = folder / "broken.so"
    out["broken"].write_text("this is no shared object, but long enough to have a header of one, if it were\n")
    return out


class Reloading:
    """A daemon whose settings a test changes."""

    def __init__(self, start_daemon, tmp_path, settings, environment=None):
        self.so = tmp_path / "versioned.so"
        self.settings = settings
        self.daemon = start_daemon(settings, environment)

    def write(self, more):
        """The running settings with these changed; None takes one away."""
        self.settings = merge(self.settings, more)
        self.daemon.rewrite(self.settings)

    def ctl(self, *args):
        return subprocess.run([str(program("omictl")), "--socket", self.daemon.control, *args], capture_output=True,
                              text=True, timeout=60 * SLOW)

    def reload(self, more=None, ok=True):
        if more is not None:
            self.write(more)
        done = self.ctl("--json", "reload")
        told = json.loads(done.stdout)
        assert told["ok"] == ok and done.returncode == (0 if ok else 1), (done, self.daemon.log_tail(20))
        return told

    def plugins(self, name=None):
        code, body = self.daemon.get_control("/v1/admin/plugins")
        assert code == 200
        return [p for p in json.loads(body)["plugins"] if name in (None, p["name"])]

    def settled(self):
        """Nothing is on its way out any more."""
        until(lambda: all(p["state"] == "running" for p in self.plugins()), 30,
              lambda: [(p["name"], p["state"], p["in_flight"]) for p in self.plugins()])


def install(build, path):
    """As `install` does it: a new file takes the name."""
    shutil.copy(build, str(path) + ".new")
    os.rename(str(path) + ".new", path)


@pytest.fixture
def versioned(start_daemon, tmp_path, builds):
    install(builds["one"], tmp_path / "versioned.so")
    return Reloading(start_daemon, tmp_path, {"plugin versioned": {"path": tmp_path / "versioned.so", "word": "a"},
                                              "plugin echo": {}})


def post(daemon, path="/versioned", body=b"x"):
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10 * SLOW)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Socket:
    """A WebSocket that stays open."""

    def __init__(self, daemon, path="/versioned"):
        async def connect():
            return await websockets.connect("ws://%s%s" % (daemon.address, path), compression=None, ping_interval=None)
        self.ws = background().run(connect())

    def ask(self, text="x"):
        async def once():
            await self.ws.send(text)
            return await asyncio.wait_for(self.ws.recv(), 10 * SLOW)
        return background().run(once())

    def close(self):
        background().run(self.ws.close())


def test_nothing_changed(versioned):
    before = [(p["name"], p["generation"]) for p in versioned.plugins()]
    assert re.search(r"0 added, 0 removed, 0 replaced, 2 as they were", versioned.reload()["summary"])
    assert [(p["name"], p["generation"]) for p in versioned.plugins()] == before
    # Written anew, with other comments: the same bytes of plugin and settings.
    os.utime(versioned.so)
    with open(versioned.daemon.conf, "r+") as f:
        text = f.read()
        f.seek(0)
        f.write("# moved\n\n" + text)
    assert "2 as they were" in versioned.reload()["summary"]
    assert post(versioned.daemon) == (200, "one a 1")


def test_setting_of_a_plugin(versioned):
    old = Socket(versioned.daemon)
    assert old.ask() == "one a 1"
    versioned.reload({"plugin versioned": {"word": "b"}})
    assert old.ask() == "one a 1" and post(versioned.daemon) == (200, "one b 1")
    new = Socket(versioned.daemon)
    assert new.ask() == "one b 1"
    assert sorted(p["state"] for p in versioned.plugins("versioned")) == ["retiring", "running"]
    holds(lambda: old.ask() == "one a 1", 0.3)
    old.close()
    versioned.settled()
    assert new.ask() == "one b 1" and len(versioned.plugins("versioned")) == 1
    new.close()


def test_replaced_file(versioned, builds):
    old = Socket(versioned.daemon)
    install(builds["two"], versioned.so)
    assert post(versioned.daemon) == (200, "one a 1")
    assert "1 replaced, 1 as they were" in versioned.reload()["summary"]
    assert old.ask() == "one a 1" and post(versioned.daemon) == (200, "two a 1")
    # Overwritten in place, which would change the code under a plugin that was mapped from it.
    with open(builds["one"], "rb") as f, open(versioned.so, "r+b") as to:
        to.write(f.read())
        to.truncate()
    assert old.ask() == "one a 1" and post(versioned.daemon) == (200, "two a 1")
    versioned.reload()
    assert post(versioned.daemon) == (200, "one a 1")
    old.close()
    versioned.settled()


def test_added_and_removed(versioned):
    assert post(versioned.daemon, "/echo", b"hi") == (200, "hi")
    old = Socket(versioned.daemon, "/echo")
    assert "1 removed" in versioned.reload({"plugin echo": None})["summary"]
    assert post(versioned.daemon, "/echo")[0] == 404
    assert old.ask("still") == "still"
    assert [p["state"] for p in versioned.plugins("echo")] == ["retiring"]
    assert "1 added" in versioned.reload({"plugin echo": {}})["summary"]
    assert post(versioned.daemon, "/echo", b"again") == (200, "again") and old.ask("still") == "still"
    old.close()
    versioned.settled()
    code, body = versioned.daemon.get("/metrics")
    up = re.findall(rb'^omid_plugin_up\{plugin="echo"\} (\d)$', body, re.M)
    assert code == 200 and up == [b"1"]
    assert re.search(rb'^omid_reloads_total\{result="ok"\} 2$', body, re.M)


FAULTS = {
    "syntax": (lambda text: text + "\nplugin {\n", r"omi.conf:\d+: "),
    "unknown": (lambda text: text.replace('word = "a"', 'wrod = "a"'), r"omi.conf:\d+: plugin versioned: wrod: unknown"),
    "range": (lambda text: text + "\nmemory { sessions = 1KiB }\n", r"omi.conf:\d+: memory.sessions: expected"),
    "configure": (lambda text: text.replace('word = "a"', 'word = "refused"'),
                  r"omi.conf:\d+: plugin versioned: word: this word is refused"),
    "start": (lambda text: text.replace('word = "a"', 'fail_start = true'),
              r"omi.conf:\d+: plugin versioned: can't be taken into a running daemon: start\(\) failed"),
    "lane": (lambda text: text.replace('word = "a"', 'word = "a"\nsemaphore = 0'),
             r"omi.conf:\d+: plugin versioned: semaphore: expected"),
    "certificate": (lambda text: text.replace('word = "a"', 'word = "b"\ntls { certificate = "c.pem" key = "k.pem" }'),
                    r"omi.conf:\d+: plugin versioned: tls.certificate: .*c.pem: No such file"),
    "target": (lambda text: text.replace('word = "a"', 'word = "b"\ntarget "http://a/" { timeout = 0s }'),
               r"omi.conf:\d+: plugin versioned: target http://a/: timeout: expected"),
    "prefix": (lambda text: text.replace('word = "a"', 'word = "b"\ntarget "http://me:pw@a/" { timeout = 5s }'),
               r"omi.conf:\d+: plugin versioned: target http://\*\*\*@a/: expected a URL without user"),
    "twice": (lambda text: text + "\nplugin echo { }\n", r"omi.conf:\d+: plugin echo: there is a block of this name"),
    "missing": (lambda text: text + '\nplugin nobody { }\n', r"omi.conf:\d+: .*plugin nobody: .*No such file"),
    "required": (lambda text: text + '\nplugin nobody { required = true }\n', r"omi.conf:\d+: plugin nobody: .*No such"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_fault_changes_nothing(versioned, fault):
    daemon, (change, expected) = versioned.daemon, FAULTS[fault]
    good, old = daemon.conf.read_text(), Socket(daemon)
    before = [(p["name"], p["generation"], p["state"]) for p in versioned.plugins()]
    # Others of the same file would be fine, and are not taken either.
    daemon.conf.write_text(change(good).replace("plugin echo {", 'plugin echo {\nauth = "token"', 1))
    told = versioned.reload(ok=False)
    assert re.search(expected, "\n".join(told["faults"])), told
    until(lambda: [(p["name"], p["generation"], p["state"]) for p in versioned.plugins()] == before, 10, "the former")
    assert old.ask() == "one a 1" and post(daemon) == (200, "one a 1") and post(daemon, "/echo", b"e") == (200, "e")
    plain = versioned.ctl("reload")
    assert plain.returncode == 1 and re.search(expected, plain.stderr) and plain.stdout == ""
    daemon.conf.write_text(good)
    assert "2 as they were" in versioned.reload()["summary"]
    old.close()


def test_broken_file_of_a_plugin(versioned, builds):
    install(builds["broken"], versioned.so)
    told = versioned.reload(ok=False)
    assert re.search(r"omi.conf:\d+: .*plugin versioned: .*versioned.so: invalid ELF header", "\n".join(told["faults"]))
    assert post(versioned.daemon) == (200, "one a 1")
    versioned.so.unlink()
    assert "No such file" in "\n".join(versioned.reload(ok=False)["faults"])
    assert post(versioned.daemon) == (200, "one a 1")


def test_broken_before(start_daemon, tmp_path, builds):
    """A plugin that did not run before is no reason to refuse what else has changed; it is tried again each time."""
    install(builds["broken"], tmp_path / "versioned.so")
    r = Reloading(start_daemon, tmp_path, {"plugin versioned": {"path": tmp_path / "versioned.so", "word": "a"},
                                           "plugin echo": {}})
    assert [p["state"] for p in r.plugins("versioned")] == ["failed"]
    assert post(r.daemon, "/echo", b"hi") == (200, "hi")
    told = r.reload({"plugin echo": {"auth": "token"}})
    assert "0 added, 0 removed, 1 replaced, 1 as they were" in told["summary"]
    assert re.search(r"omi.conf:\d+: warning: plugin versioned: .*invalid ELF header", "\n".join(told["faults"]))
    assert post(r.daemon, "/echo", b"hi")[0] == 401
    # Repaired, it is there with the next one.
    install(builds["one"], r.so)
    assert "1 added" in r.reload()["summary"]
    assert post(r.daemon) == (200, "one a 1")
    r.settled()
    # Now it runs, and its fault counts.
    install(builds["broken"], r.so)
    r.reload({"plugin echo": {}}, ok=False)
    assert post(r.daemon) == (200, "one a 1") and post(r.daemon, "/echo", b"hi")[0] == 401


def test_failed_start_before(start_daemon, tmp_path, builds):
    install(builds["one"], tmp_path / "versioned.so")
    r = Reloading(start_daemon, tmp_path, {
        "plugin versioned": {"path": tmp_path / "versioned.so", "fail_start": True}, "plugin echo": {}})
    assert [p["state"] for p in r.plugins("versioned")] == ["failed"]
    told = r.reload({"plugin echo": {"auth": "token"}})
    assert re.search(r"omi.conf:\d+: warning: plugin versioned: failed again: start\(\) failed", "\n".join(told["faults"]))
    assert post(r.daemon, "/echo", b"hi")[0] == 401
    # One that says something else is meant to run.
    told = r.reload({"plugin versioned": {"word": "b"}, "plugin echo": {}}, ok=False)
    assert re.search(r"plugin versioned: can't be taken", "\n".join(told["faults"]))
    assert post(r.daemon, "/echo", b"hi")[0] == 401
    assert "1 added" in r.reload({"plugin versioned": {"fail_start": False, "word": "c"}})["summary"]
    assert post(r.daemon) == (200, "one c 1")
    r.settled()


def certificate_of(daemon):
    host, port = daemon.address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=10 * SLOW) as s, context.wrap_socket(s) as t:
        return t.getpeercert(True)


def test_certificates(start_daemon, tmp_path, authority):
    """They are read anew, a bad one is refused with its line, and who is connected stays."""
    def issue(name):
        for source, to in zip(authority.issue(name), (tmp_path / "server.pem", tmp_path / "server.key")):
            install(source, to)
    issue("one.example")
    r = Reloading(start_daemon, tmp_path, {"ingress": {"tls": {"certificate": tmp_path / "server.pem",
                                                               "key": tmp_path / "server.key"}}, "plugin echo": {}})
    first = certificate_of(r.daemon)
    host, port = r.daemon.address.rsplit(":", 1)
    context = ssl._create_unverified_context()
    old = http.client.HTTPSConnection(host, int(port), timeout=10 * SLOW, context=context)
    old.connect()
    issue("two.example")
    assert certificate_of(r.daemon) == first
    r.reload()
    until(lambda: certificate_of(r.daemon) != first, what="the new certificate")
    second = certificate_of(r.daemon)
    old.request("GET", "/healthz")
    assert old.getresponse().status == 200
    old.close()
    for path, content, key in ((tmp_path / "server.pem", "nonsense", "certificate"),
                               (tmp_path / "server.key", "nonsense", "key"),
                               (tmp_path / "server.key", authority.issue("three.example")[1].read_text(), "key")):
        good = path.read_text()
        path.write_text(content)
        told = r.reload({"plugin echo": {"auth": "token"}}, ok=False)
        assert re.search(r"omi.conf:\d+: ingress.tls.%s: expected" % key, "\n".join(told["faults"])), told
        assert certificate_of(r.daemon) == second
        path.write_text(good)
    r.reload({"plugin echo": {}})


def test_sighup_during_start_and_stop(start_daemon, tmp_path, builds, phone, deepgram):
    """Neither kills it: one that comes early is a reload when it is ready, one that comes late is none."""
    install(builds["one"], tmp_path / "versioned.so")
    r = Reloading(start_daemon, tmp_path, merge(with_deepgram(deepgram), {
        "plugin versioned": {"path": tmp_path / "versioned.so", "word": "a"}}))
    r.daemon.stop()
    log_before = len(r.daemon.logged("reloaded: "))
    ended = threading.Event()

    def shower():
        waits_for_it = None
        while not ended.is_set():  # faster than reloads are done: there is always one that waits
            process = r.daemon.process
            if process is None or process.poll() is not None:
                continue
            if process is waits_for_it or masked(process.pid):
                waits_for_it = process
                process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=shower)
    thread.start()
    try:
        r.daemon.start()
        until(lambda: len(r.daemon.logged("reloaded: ")) > log_before, what="a reload")
        assert post(r.daemon) == (200, "one a 1")
        p = phone(r.daemon).wait_ready()
        p.speaking(2.0, 300).result(60)
        r.daemon.stop()  # it looks at the status: 0
    finally:
        ended.set()
        thread.join()


def masked(pid):
    """Does the process wait for SIGHUP? Before, it is like any other that is just beginning."""
    try:
        status = Path("/proc/%d/status" % pid).read_text()
    except OSError:
        return False
    return bool(int(re.search(r"SigBlk:\s+(\w+)", status).group(1), 16) & 1 << (signal.SIGHUP - 1))


def test_what_cannot_change(versioned, tmp_path):
    told = versioned.reload({"daemon": {"reactors": 2, "state_dir": tmp_path / "elsewhere"},
                             "ingress": {"address": ["127.0.0.1:1"]}, "plugin versioned": {"word": "b"}})
    for key in ("daemon: reactors", "daemon: state_dir", "ingress: address"):
        key = key.replace(": ", "[:.] ?")
        assert re.search(r"warning: %s: can't change while omid runs" % key, "\n".join(told["faults"])), told
    assert post(versioned.daemon) == (200, "one b 1")


def test_limits(versioned):
    assert post(versioned.daemon, "/echo", b"x" * 5000)[0] == 200
    versioned.reload({"ingress": {"max_body": "2KiB"}, "log": {"level": "info"}})
    until(lambda: post(versioned.daemon, "/echo", b"x" * 5000)[0] == 413, what="the smaller limit")


def test_sighup(versioned):
    versioned.write({"plugin versioned": {"word": "hup"}})
    versioned.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: post(versioned.daemon) == (200, "one hup 1"), what="the new setting")
    versioned.daemon.conf.write_text("nonsense")
    versioned.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: versioned.daemon.logged(r"not reloaded, everything is as it was"), what="the refusal")
    assert versioned.daemon.logged(r"omi.conf:1")
    assert post(versioned.daemon) == (200, "one hup 1")


def lane(daemon, name):
    return [entry for entry in daemon.status()["lanes"] if entry["name"] == name]


def test_lane_of_a_live_stream(start_daemon, tmp_path, deepgram, phone):
    r = Reloading(start_daemon, tmp_path, with_deepgram(deepgram, semaphore=8))
    p = phone(r.daemon).wait_ready()
    speaking = p.speaking(3.0, 700)
    assert "1 as they were (1 with another lane)" in r.reload({"plugin deepgram": {"semaphore": 3}})["summary"]
    until(lambda: lane(r.daemon, "deepgram")[0]["semaphore"] == 3, what="the lane's new setting")
    speaking.result(60)
    until(lambda: "v700 n6." in p.text(), what="all of the transcript")
    assert not p.closed and len(deepgram.streams) == 1


def test_provider_changed_and_removed_under_live_streams(start_daemon, tmp_path, deepgram, phone):
    """A stream stays with the plugin it was opened on, changed or removed, to its end."""
    r = Reloading(start_daemon, tmp_path, with_deepgram(deepgram))
    first = phone(r.daemon).wait_ready()
    a = first.speaking(4.0, 700)
    r.reload({"plugin deepgram": {"close_timeout": "4s"}})
    second = phone(r.daemon).wait_ready()
    b = second.speaking(3.0, 800)
    r.reload({"plugin deepgram": None, "plugin echo": {}})
    assert [p["state"] for p in r.plugins("deepgram")] == ["retiring", "retiring"]
    assert len(lane(r.daemon, "deepgram")) == 1
    a.result(60)
    b.result(60)
    until(lambda: "v700 n8." in first.text() and "v800 n6." in second.text(), what=lambda: (first.text(), second.text()))
    third = phone(r.daemon)
    until(lambda: third.closed, what="the refusal: nobody serves the language")
    assert not first.closed and not second.closed and len(deepgram.streams) == 2
    first.close()
    second.close()
    until(lambda: not deepgram.live(), what="the end of the streams")
    r.settled()
    assert r.plugins("deepgram") == []


def test_webhooks_replaced_in_mid_session(start_daemon, tmp_path, deepgram, receiver, phone):
    """Nothing of a session's audio and transcript is lost or told twice when the consumer is replaced."""
    r = Reloading(start_daemon, tmp_path, merge(with_deepgram(deepgram), {"plugin webhooks": {
        "transcript_interval": "100ms", "realtime_transcript": [receiver.url("/transcript")],
        "audio_bytes": [receiver.url("/audio") + ",1"]}}))
    p = phone(r.daemon).wait_ready()
    speaking = p.speaking(4.0, 500)
    for n in range(5):
        until(lambda: len(re.findall(r"n\d+\.", p.text())) > n, what="results")
        r.reload({"plugin webhooks": {"transcript_interval": "%dms" % (110 + n)}})
    speaking.result(60)
    until(lambda: "n8." in p.text(), what="all results")
    p.close()
    until(lambda: sum(len(d.body) for d in receiver.at("/audio")) >= 64000, what="all the audio")
    assert sum(len(d.body) for d in receiver.at("/audio")) == 64000
    r.settled()


def resources(daemon):
    pid = daemon.process.pid
    with open("/proc/%d/status" % pid) as f:
        status = f.read()
    with open("/proc/%d/maps" % pid) as f:
        libraries = len([line for line in f if "memfd:" in line])
    return {"fds": daemon.fds(), "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1)),
            "libraries": libraries, "rss": int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024}


def test_hundred_reloads_under_load(start_daemon, tmp_path, builds, deepgram, phone):
    live = int(os.environ.get("OMID_RELOAD_SESSIONS", "200"))
    install(builds["one"], tmp_path / "versioned.so")
    r = Reloading(start_daemon, tmp_path, merge(with_deepgram(deepgram), {
        "plugin versioned": {"path": tmp_path / "versioned.so", "word": "a"}, "plugin echo": {}}),
        # What AddressSanitizer keeps of freed memory would count as growth.
        {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:quarantine_size_mb=4:thread_local_quarantine_size_kb=64"})
    phones = [phone(r.daemon) for _ in range(live)]
    for p in phones:
        p.wait_ready(60)
    sockets = [Socket(r.daemon, "/echo") for _ in range(5)]
    seconds = 4.0
    rounds = [p.speaking(seconds, 500 + i) for i, p in enumerate(phones)]

    def once(n):
        if n % 4 == 0:
            install(builds["two" if n % 8 == 0 else "one"], r.so)
        r.reload({"plugin versioned": {"word": "w%d" % n}, "plugin deepgram": {"semaphore": 4 + n % 3},
                  "plugin echo": {} if n % 5 else None})
        assert post(r.daemon)[1].split()[1] == "w%d" % n
        for s in sockets:
            assert s.ask("r%d" % n) == "r%d" % n

    for n in range(1, 21):  # what the first ones fill stays filled
        once(n)
    until(lambda: len(r.plugins("versioned")) == 1, 30, "the former ones' end")
    before = resources(r.daemon)
    for n in range(21, 121):
        once(n)
    for f in rounds:
        f.result(120)
    wanted = "n%d." % (seconds * 2)
    until(lambda: all(wanted in p.text() for p in phones), 60,
          lambda: "transcripts: %s" % [p.text() for p in phones if wanted not in p.text()][:3])
    assert not any(p.closed for p in phones)
    until(lambda: len(r.plugins("versioned")) == 1, 30, "the former ones' end")
    after = resources(r.daemon)
    print(before, after)
    assert after["threads"] == before["threads"] and after["fds"] <= before["fds"] + 3
    assert after["libraries"] <= before["libraries"] + 12 and after["rss"] < before["rss"] * 1.1 + 16
    for s in sockets:
        s.close()
    for p in phones:
        p.close()
    until(lambda: r.daemon.sessions() == 0, 60, "the sessions' end")
    r.settled()
