"""Ingress, of the whole daemon or alone, and connections to it whose every byte is written by hand."""
import base64
import hashlib
import os
import socket
import struct
import subprocess

import pytest

from .daemon import ADMIN_KEY, Daemon, merge, render
from .wait import SLOW, until

HARNESS = os.environ.get("OMID_INGRESS_HARNESS")
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(b"0123456789abcdef").decode()
ACCEPT = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


class Harness(Daemon):
    """tests/unit/test_ingress --serve in the place of the daemon."""

    def __init__(self, folder, settings):
        self.dir, self.log_file = folder, folder / "harness.log"
        self.conf = folder / "harness.conf"
        self.conf.write_text(render(merge({"ingress": {"address": ["127.0.0.1:0"]},
                                           "auth": {"admin_key": ADMIN_KEY}}, settings)) + "\n")

    def start(self):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen([HARNESS, "--serve", str(self.conf)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline().split()
        assert line, "the harness ended:\n" + self.log()
        self.address, self.control = line
        return self

    def stop(self, deadline=30.0):
        if self.process is None:
            return
        self.process.stdin.close()
        status = self.process.wait(deadline * SLOW)
        self.process = None
        assert status == 0, "the harness ended with %s:\n%s" % (status, self.log_tail())
        self.check_reports()


def serve_daemon(start_daemon):
    """serve(ingress settings, section=...) -> a running ingress with /echo."""
    return lambda settings=None, **more: start_daemon(merge({"plugin echo": {}, "ingress": settings or {}}, more))


def serve_harness(tmp_path):
    started = []

    def start(settings=None, **more):
        folder = tmp_path / ("ingress%d" % len(started))
        folder.mkdir()
        started.append(Harness(folder, merge({"ingress": settings or {}}, more)))
        return started[-1].start()

    yield start
    try:
        for harness in started:
            harness.stop()
    finally:
        for harness in started:
            harness.kill()


serve = pytest.fixture(serve_harness if HARNESS else serve_daemon, name="serve")


# ---------------------------------------------------------------- raw connections

def dial(daemon, timeout=20.0):
    host, port = daemon.address.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout * SLOW)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_head(s):
    """(status, headers, what came behind them)"""
    data = b""
    while b"\r\n\r\n" not in data:
        more = s.recv(4096)
        if not more:
            return None, {}, data
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, rest


def read_body(s, headers, rest):
    while len(rest) < int(headers.get("content-length", 0)):
        more = s.recv(65536)
        assert more, "the end within a body"
        rest += more
    return rest


def ask(daemon, raw):
    """One request as bytes; (status, headers, body)."""
    with dial(daemon) as s:
        s.sendall(raw if isinstance(raw, bytes) else raw.encode("latin-1"))
        status, headers, rest = read_head(s)
        return status, headers, read_body(s, headers, rest)


def upgrade(path="/echo", drop=(), **change):
    headers = {"Host": "localhost", "Connection": "Upgrade", "Upgrade": "websocket",
               "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
    headers.update({k.replace("_", "-"): v for k, v in change.items()})
    lines = ["GET %s HTTP/1.1" % path] + ["%s: %s" % kv for kv in headers.items() if kv[0] not in drop]
    return "\r\n".join(lines) + "\r\n\r\n"


def frame(op, payload=b"", fin=True, mask=b"\x11\x22\x33\x44", rsv=0, length=None):
    n = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | op])
    if n < 126:
        head += bytes([bit | n])
    elif n < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    if mask:
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        head += mask
    return head + payload


class Raw:
    """A WebSocket whose every byte is ours."""

    def __init__(self, daemon, path="/echo", s=None, rest=b""):
        self.s = s or dial(daemon)
        self.s.sendall(upgrade(path).encode() + rest)
        status, headers, self.buffer = read_head(self.s)
        assert status == 101, status
        assert headers["sec-websocket-accept"] == ACCEPT
        assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"

    def send(self, *frames):
        self.s.sendall(b"".join(frames))

    def take(self, n):
        while len(self.buffer) < n:
            more = self.s.recv(65536)
            if not more:
                return None
            self.buffer += more
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def read(self):
        """(opcode, payload), or None at the end."""
        head = self.take(2)
        if head is None:
            return None
        assert head[0] & 0x70 == 0 and not head[1] & 0x80, "reserved bits or a mask from the server"
        n = head[1] & 0x7f
        if n == 126:
            n, = struct.unpack(">H", self.take(2))
        elif n == 127:
            n, = struct.unpack(">Q", self.take(8))
        return head[0] & 0x0f, self.take(n)

    def expect_close(self, code):
        """Close with this code, then the end: the server closes first once the handshake is done."""
        got = self.read()
        while got and got[0] != CLOSE:
            got = self.read()
        assert got, "the end without a Close"
        assert struct.unpack(">H", got[1][:2])[0] == code, got
        try:
            self.s.sendall(frame(CLOSE, got[1][:2]))
        except OSError:
            pass
        assert self.read() is None
        self.s.close()


@pytest.fixture
def alive(serve):
    """One ingress for many faults; after each it still serves."""
    daemon = serve()
    yield daemon
    ws = Raw(daemon)
    ws.send(frame(TEXT, b"still here"))
    assert ws.read() == (TEXT, b"still here")
    ws.send(frame(CLOSE, struct.pack(">H", 1000)))
    assert ws.read() == (CLOSE, struct.pack(">H", 1000))
    assert ws.read() is None
    assert daemon.healthz() == 200
    until(lambda: daemon.metric("omid_ingress_websockets") == 0, what="the connections to be gone")
