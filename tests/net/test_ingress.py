"""
Ingress against hostile and careless clients: frames by hand on raw sockets, limits, handshakes, TLS.

Runs against the whole daemon (plugin echo), or against ingress alone, which a sanitizer build does faster:

    OMID_INGRESS_HARNESS=build/tests/unit/test_ingress pytest tests/net/test_ingress.py
"""
import base64
import hashlib
import http.client
import json
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import time

import pytest

from support.daemon import ADMIN_KEY, Daemon, merge, render
from support.wait import SLOW, until

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


# ---------------------------------------------------------------- frames that are right

def test_echo_of_every_length(alive):
    ws = Raw(alive)
    for n in (0, 1, 125, 126, 127, 65535, 65536, 300000):
        payload = os.urandom(n)
        ws.send(frame(BINARY, payload))
        assert ws.read() == (BINARY, payload), n
    ws.s.close()


def test_one_byte_at_a_time(alive):
    ws = Raw(alive)
    for byte in frame(TEXT, "grün".encode()) + frame(PING, b"p") + frame(BINARY, bytes(200)):
        ws.send(bytes([byte]))
    assert sorted([ws.read(), ws.read(), ws.read()]) == sorted(
        [(TEXT, "grün".encode()), (PONG, b"p"), (BINARY, bytes(200))])
    ws.s.close()


def test_frames_right_behind_the_handshake(alive):
    ws = Raw(alive, rest=frame(TEXT, b"early") + frame(TEXT, b"bird"))
    assert [ws.read(), ws.read()] == [(TEXT, b"early"), (TEXT, b"bird")]
    ws.s.close()


def test_fragments_with_control_frames_between(alive):
    ws = Raw(alive)
    word = "größe".encode()
    ws.send(frame(TEXT, word[:3], fin=False), frame(PING, b"between"), frame(0, word[3:4], fin=False),
            frame(0, b"", fin=False), frame(PONG, b"unasked"), frame(0, word[4:]))
    got = [ws.read(), ws.read()]
    assert (PONG, b"between") in got and (TEXT, word) in got
    ws.s.close()


def test_only_the_latest_ping_needs_an_answer(alive):
    """Ten thousand pings in one go must not become ten thousand queued pongs; the last is answered."""
    ws = Raw(alive)
    ws.send(*[frame(PING, b"%d" % i) for i in range(10000)], frame(TEXT, b"end"))
    pongs = []
    while True:
        op, payload = ws.read()
        if op == TEXT:
            break
        pongs.append(payload)
    while not pongs or pongs[-1] != b"9999":
        op, payload = ws.read()
        pongs.append(payload)
    assert len(pongs) < 10000
    ws.s.close()


def test_many_messages_in_order(alive):
    ws = Raw(alive)
    ws.s.settimeout(30 * SLOW)
    blob = b"".join(frame(BINARY, b"%06d" % i) for i in range(20000))
    ws.s.setblocking(False)
    sent, got = 0, 0
    received = b""
    while got < 20000:
        r, w, _ = select.select([ws.s], [ws.s] if sent < len(blob) else [], [], 30 * SLOW)
        assert r or w
        if w:
            sent += ws.s.send(blob[sent:sent + 65536])
        if r:
            received += ws.s.recv(1 << 20)
            while len(received) >= (got + 1) * 8:
                assert received[got * 8:got * 8 + 8] == b"\x82\x06%06d" % got
                got += 1
    ws.s.close()


# ---------------------------------------------------------------- frames that are wrong

BROKEN = [
    (1002, frame(TEXT, b"unmasked", mask=None)),
    (1002, frame(TEXT, b"x", rsv=4)),
    (1002, frame(TEXT, b"x", rsv=1)),
    (1002, frame(3, b"x")),
    (1002, frame(7, b"x")),
    (1002, frame(11, b"x")),
    (1002, frame(0, b"a continuation of nothing")),
    (1002, frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    (1002, frame(TEXT, b"a", fin=False) + frame(BINARY, b"b")),
    (1002, frame(PING, b"x" * 126)),
    (1002, frame(PING, b"x", fin=False)),
    (1002, frame(CLOSE, b"x")),
    (1002, frame(CLOSE, struct.pack(">H", 999))),
    (1002, frame(CLOSE, struct.pack(">H", 1005))),
    (1002, frame(CLOSE, struct.pack(">H", 1006))),
    (1002, frame(CLOSE, struct.pack(">H", 1015))),
    (1002, frame(CLOSE, struct.pack(">H", 2999))),
    (1002, frame(CLOSE, struct.pack(">H", 5000))),
    (1007, frame(CLOSE, struct.pack(">H", 1000) + b"\xff")),
    (1007, frame(TEXT, b"\xc3")),
    (1007, frame(TEXT, b"\xed\xa0\x80")),
    (1007, frame(TEXT, b"\xc0\x80")),
    (1007, frame(TEXT, b"\xf4\x90\x80\x80")),
    (1007, frame(TEXT, b"gr\xc3", fin=False) + frame(0, b"\x28")),
    (1007, frame(TEXT, b"gr\xc3", fin=False) + frame(0, b"")),
    (1007, frame(TEXT, b"\xff", fin=False)),
    (1009, frame(BINARY, b"", length=(1 << 20) + 1)),
    (1009, frame(BINARY, b"", length=(1 << 63) - 1)),
    (1009, frame(BINARY, bytes(1 << 19), fin=False) + frame(0, bytes(1 << 19), fin=False) + frame(0, b"x")),
]


@pytest.mark.parametrize("code,bad", BROKEN, ids=["%d-%d" % (b[0], i) for i, b in enumerate(BROKEN)])
def test_broken_frames(alive, code, bad):
    ws = Raw(alive)
    ws.send(frame(TEXT, b"before"))
    assert ws.read() == (TEXT, b"before")
    ws.send(bad)
    ws.expect_close(code)


def test_a_length_with_the_highest_bit(alive):
    ws = Raw(alive)
    ws.send(bytes([0x82, 0xff]) + b"\xff" * 8 + b"mask")
    got = ws.read()
    assert got[0] == CLOSE and struct.unpack(">H", got[1][:2])[0] in (1002, 1009)
    ws.s.close()


def test_a_flood_behind_a_fault_is_thrown_away(alive):
    ws = Raw(alive)
    ws.s.settimeout(20 * SLOW)
    ws.send(frame(3, b"x"))
    try:
        for _ in range(200):
            ws.send(bytes(65536))
    except OSError:
        pass
    ws.s.close()


@pytest.mark.parametrize("part", [b"\x82", b"\x82\xfe\x01", frame(BINARY, bytes(1000))[:500],
                                  frame(TEXT, b"a", fin=False)], ids=["opcode", "length", "payload", "fragment"])
def test_vanishing_in_the_middle(alive, part):
    for abrupt in (False, True):
        ws = Raw(alive)
        ws.send(part)
        if abrupt:
            ws.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ws.s.close()
    until(lambda: alive.metric("omid_ingress_websockets") == 0, what="both to be gone")


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 3000, 4999])
def test_close_codes_come_back(alive, code):
    ws = Raw(alive)
    ws.send(frame(CLOSE, struct.pack(">H", code) + b"reason"))
    op, payload = ws.read()
    assert (op, struct.unpack(">H", payload[:2])[0]) == (CLOSE, code)
    assert ws.read() is None
    ws.s.close()


def test_close_without_a_code(alive):
    ws = Raw(alive)
    ws.send(frame(CLOSE))
    assert ws.read() == (CLOSE, b"")
    assert ws.read() is None
    ws.s.close()


def test_messages_behind_a_close_have_no_effect(alive):
    ws = Raw(alive)
    ws.send(frame(CLOSE, struct.pack(">H", 1000)), frame(TEXT, b"too late"), frame(3))
    assert ws.read()[0] == CLOSE
    assert ws.read() is None
    ws.s.close()


# ---------------------------------------------------------------- the handshake

@pytest.mark.parametrize("status,request_text", [
    (426, upgrade(Sec_WebSocket_Version="8")),
    (426, upgrade(Sec_WebSocket_Version="130")),
    (426, upgrade(Sec_WebSocket_Version="13, 8")),
    (426, upgrade(drop=["Sec-WebSocket-Version"])),
    (400, upgrade(drop=["Sec-WebSocket-Key"])),
    (400, upgrade(Sec_WebSocket_Key="short")),
    (400, upgrade(Sec_WebSocket_Key="!" * 24)),
    (400, upgrade().replace("\r\n\r\n", "\r\nSec-WebSocket-Key: %s\r\n\r\n" % KEY)),
    (400, upgrade().replace("HTTP/1.1", "HTTP/1.0")),
    (400, upgrade(Content_Length="3") + "abc"),
    (426, upgrade(Connection="keep-alive", path="/v4/listen")),
    (426, upgrade(drop=["Upgrade"], path="/v4/listen")),
    (405, upgrade(path="/v4/listen").replace("GET", "POST")),
    (404, upgrade(path="/nowhere")),
    (404, upgrade(path="/echo/")),
    (404, upgrade(path="http://localhost/echo")),
], ids=lambda v: str(v) if isinstance(v, int) else "")
def test_refused_upgrades(alive, status, request_text):
    got, headers, body = ask(alive, request_text)
    assert got == status
    assert json.loads(body)["error"]
    if "Sec-WebSocket-Version must" in body.decode():
        assert headers["sec-websocket-version"] == "13"
    if status == 405:
        assert headers["allow"] == "GET"


def test_header_tokens_and_case(alive):
    text = upgrade(Connection="keep-alive, UPGRADE", Upgrade="WebSocket").replace("Sec-WebSocket-Key",
                                                                                   "sec-websocket-KEY")
    assert ask(alive, text)[0] == 101


def test_origins(serve):
    daemon = serve({"origins": ["https://app.example.com", "https://other.example.com"]})
    assert ask(daemon, upgrade(Origin="https://app.example.com"))[0] == 101
    assert ask(daemon, upgrade(Origin="https://evil.example.com"))[0] == 403
    assert ask(daemon, upgrade(Origin="https://app.example.com.evil.com"))[0] == 403
    assert ask(daemon, upgrade(Origin="null"))[0] == 403
    assert ask(daemon, upgrade(Origin="https://app.example.com").replace(
        "\r\n\r\n", "\r\nOrigin: https://evil.example.com\r\n\r\n"))[0] == 403
    assert ask(daemon, upgrade())[0] == 101  # no browser


@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + ADMIN_KEY,
                                   "Bearer " + ADMIN_KEY[:-1] + "u", "Bearer " + ADMIN_KEY + "a/b",
                                   "Bearer " + ADMIN_KEY + "a" * 129, "Basic " + ADMIN_KEY + "u"])
def test_native_clients_get_403(alive, token):
    text = upgrade("/v4/listen?sample_rate=8000&uid=u", **({"Authorization": token} if token is not None else {}))
    status, _, body = ask(alive, text)
    assert status == 403
    assert json.loads(body)["error"]
    assert ADMIN_KEY not in body.decode()


def test_parameters_are_checked_before_the_token(alive):
    status, _, body = ask(alive, upgrade("/v4/listen?sample_rate=many"))
    assert status == 400
    assert "sample_rate" in json.loads(body)["error"]


def test_a_good_token(alive):
    assert ask(alive, upgrade("/v4/listen?sample_rate=8000", Authorization="Bearer " + ADMIN_KEY + "u1"))[0] == 101


# ---------------------------------------------------------------- HTTP

def test_echo_over_http_keeps_the_connection(alive):
    host, port = alive.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=20 * SLOW)
    for body in (b"one", b"", bytes(100000), b"four"):
        c.request("POST", "/echo", body, {"Content-Type": "application/octet-stream"})
        r = c.getresponse()
        assert (r.status, r.read()) == (200, body)
    local = c.sock.getsockname()
    c.request("HEAD", "/healthz")
    r = c.getresponse()
    assert (r.status, r.read()) == (200, b"")
    assert c.sock.getsockname() == local
    c.close()


def test_chunked_and_expected_bodies(alive):
    status, _, body = ask(alive, b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                                 b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    assert (status, body) == (200, b"abcdefg")
    with dial(alive) as s:
        s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert read_head(s)[0] == 100
        s.sendall(b"abc")
        status, headers, rest = read_head(s)
        assert (status, read_body(s, headers, rest)) == (200, b"abc")


def test_pipelined_requests(alive):
    one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n%03d"
    with dial(alive) as s:
        s.sendall(b"".join(one % i for i in range(50)))
        data = b""
        while data.count(b"HTTP/1.1 200") < 50 or not data.endswith(b"049"):
            more = s.recv(65536)
            assert more
            data += more
        assert re.findall(rb"\r\n\r\n(\d\d\d)", data) == [b"%03d" % i for i in range(50)]


def test_paths_and_methods(alive):
    assert ask(alive, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404
    status, headers, body = ask(alive, "DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"]
    status, headers, _ = ask(alive, "DELETE /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 405 and "POST" in headers["allow"]
    assert ask(alive, "GET /v1/admin/status HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404  # the control socket's alone


@pytest.mark.parametrize("raw", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
], ids=range(9))
def test_requests_that_are_none(alive, raw):
    status, _, _ = ask(alive, raw)
    assert status in (400, 413)


def test_no_http2_upgrade(alive):
    status, _, _ = ask(alive, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                              "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
    assert status == 200


# ---------------------------------------------------------------- limits

def test_headers_that_are_too_big(serve):
    daemon = serve({"max_header": "4KiB"})
    assert ask(daemon, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % ("y" * 3900))[0] == 200
    assert ask(daemon, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % ("y" * 4100))[0] == 431
    with dial(daemon) as s:  # on a kept-alive connection, without an end, as far as it is let
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, rest = read_head(s)
        read_body(s, headers, rest)
        s.sendall(b"GET /healthz HTTP/1.1\r\n")
        try:
            for i in range(2000):
                s.sendall(b"X-%d: %s\r\n" % (i, b"y" * 1000))
        except OSError:
            pass
        assert read_head(s)[0] == 431
    with dial(daemon) as s:
        s.sendall(b"G" * 5000)
        assert read_head(s)[0] == 431
        assert s.recv(100) == b""
    daemon.metric_reaches("omid_ingress_refused_total", 2, reason="max_header")


def test_bodies_that_are_too_big(serve):
    daemon = serve({"max_body": "4KiB"})
    status, _, body = ask(daemon, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\n" + bytes(4096))
    assert (status, body) == (200, bytes(4096))
    assert ask(daemon, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4097\r\n\r\n")[0] == 413
    with dial(daemon) as s:
        s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(2000):
                s.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
        except OSError:
            pass
        assert read_head(s)[0] == 413
    daemon.metric_is("omid_ingress_refused_total", 2, reason="max_body")
    assert daemon.metric("omid_ingress_refused_total", reason="bad_request") == 0
    assert ask(daemon, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n")[0] == 400
    until(lambda: daemon.metric("omid_ingress_refused_total", reason="bad_request") == 1, what="the count")


def test_the_answer_arrives_though_the_body_is_still_coming(serve):
    daemon = serve({"max_body": "4KiB"})
    for _ in range(20):
        with dial(daemon) as s:
            s.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(50000))
            select.select([s], [], [], 20 * SLOW)
            s.sendall(bytes(50000))  # a reset would take the answer with it
            status, headers, rest = read_head(s)
            assert status == 413
            read_body(s, headers, rest)
            assert s.recv(1) == b""


def test_message_limit(serve):
    daemon = serve({"max_message": "4KiB"})
    ws = Raw(daemon)
    ws.send(frame(BINARY, bytes(4096)))
    assert ws.read() == (BINARY, bytes(4096))
    ws.send(frame(BINARY, bytes(4097)))
    ws.expect_close(1009)


def test_connections_in_all(serve):
    daemon = serve({"max_connections": 10})
    held = [Raw(daemon) for _ in range(10)]
    status, headers, body = ask(daemon, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 503 and json.loads(body)["error"] and headers["connection"] == "close"
    assert ask(daemon, upgrade())[0] == 503
    assert daemon.get_control("/v1/admin/status")[0] == 200  # the operator still gets in
    for _ in range(3):  # also for a connection that was just closed here and is still counted there
        held.pop().s.close()

    def again():
        try:
            return ask(daemon, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        except OSError:
            return False

    until(again, what="a place to be free")
    daemon.metric_reaches("omid_ingress_refused_total", 2, reason="max_connections")
    for ws in held:
        ws.s.close()


def test_connections_of_one_address(serve):
    daemon = serve({"max_connections_per_address": 5})
    held = [Raw(daemon) for _ in range(5)]
    assert ask(daemon, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 503
    host, port = daemon.address.rsplit(":", 1)
    other = socket.create_connection((host, int(port)), 20 * SLOW, source_address=("127.0.0.2", 0))
    other.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers, rest = read_head(other)
    body = read_body(other, headers, rest).decode()
    assert status == 200
    assert 'omid_ingress_refused_total{reason="max_connections_per_address"} 1' in body
    other.close()
    for ws in held:
        ws.s.close()


@pytest.mark.parametrize("part", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
                                  b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"],
                         ids=["nothing", "a byte", "half a head", "half a body"])
def test_half_sent_requests_end(serve, part):
    daemon = serve({"request_timeout": "400ms"})
    began = time.monotonic()  # before the daemon can begin to count
    with dial(daemon) as s:
        if part:
            s.sendall(part)
        data = b""
        while True:
            more = s.recv(4096)
            if not more:
                break
            data += more
        assert time.monotonic() - began >= 0.35
        if part:
            assert data.startswith(b"HTTP/1.1 408")


def test_a_byte_now_and_then_does_not_help(serve):
    daemon = serve({"request_timeout": "500ms"})
    with dial(daemon) as s:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 20 * SLOW:
                s.sendall(b"X")
                if select.select([s], [], [], 0.05)[0]:
                    break
        except OSError:
            pass
        assert time.monotonic() - began < 10 * SLOW


def test_a_thousand_half_open_connections(serve):
    daemon = serve({"request_timeout": "1500ms", "max_connections_per_address": 2000})
    start = daemon.fds()
    held = [dial(daemon) for _ in range(1000)]
    for i, s in enumerate(held):
        if i % 2:
            s.sendall(b"GET /echo HTTP/1.1\r\nHost:")
    assert daemon.healthz() == 200  # though they are there
    until(lambda: daemon.fds() <= start + 5, what="the descriptors to come back")
    daemon.metric_reaches("omid_ingress_refused_total", 500, reason="request_timeout")
    for s in held:
        s.close()


# ---------------------------------------------------------------- back-pressure, dead peers

def test_a_client_that_does_not_read(serve):
    """It is not read either once its way up is full, and costs no more than the bounds; then 1013 or the end."""
    daemon = serve({"max_message": "64KiB"}, listen={"up_buffer": "256KiB", "down_buffer": "256KiB", "up_stall": "1s"})
    ws = Raw(daemon)
    ws.s.settimeout(2.0)
    sent = 0
    try:
        while sent < 200 << 20:
            ws.send(frame(BINARY, bytes(60000)))
            sent += 60000
    except OSError:
        pass
    assert sent < 100 << 20, "nothing held the sender back"
    assert daemon.healthz() == 200
    daemon.metric_reaches("omid_ingress_pauses_total", 1)
    until(lambda: daemon.metric("omid_ingress_stalls_total") >= 1, what="the stall to be noticed")
    ws.s.close()
    until(lambda: daemon.metric("omid_ingress_websockets") == 0, what="it to be gone")


def test_back_pressure_loses_nothing(serve):
    daemon = serve(listen={"up_buffer": "64KiB", "down_buffer": "64KiB"})
    ws = Raw(daemon)
    ws.s.setblocking(False)
    blob = b"".join(frame(BINARY, struct.pack(">I", i) * 2000) for i in range(2000))
    sent, data, got = 0, bytearray(), 0
    while got < 2000:
        # Reads slowly: a message's worth for each two that are sent.
        r, w, _ = select.select([ws.s], [ws.s] if sent < len(blob) else [], [], 30 * SLOW)
        assert r or w, "it stands still"
        if w:
            sent += ws.s.send(blob[sent:sent + 16000])
        if r:
            data += ws.s.recv(8192)
            while len(data) >= 8004:
                assert data[:8] == b"\x82\x7e\x1f\x40" + struct.pack(">I", got)
                del data[:8004]
                got += 1
    ws.s.close()


def test_silent_clients_are_found(serve):
    daemon = serve({"receive_timeout": "600ms", "ping_interval": "100ms"})
    deaf, polite = Raw(daemon), Raw(daemon)
    began = time.monotonic()
    gone = False
    while time.monotonic() - began < 2.0:
        if select.select([polite.s], [], [], 0.05)[0]:
            op, payload = polite.read()
            assert op == PING
            polite.send(frame(PONG, payload))
    got = deaf.read()
    while got is not None:
        got = deaf.read()
    gone = True
    polite.send(frame(TEXT, b"here"))
    got = polite.read()
    while got[0] == PING:
        got = polite.read()
    assert gone and got == (TEXT, b"here")
    polite.s.close()


def test_a_client_that_never_answers_our_close(serve):
    """Three seconds, then it is cut."""
    daemon = serve()
    ws = Raw(daemon)
    ws.send(frame(3))
    assert ws.read()[0] == CLOSE
    until(lambda: daemon.metric("omid_ingress_websockets") == 0, 10, "it to be cut")
    ws.s.close()


def test_clients_come_and_go(serve):
    daemon = serve({"threads": 2})
    before = None
    for turn in range(4):
        held = []
        for i in range(60):
            ws = Raw(daemon)
            ws.send(frame(TEXT, b"x" * i))
            held.append(ws)
        for i, ws in enumerate(held):
            if i % 3 == 0:
                ws.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif i % 3 == 1:
                ws.send(frame(CLOSE, struct.pack(">H", 1000)))
            ws.s.close()
        until(lambda: daemon.metric("omid_ingress_websockets") == 0, what="all to be gone")
        if before is None:
            before = daemon.fds()
        until(lambda: daemon.fds() <= before, what="the descriptors to come back")


# ---------------------------------------------------------------- TLS

@pytest.fixture
def tls(serve, authority):
    cert, key = authority.issue()
    return serve({"tls": {"certificate": str(cert), "key": str(key)}, "request_timeout": "1500ms",
                  "max_connections_per_address": 2000})


def tls_dial(daemon, authority, **change):
    context = ssl.create_default_context(cafile=str(authority.ca))
    for name, value in change.items():
        if name == "alpn":
            context.set_alpn_protocols(value)
        elif name == "ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, value)
    return context.wrap_socket(dial(daemon), server_hostname="localhost")


def test_websocket_over_tls(tls, authority):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        s = tls_dial(tls, authority, minimum_version=version, maximum_version=version)
        ws = Raw(tls, s=s)
        for n in (1, 1000, 100000):
            payload = os.urandom(n)
            ws.send(frame(BINARY, payload))
            assert ws.read() == (BINARY, payload)
        ws.send(frame(CLOSE, struct.pack(">H", 1000)))
        assert ws.read() == (CLOSE, struct.pack(">H", 1000))
        s.close()


def test_tls_offers_http1_only(tls, authority):
    assert tls_dial(tls, authority, alpn=["h2", "http/1.1"]).selected_alpn_protocol() == "http/1.1"
    s = tls_dial(tls, authority, alpn=["h2"])
    assert s.selected_alpn_protocol() is None
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert read_head(s)[0] == 400
    s.close()


def test_old_tls_is_refused(tls, authority):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            tls_dial(tls, authority, minimum_version=version, maximum_version=version,
                     ciphers="ALL:@SECLEVEL=0").close()


def test_tls_handshakes_that_never_finish(tls, authority):
    start = tls.process and len(os.listdir("/proc/%d/fd" % tls.process.pid))
    held = [dial(tls) for _ in range(1000)]
    for i, s in enumerate(held):
        if i % 3 == 0:
            s.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        elif i % 3 == 1:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    s = tls_dial(tls, authority)
    s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(s)[0] == 200
    s.close()
    until(lambda: tls.fds() <= start + 5, what="the descriptors to come back")
    for s in held:
        s.close()
