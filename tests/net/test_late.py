"""Answers that come too late or never, descriptors that run out, and the end of the daemon while everything hangs."""
import http.client
import json
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from support.daemon import merge
from support.deepgram import Mode
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import SLOW, until

BUILD = os.environ.get("OMID_BUILD_TREE")
PLUGINS = Path(BUILD or ".") / "tests/plugins/.libs"
needs_plugins = pytest.mark.skipif(not (PLUGINS / "stuck.so").exists(),
                                   reason="needs the test plugins; set OMID_BUILD_TREE to a tree after make check")


def block(name, **more):
    return {"plugin " + name: {"path": PLUGINS / (name + ".so"), **more}}


def post(daemon, path):
    """(status, body) of an authenticated POST."""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
    try:
        c.request("POST", path, body=b"{}", headers={"Authorization": "Bearer " + daemon.admin_key + "late",
                                                     "Content-Type": "application/json"})
        response = c.getresponse()
        return response.status, json.loads(response.read())
    finally:
        c.close()


# ------------------------------------------------------------------------------ 504


@needs_plugins
def test_a_plugin_that_forgets_a_request(start_daemon):
    daemon = start_daemon(merge({"ingress": {"answer_timeout": "500ms"}}, block("bad_route")))
    began = time.monotonic()
    assert post(daemon, "/bad?forget") == (504, {"error": "the plugin did not answer in time"})
    assert time.monotonic() - began >= 0.5
    assert daemon.logged("a plugin left a request unanswered.*bad_route") and daemon.healthz() == 200
    daemon.metric_is("omid_ingress_requests_total", 1, **{"class": "5xx"})


@needs_plugins
def test_a_reactor_that_is_held(start_daemon, reactors):
    """Nobody is there to say it: ingress itself does, and what comes later is thrown away."""
    daemon = start_daemon(merge({"ingress": {"answer_timeout": "300ms"}}, block("bad_hold")))
    status, body = daemon.get("/hold?%d" % int(3000 * SLOW))
    assert status == 504 and json.loads(body) == {"error": "no answer in time"}
    daemon.metric_is("omid_ingress_answers_late_total", 1)
    assert daemon.healthz() == 200  # ingress is not held
    until(lambda: daemon.logged("a callback held its loop|a callback holds its loop"), what="the watchdog")
    until(lambda: daemon.get("/hold?0")[0] == 200, 30, what="the reactor again")


# ------------------------------------------------------------------------------ descriptors


def test_no_descriptor_for_a_client(start_daemon, deepgram, phone):
    """Clients wait in the kernel's queue meanwhile, sessions go on, the thread does not spin; then all is as before."""
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(0.5, speed=4)
    soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (daemon.fds() + 4, hard))
    host, port = daemon.address.rsplit(":", 1)
    waiting = [socket.create_connection((host, int(port)), timeout=10 * SLOW) for _ in range(20)]
    until(lambda: daemon.logged("cannot accept.*Too many open files"), what=lambda: daemon.log_tail(20))
    said = len(p.text())
    p.speak(1.5, speed=2)
    until(lambda: len(p.text()) > said, what="text of the session that lives")
    began = os.times().elapsed, sum(ticks_of(daemon))
    time.sleep(0.5)  # a measurement, not a wait
    spent = (sum(ticks_of(daemon)) - began[1]) / os.sysconf("SC_CLK_TCK")
    assert spent < 0.4 * (os.times().elapsed - began[0]), "it spins"
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    for s in waiting:
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    for s in waiting:
        assert s.recv(100).startswith(b"HTTP/1.1 200")
        s.close()
    daemon.metric_reaches("omid_ingress_refused_total", 1, reason="descriptors")
    q = phone(daemon).wait_ready()
    q.close()
    p.close()
    until(lambda: daemon.sessions() == 0, what="the end")


def ticks_of(daemon):
    return [int(v) for v in Path("/proc/%d/stat" % daemon.process.pid).read_text().rsplit(")", 1)[1].split()[11:13]]


# ------------------------------------------------------------------------------ the end while everything hangs


@needs_plugins
def test_work_that_never_ends_keeps_no_session(start_daemon, deepgram, receiver, phone):
    """A webhook, a provider and a job on an executor hang: sessions end, and so does the daemon, within its drain."""
    receiver.on("/hook", Answer(hang=True))
    deepgram.default = Mode(silent=True)
    settings = merge(with_deepgram(deepgram, close_timeout="60s"), {
        "listen": {"drain": "500ms"}, "daemon": {"drain": "3s"},
        "plugin webhooks": {"realtime_transcript": [receiver.url("/hook")], "memory_created": [receiver.url("/hook")],
                            "transcript_interval": "100ms", "timeout": "300s"}})
    daemon = start_daemon(merge(settings, block("stuck")))
    for i in range(3):
        p = phone(daemon, uid="hung%d" % i).wait_ready()
        p.speak(0.2)
        t = phone(daemon, uid="talks%d" % i, custom_stt="enabled").wait_ready()
        t.send({"type": "suggested_transcript", "segments": [{"text": "Hello.", "speaker": "SPEAKER_00", "start": 0, "end": 1}]})
        until(lambda t=t: "Hello." in t.text(), what="text")
        if i < 2:
            p.hang_up()
            t.hang_up()
    until(lambda: receiver.at("/hook"), what="the receiver to be asked")
    until(lambda: json.loads(daemon.get_control("/v1/admin/sessions")[1])["total"] == 2, what=lambda: daemon.log_tail(20))
    assert daemon.healthz() == 200
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 8 * SLOW
    assert daemon.logged("never_ends")
