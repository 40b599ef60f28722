"""
Ingress against hostile and careless clients: frames by hand on raw sockets, handshakes, requests.

Runs against the whole daemon (plugin echo), or against ingress alone, which a sanitizer build does faster:

    OMID_INGRESS_HARNESS=build/tests/unit/test_ingress pytest tests/net/test_ingress*.py
"""
import http.client
import json
import os
import re
import select
import socket
import struct

import pytest

from support.daemon import ADMIN_KEY
from support.raw import (  # noqa: F401
    BINARY, CLOSE, KEY, PING, PONG, TEXT, Raw, alive, ask, dial, frame, read_body, read_head, serve, upgrade)
from support.wait import SLOW, until


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
