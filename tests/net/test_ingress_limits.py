"""Limits of ingress, and clients that stop reading, answering or being there; see test_ingress.py."""
import json
import select
import socket
import struct
import time

import pytest

from support.raw import (  # noqa: F401
    BINARY, CLOSE, PING, PONG, TEXT, Raw, ask, dial, frame, read_body, read_head, serve, upgrade)
from support.wait import SLOW, until


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
