"""The test plugin `caller`, which makes requests on command."""
import http.client
import json
import os
from pathlib import Path

import pytest

from .wait import SLOW

PLUGIN = Path(os.environ.get("OMID_BUILD_TREE") or ".") / "tests/plugins/.libs/caller.so"
needs_caller = pytest.mark.skipif(not PLUGIN.exists(),
                                  reason="needs the test plugins; set OMID_BUILD_TREE to a tree after make check")
(OK, BAD_URL, FULL, QUEUE_TIMEOUT, BREAKER, SUPERSEDED, RESOLVE, CONNECT, TLS, TIMEOUT, RESET, PROTOCOL, BLOCKED, LOCAL,
 SHUTDOWN) = range(15)
WS_CONNECT = 102


def settings(**more):
    return {"plugin caller": {"path": PLUGIN, **more}}


def call(daemon, *lines, query="", connect=None):
    """Makes these calls, all at once, and gives what became of each. connect(address): a socket to a daemon that is
    elsewhere."""
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
    try:
        if connect:
            connection.sock = connect((host, int(port)))
        connection.request("POST", "/call?" + query, body="\n".join(lines).encode())
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, (response.status, body)
        return json.loads(body)
    finally:
        connection.close()


def lane(daemon, name="caller"):
    return next(x for x in json.loads(daemon.get_control("/v1/admin/lanes")[1])["lanes"] if x["name"] == name)
