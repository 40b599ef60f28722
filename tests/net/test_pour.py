"""Answers in pieces: bounded, whole or visibly broken, whatever the client does."""
import http.client
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.wait import until

PLUGIN = Path(os.environ.get("OMID_BUILD_TREE") or ".") / "tests/plugins/.libs/pour.so"
pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason="needs the test plugins; set OMID_BUILD_TREE")
PATTERN = bytes(range(251)) * 4000


def expected(n):
    return (PATTERN * (n // len(PATTERN) + 1))[:n]


def connect(daemon):
    host, port = daemon.address.rsplit(":", 1)
    return http.client.HTTPConnection(host, int(port), timeout=30)


def ask(connection, query, method="GET"):
    connection.request(method, "/pour?" + query)
    r = connection.getresponse()
    return r, r.read()


def under_way(daemon):
    return next(p for p in daemon.status()["plugins"] if p["name"] == "pour")["in_flight"]["routes"]


def test_pour(start_daemon):
    d = start_daemon({"plugin pour": {"path": PLUGIN}, "ingress": {"answer_timeout": "500ms"},
                      "listen": {"down_buffer": "64KiB"}})
    c = connect(d)
    for length, piece in ((0, 1), (1, 1), (1000, 7), (100000, 65536), (3000000, 262144), (200000, 100)):
        r, body = ask(c, "%d,%d,%d" % (length, piece, length))  # one connection for all
        assert r.status == 206 and r.reason == "Partial Content" and r.headers["X-Pour"] == "yes"
        assert r.headers["Content-Length"] == str(length) and body == expected(length)
        assert r.headers["Content-Type"] == "application/octet-stream"
        r, body = ask(c, "%d,%d,%d" % (length, piece, length), "HEAD")
        assert r.headers["Content-Length"] == str(length) and body == b""
    # Not whole, and the client can tell: at once, or when nobody goes on with it.
    for query in ("1000,10,0", "1000,10,500", "3000000,262144,2000000", "5,1,-1"):
        with pytest.raises(http.client.IncompleteRead):
            ask(connect(d), query)
    assert under_way(d) == 1  # the silent one's, until the plugin stops
    # Who does not read is cut, and what it left unread is gone; who leaves in the middle is noticed.
    host, port = d.address.rsplit(":", 1)
    for leaves in (False, True):
        s = socket.create_connection((host, int(port)))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(b"GET /pour?500000000,200000,500000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"206" in s.recv(100)
        if leaves:
            s.close()
        until(lambda: under_way(d) == 1, 20, "the exchange to end")
        s.close()
        assert d.metric("omid_memory_sessions_bytes") < 1 << 20
    with ThreadPoolExecutor(8) as pool:
        for r, body in pool.map(lambda n: ask(connect(d), "%d,5000,%d" % (n, n)), range(400000, 400016)):
            assert len(body) == int(r.headers["Content-Length"]) and body == expected(len(body))
