"""Limits per user and per address, proxies, and crowds that connect and never say anything."""
import http.client
import os
import resource
import signal
import socket
import ssl
import time

import pytest
import websockets
from support.wait import SLOW, holds, until
from test_auth import UPGRADE, status, upgrade, web  # noqa: F401 (a fixture)
from test_ingress import frame

NATIVE, WEB = "/v4/listen?custom_stt=enabled", "/v4/web/listen?custom_stt=enabled"


def over(answer, text):
    code, headers, body = answer
    assert code == 429 and text in body["error"] and 1 <= int(headers["retry-after"]) <= 61, answer


# ---------------------------------------------------------------------------- users


def test_sessions_of_one_user(start_daemon, phone, web):
    daemon = start_daemon({"limits": {"sessions_per_uid": 2}})
    first = phone(daemon, uid="alice", custom_stt="enabled").wait_ready()
    second = web(daemon, custom_stt="enabled").auth(daemon.admin_key + "alice").wait_ready()
    over(upgrade(daemon, daemon.admin_key + "alice"), "at once")
    w = web(daemon, custom_stt="enabled").auth(daemon.admin_key + "alice")
    w.ended(1013)
    assert "too many" in w.close_reason and not w.messages
    daemon.metric_is("omid_ingress_limited_total", 2, limit="sessions_per_uid")
    daemon.metric_is("omid_ingress_greetings_total", 1, result="limit")
    phone(daemon, uid="bob", custom_stt="enabled").wait_ready()
    first.hang_up()
    until(lambda: daemon.sessions() == 2, what="a place")
    phone(daemon, uid="alice", custom_stt="enabled").wait_ready()
    second.close()
    until(lambda: daemon.sessions() == 2, what="a place")
    assert status(daemon, daemon.admin_key + "alice") == 101


def test_upgrades_of_one_user(start_daemon, web):
    daemon = start_daemon({"limits": {"upgrades_per_uid": 5}})
    for _ in range(5):
        assert status(daemon, daemon.admin_key + "alice") == 101
    over(upgrade(daemon, daemon.admin_key + "alice"), "minute")
    w = web(daemon).auth(daemon.admin_key + "alice")
    w.ended(1013)
    assert status(daemon, daemon.admin_key + "bob") == 101
    daemon.metric_is("omid_ingress_limited_total", 2, limit="upgrades_per_uid")
    daemon.metric_is("omid_ingress_upgrades_total", 1, result="limit")


def test_tokens_are_checked_first(start_daemon):
    """Nobody uses up another's share without being him."""
    daemon = start_daemon({"limits": {"upgrades_per_uid": 2}})
    for _ in range(10):
        assert status(daemon, "x" + daemon.admin_key + "alice") == 403
    assert status(daemon, daemon.admin_key + "alice") == 101


# ---------------------------------------------------------------------------- addresses


def test_upgrades_from_one_address(start_daemon):
    daemon = start_daemon({"limits": {"upgrades_per_address": 6}})
    for _ in range(3):
        assert status(daemon, "wrong") == 403  # guessing counts
    for n in range(3):
        assert status(daemon, daemon.admin_key + "u%d" % n) == 101
    over(upgrade(daemon, daemon.admin_key + "u9"), "minute")
    over(upgrade(daemon, path=WEB), "minute")
    assert upgrade(daemon, path="/v4/listen?channels=x")[0] == 400  # before all of it
    assert daemon.get("/healthz")[0] == 200
    daemon.metric_is("omid_ingress_limited_total", 2, limit="upgrades_per_address")


def test_sessions_from_one_address(start_daemon, phone):
    daemon = start_daemon({"limits": {"sessions_per_address": 3}})
    phones = [phone(daemon, custom_stt="enabled").wait_ready() for _ in range(3)]
    over(upgrade(daemon, daemon.admin_key + "z"), "at once")
    phones[0].hang_up()
    until(lambda: daemon.sessions() == 2, what="a place")
    assert status(daemon, daemon.admin_key + "z") == 101


def test_reload_changes_the_limits(start_daemon, phone):
    daemon = start_daemon({"limits": {"sessions_per_uid": 1}})
    phone(daemon, uid="alice", custom_stt="enabled").wait_ready()
    assert status(daemon, daemon.admin_key + "alice") == 429
    daemon.rewrite({"limits": {"sessions_per_uid": 5}})
    daemon.process.send_signal(1)
    until(lambda: status(daemon, daemon.admin_key + "alice") == 101, what="the new limit")


# ---------------------------------------------------------------------------- proxies


def test_behind_a_proxy(start_daemon):
    daemon = start_daemon({"ingress": {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]},
                           "limits": {"upgrades_per_address": 2}})

    def come(forwarded):
        return upgrade(daemon, daemon.admin_key + "alice", X_Forwarded_For=forwarded)[0]

    assert [come("1.2.3.4") for _ in range(3)] == [101, 101, 429]
    assert [come("6.6.6.6, 1.2.3.4") for _ in range(2)] == [429, 429]  # what the client writes itself is nothing
    assert [come("1.2.3.5, 10.1.1.1") for _ in range(3)] == [101, 101, 429]
    assert [come("2001:db8:1:2::%x" % n) for n in range(3)] == [101, 101, 429]  # a /64 is one
    assert [come("nonsense") for _ in range(3)] == [101, 101, 429]  # the proxy itself
    assert daemon.logged("1.2.3.4") and not daemon.logged("6.6.6.6")


def test_strangers_can_not_name_themselves(start_daemon):
    daemon = start_daemon({"limits": {"upgrades_per_address": 2}})
    got = [upgrade(daemon, daemon.admin_key + "alice", X_Forwarded_For="1.2.3.%d" % n)[0] for n in range(4)]
    assert got == [101, 101, 429, 429]


def test_the_proxy_has_no_limit_of_connections(start_daemon):
    settings = {"ingress": {"max_connections_per_address": 3, "trusted_proxies": ["127.0.0.1"]}}
    daemon = start_daemon(settings)
    host, port = daemon.address.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(10)]
    assert daemon.healthz() == 200
    for s in idle:
        s.close()


# ---------------------------------------------------------------------------- crowds


def test_unauthenticated_ones_are_bounded(start_daemon, web, phone):
    daemon = start_daemon({"limits": {"unauthenticated": 20}, "listen": {"auth_timeout": "3s"}})
    some = [web(daemon, custom_stt="enabled") for _ in range(5)]  # a quarter, from one address
    code, headers, body = upgrade(daemon, path=WEB)
    assert code == 503 and "unauthenticated" in body["error"] and int(headers["retry-after"]) >= 1
    phone(daemon, custom_stt="enabled").wait_ready()
    some[0].auth(daemon.admin_key + "alice").wait_ready()
    web(daemon).hang_up()
    for w in some[1:]:
        w.ended(1008, "Auth timeout")
    until(lambda: daemon.metric("omid_ingress_unauthenticated") == 0, what="none")
    daemon.metric_is("omid_ingress_limited_total", 1, limit="unauthenticated")
    web(daemon, custom_stt="enabled").auth(daemon.admin_key + "alice").wait_ready()


class Crowd:
    """Very many connections, from several addresses of the loopback network, that do what `begin` says and then nothing."""

    def __init__(self, daemon, n, addresses=20):
        self.target = ("127.0.0.1", int(daemon.address.rsplit(":", 1)[1]))
        self.sockets = []
        for i in range(n):
            s = socket.socket()
            s.bind(("127.0.1.%d" % (1 + i % addresses), 0))
            s.setblocking(False)
            s.connect_ex(self.target)
            self.sockets.append(s)

    def send(self, begin):
        for i, s in enumerate(self.sockets):
            data = begin(i)
            if data:
                s.setblocking(True)
                s.settimeout(30 * SLOW)
                try:
                    s.sendall(data)
                except OSError:
                    pass  # refused already
                s.setblocking(False)

    def close(self):
        for s in self.sockets:
            s.close()


HANDSHAKE = ("GET %s HTTP/1.1\r\nHost: x\r\n" + "".join("%s: %s\r\n" % h for h in UPGRADE.items()) + "\r\n")
CROWDS = {
    "silent": lambda i: b"",
    "half a line": lambda i: b"GET /v4/li",
    "half a head": lambda i: (HANDSHAKE % NATIVE).encode()[:-2],
    "upgraded": lambda i: (HANDSHAKE % WEB).encode(),
    "half a greeting": lambda i: (HANDSHAKE % WEB).encode() + frame(1, b'{"type":"auth","token":"x"}')[:-9],
    "mixed": lambda i: CROWDS[("silent", "half a line", "half a head", "upgraded")[i % 4]](i),
}


def soon(ask):
    """What it answers; None when there is no place at this moment."""
    try:
        return ask()
    except (OSError, http.client.HTTPException, websockets.WebSocketException, AssertionError):
        return None


def room_for(n):
    """Descriptors, in this process; a daemon started afterwards raises its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(n, (hard if hard != resource.RLIM_INFINITY else 1 << 20) - 1000)
    if soft < n + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n + 500, hard))
    return n


def memory(daemon):
    with open("/proc/%d/status" % daemon.process.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


@pytest.mark.parametrize("kind", list(CROWDS))
def test_a_crowd_that_never_finishes(start_daemon, phone, kind):
    n = room_for(10000 if SLOW <= 4 and kind in ("silent", "mixed") else 2000 if SLOW <= 4 else 500)
    limit = n // 2
    daemon = start_daemon({"ingress": {"max_connections": limit, "max_connections_per_address": limit,
                                       "request_timeout": "6s"},
                           "listen": {"auth_timeout": "2s"},
                           "limits": {"unauthenticated": 100, "sessions_per_address": 100000}})
    before, fds = memory(daemon), daemon.fds()
    calm = phone(daemon, uid="calm", custom_stt="enabled").wait_ready()
    crowd = Crowd(daemon, n)
    try:
        crowd.send(CROWDS[kind])
        # Twice as many as there are places: who asks for something gets it, soon.
        end, served = time.monotonic() + 4, 0
        while time.monotonic() < end:
            until(lambda: soon(daemon.healthz) == 200, 10, "an answer")
            p = until(lambda: soon(lambda: phone(daemon, uid="new%d" % served, custom_stt="enabled")), 10, "a place")
            p.wait_ready()
            p.close()
            served += 1
            assert daemon.fds() <= limit + fds + 400
        assert until(lambda: soon(lambda: daemon.metric("omid_ingress_unauthenticated") <= 100))
        grown = memory(daemon) - before
        # A sanitizer keeps what was freed for a while, and surrounds what is not.
        assert grown < 30 * n + (20000 if SLOW <= 4 else 60000), "%d KiB for %d connections" % (grown, n)
        # As the daemon sees it: of those that the kernel never handed over nobody knows.
        until(lambda: soon(lambda: daemon.metric("omid_ingress_connections") <= 2), 30, "the crowd's end")
        until(lambda: daemon.fds() <= fds + 8, 20, "descriptors")
        calm.send({"type": "suggested_transcript", "segments": [{"text": "Hello.", "speaker": "SPEAKER_00", "start": 0,
                                                                 "end": 1}]})
        until(lambda: "Hello." in calm.text(), what="the one that was there before")
    finally:
        crowd.close()


def test_displaced_while_it_speaks(start_daemon):
    """The rest of a request arrives at the moment when its connection makes room for a newcomer."""
    n = 16
    daemon = start_daemon({"ingress": {"max_connections": n, "request_timeout": "60s"}})
    crowd, late = Crowd(daemon, n), None
    try:
        crowd.send(lambda i: (HANDSHAKE % WEB).encode()[:-2])
        until(lambda: (soon(lambda: daemon.metric("omid_ingress_connections")) or n) >= n, what="the crowd")
        holds(lambda: True, 0.3, "old enough to be displaced")
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:  # all of it is in one turn of the daemon's loop: newcomers first, then what the others had left to say
            late = Crowd(daemon, n)
            crowd.send(lambda i: b"\r\n")
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        until(lambda: soon(daemon.healthz) == 200, 20, "an answer")
        assert daemon.process.poll() is None, daemon.log_tail()
    finally:
        crowd.close()
        if late:
            late.close()


def test_a_crowd_of_tls_handshakes(start_daemon, authority):
    n = room_for(3000 if SLOW <= 4 else 500)
    certificate, private = authority.issue()
    daemon = start_daemon({"ingress": {"max_connections": n // 2, "max_connections_per_address": n // 2, "request_timeout": "4s",
                                       "tls": {"certificate": certificate, "key": private}}})
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40  # cut in its middle
    crowd = Crowd(daemon, n)
    context = ssl.create_default_context(cafile=authority.ca)
    fds = daemon.fds()

    def healthz():
        host, port = daemon.address.rsplit(":", 1)
        c = http.client.HTTPSConnection("localhost", int(port), timeout=20 * SLOW, context=context)
        try:
            c.request("GET", "/healthz")
            return c.getresponse().status
        finally:
            c.close()

    try:
        crowd.send(lambda i: hello if i % 2 else b"\x16")
        for _ in range(3):
            assert until(lambda: soon(healthz), 10, "an answer") == 200
        until(lambda: daemon.fds() <= fds + 8, 30, "the crowd's end")
    finally:
        crowd.close()


# ---------------------------------------------------------------------------- memory


def used(daemon):
    return daemon.status()["memory"]["used"]


def most_of(daemon, begin, body):
    """A connection that says `begin` and most of what it announces, and then nothing."""
    host, port = daemon.address.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout=30 * SLOW)
    s.sendall(begin)
    try:
        s.sendall(body)
    except OSError:
        pass  # refused already
    return s


def over_budget(daemon, phone, begin, body):
    """As many of them as there is room for, one after the other."""
    peers = []
    while used(daemon) < 16 << 20:
        before = used(daemon)
        assert len(peers) < 40, "%d bytes with %d of them" % (before, len(peers))
        # What would pass the budget is refused at once if it is large, and taken if it is small.
        piece = body if before < 15 << 20 else body[:64000]
        peers.append(most_of(daemon, begin(len(peers)), piece))
        until(lambda: used(daemon) >= before + len(piece), what=lambda: "%d bytes to grow" % before)
    p = phone(daemon, custom_stt="enabled")
    until(lambda: p.closed, what="a refusal")
    assert p.close_code == 1013
    return peers


@pytest.mark.parametrize("cut", [1, 3], ids=["whole", "fragments"])
def test_messages_that_never_end(start_daemon, phone, cut):
    """What has come of them counts, and is given back."""
    daemon = start_daemon({"memory": {"sessions": "16MiB"}})
    calm = phone(daemon, uid="calm", custom_stt="enabled").wait_ready()
    body = bytes(960000)
    pieces = b"".join(frame(0 if i else 2, body[i * len(body) // cut:(i + 1) * len(body) // cut], fin=False)
                      for i in range(cut - 1)) + frame(0 if cut > 1 else 2, body[-len(body) // cut:], length=1000000 // cut)
    begin = (HANDSHAKE % NATIVE).encode()
    peers = over_budget(daemon, phone, lambda i: begin.replace(
        b"Host", b"Authorization: Bearer %suser%d\r\nHost" % (daemon.admin_key.encode(), i)), pieces)
    assert not calm.closed
    for s in peers:
        s.close()
    until(lambda: used(daemon) < 1 << 20, what=lambda: "memory in use: %d" % used(daemon))
    phone(daemon, custom_stt="enabled").wait_ready()


def test_bodies_that_never_end(start_daemon, phone):
    """Those of strangers, too: beyond the budget they are told to come again."""
    daemon = start_daemon({"memory": {"sessions": "16MiB"}, "ingress": {"request_timeout": "10min"}})
    head = b"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"
    peers = over_budget(daemon, phone, lambda i: head, bytes(1000000))
    late = most_of(daemon, head, bytes(200000))
    assert late.recv(4096).startswith(b"HTTP/1.1 503 ")
    daemon.metric_is("omid_ingress_refused_total", 1, reason="memory")
    assert daemon.healthz() == 200
    for s in peers + [late]:
        s.close()
    until(lambda: used(daemon) < 1 << 20, what=lambda: "memory in use: %d" % used(daemon))
    phone(daemon, custom_stt="enabled").wait_ready()
