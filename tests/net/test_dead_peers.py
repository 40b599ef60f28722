"""
Peers that vanish without a word, as when a phone leaves its network or a provider's host loses its power: the other side
of a cable that is cut. Everything of their sessions is given back.
"""
import json
import time

import pytest

from support.daemon import Daemon, merge
from support.netns import FAR, NEAR, cable_or_skip
from support.settings import KEY
from support.wait import SLOW, until

PROVIDER = """
import sys
from support.deepgram import Deepgram
peer = Deepgram(host=sys.argv[1])
print(peer.port)
for line in sys.stdin:
    print(len(peer.live()), len(peer.attempts))
"""

# Streams until it is told to stop; then it only holds its connection.
CLIENT = """
import base64, os, select, socket, struct, sys
address, token, mode, n = sys.argv[1:]
socks = []
for i in range(int(n)):
    s = socket.create_connection(address.rsplit(":", 1))
    s.sendall(("GET /v4/listen?sample_rate=16000&codec=pcm16%s HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\n"
               "Upgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n"
               "Authorization: Bearer %s%d\\r\\n\\r\\n" % ("&custom_stt=enabled" if mode == "quiet" else "", token, i)).encode())
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += s.recv(1)
    assert b" 101 " in head, head
    socks.append(s)
frame = bytes([0x82, 0xfe]) + struct.pack(">H", 3200) + bytes(4) + struct.pack("<h", 500) * 1600
print("up")
while True:
    for s in socks:
        if mode != "deaf":
            while select.select([s], [], [], 0)[0]:
                if not s.recv(65536):
                    print("closed")
                    sys.exit()
        if mode == "stream":
            s.setblocking(False)
            try:
                s.sendall(frame)
            except BlockingIOError:
                pass
            s.setblocking(True)
    if select.select([sys.stdin], [], [], 0.1)[0] and not sys.stdin.readline():
        break
"""


class Near(Daemon):
    """In the near host; asked by its control socket, which lies in the file system."""

    def get(self, path, headers=None, timeout=10.0):
        return self.get_control(path, timeout)


@pytest.fixture
def cable():
    c = cable_or_skip()
    yield c
    c.end()


@pytest.fixture
def near(cable, tmp_path, reactors):
    """near(settings, pid) -> (daemon, provider); pid: the host of the provider."""
    started = []

    def start(settings, pid=None):
        host = FAR if pid == cable.far else "127.0.0.1"
        provider = cable.python(pid or cable.near, PROVIDER, host)
        url = "http://%s:%d" % (host, int(provider.stdout.readline()))
        folder = tmp_path / "omid"
        folder.mkdir()
        daemon = Near(folder, reactors, merge({
            "ingress": {"address": ["%s:0" % NEAR]}, "listen": {"ping": "200ms", "inactivity": "10min"},
            "stt": {"models": ["dg-nova-3"]}, "plugin deepgram": {"url": url, "key": KEY, "backoff": "20ms"}}, settings))
        daemon.prefix = cable.inside(cable.near)
        started.append(daemon)
        return daemon.start(), provider

    yield start
    for daemon in started:
        try:
            daemon.stop()
        finally:
            daemon.remove()


def streams_of(provider):
    """(live streams, attempts)"""
    provider.stdin.write("?\n")
    provider.stdin.flush()
    return tuple(map(int, provider.stdout.readline().split()))


def client(cable, daemon, mode, n=3):
    c = cable.python(cable.far, CLIENT, daemon.address, daemon.admin_key + mode, mode, n)
    assert c.stdout.readline() == "up\n"
    until(lambda: daemon.sessions() == n, what="%d sessions" % n)
    return c


def total(daemon):
    return json.loads(daemon.get_control("/v1/admin/sessions")[1])["total"]


@pytest.mark.parametrize("mode, settings, within", [
    # Not one byte came, pongs included.
    ("stream", {"receive_timeout": "1500ms", "ping_interval": "300ms"}, 15),
    ("quiet", {"receive_timeout": "1500ms", "ping_interval": "300ms"}, 15),
    # What was sent is not acknowledged: TCP_USER_TIMEOUT, long before the receive timeout.
    ("quiet", {"receive_timeout": "300s", "ping_interval": "0s"}, 75),
], ids=["streaming", "quiet", "unacknowledged"])
def test_clients_that_vanish(cable, near, mode, settings, within):
    daemon, provider = near({"ingress": settings})
    until(lambda: daemon.fds() > 0, what="it to run")
    client(cable, daemon, mode).kill()  # the first of each leave something behind: threads, files
    until(lambda: total(daemon) == 0, what="the first ones' end")
    before = daemon.descriptors()
    client(cable, daemon, mode)
    if mode == "stream":
        until(lambda: streams_of(provider)[0] == 3, what="streams")
        until(lambda: daemon.metric("omid_listen_segments_total") > 0, what="segments")
    cable.cut()
    began = time.monotonic()
    until(lambda: total(daemon) == 0, within, lambda: "the end of %s\n%s" % (total(daemon), daemon.log_tail(30)))
    daemon.metric_is("omid_ingress_websockets", 0)
    assert daemon.sessions() == 0
    assert time.monotonic() - began < within * SLOW
    until(lambda: streams_of(provider)[0] == 0, what="the end of the streams")
    until(lambda: len(daemon.descriptors()) <= len(before), what=lambda: (before, daemon.descriptors()))
    daemon.metric_is("async_supervisor_exit_total", 6, reason="disconnect")
    assert daemon.metric("async_drain_timeout_total") == 0


def test_a_client_that_vanishes_while_we_write(cable, near):
    """A batch is on its way to a client that does not take it: the write makes no progress."""
    daemon, _ = near({"ingress": {"receive_timeout": "1500ms", "ping_interval": "0s"}, "listen": {"ping": "100ms"}})
    client(cable, daemon, "deaf")
    cable.cut()
    until(lambda: total(daemon) == 0, 20, lambda: daemon.log_tail(30))
    daemon.metric_is("omid_ingress_websockets", 0)
    assert daemon.sessions() == 0


def test_a_provider_that_vanishes(cable, near):
    """Its streams are given up within what the replay keeps, and tried anew."""
    daemon, provider = near({"stt": {"replay": "60s"}, "listen": {"drain": "2s"},
                             "plugin deepgram": {"connect_timeout": "1s"}}, cable.far)
    host, port = daemon.address.rsplit(":", 1)
    c = cable.python(cable.near, CLIENT, "%s:%s" % (host, port), daemon.admin_key + "p", "stream", 1)
    assert c.stdout.readline() == "up\n"
    until(lambda: streams_of(provider)[0] == 1, what="a stream")
    until(lambda: daemon.metric("omid_listen_segments_total") > 0, what="segments")
    cable.cut()
    until(lambda: daemon.logged("stream lost"), 60, lambda: daemon.log_tail(30))
    c.kill()
    until(lambda: total(daemon) == 0, 30, lambda: daemon.log_tail(30))
