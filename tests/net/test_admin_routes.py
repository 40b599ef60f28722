"""Routes of plugins that are for the administrator, and the header lines that plugins see and add."""
import http.client
import os
import socket
from pathlib import Path

import pytest

from support.daemon import ADMIN_KEY

PLUGIN = Path(os.environ.get("OMID_BUILD_TREE") or ".") / "tests/plugins/.libs/mirror.so"
pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason="needs the test plugins; set OMID_BUILD_TREE")


def ask(daemon, path, headers=None, control=False):
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    if control:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(daemon.control))
    try:
        connection.request("GET", path, headers=headers or {})
        r = connection.getresponse()
        return r.status, r.read().decode(), dict(r.getheaders())
    finally:
        connection.close()


def bearer(token):
    return {"Authorization": "Bearer " + token}


def test_admin_routes(start_daemon):
    d = start_daemon({"plugin mirror": {"path": PLUGIN}})
    path = "/v1/admin/mirror"
    status, body, headers = ask(d, path, {**bearer(ADMIN_KEY), "X-Mine": "a b"})
    assert status == 200 and "x-mine=a b\n" in body and "authorization" not in body
    assert headers["X-One"] == "1" and headers["X-Two"] == "2" and headers["Content-Type"] == "text/plain"
    # A user is no administrator, not even one of the development form.
    for given, reason in ((None, "missing token"), (bearer(ADMIN_KEY + "ann"), "not the admin key"),
                          (bearer(ADMIN_KEY[:-1]), "not the admin key"), (bearer("x"), "not the admin key"),
                          ({"Authorization": "Basic " + ADMIN_KEY}, "missing token")):
        status, body, headers = ask(d, path, given)
        assert status == 401 and reason in body and headers["WWW-Authenticate"] == "Bearer", (given, body)
    # The control socket: whoever may connect to it; and no route that wants a user.
    assert ask(d, path, control=True)[0] == 200
    for other in ("/mirror", "/v1/conversations", "/v4/listen", "/nothing"):
        assert ask(d, other, control=True)[0] == 404, other
    # Lines that would break the answer are refused, and the plugin is told.
    for line in ("Content-Length:5", "transfer-encoding:x", "no-colon", ":x", "A(B:c", "A"):
        status, body, _ = ask(d, "/mirror?" + line)
        assert (status, body) == (422, "refused"), line
    d.metric_is("omid_auth_tokens_total", 3, result="not_admin")
