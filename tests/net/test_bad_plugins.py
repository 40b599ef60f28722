"""Plugins that misuse what they are given, in the whole daemon: it refuses, says so, and serves on."""
import os
import re
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from support.daemon import PREFIX, program
from support.wait import SLOW, until

BUILD = os.environ.get("OMID_BUILD_TREE")
PLUGINS = Path(BUILD or ".") / "tests/plugins/.libs"
pytestmark = pytest.mark.skipif(not (PLUGINS / "bad_nulls.so").exists(),
                                reason="needs the test plugins; set OMID_BUILD_TREE to a tree after make check")


def block(name, **more):
    return {"plugin " + name: {"path": PLUGINS / (name + ".so"), **more}}


def test_nothing_given(start_daemon):
    daemon = start_daemon({**block("bad_nulls"), "plugin echo": {}})
    line = until(lambda: daemon.logged("bad_nulls: not refused: "), what="what was not refused")
    assert line[0].endswith("not refused: none"), line
    plugin = {p["name"]: p for p in daemon.status()["plugins"]}["bad_nulls"]
    assert plugin["state"] == "running" and plugin["misuse"] > 0
    assert set(plugin["in_flight"].values()) == {0}, plugin["in_flight"]
    assert daemon.get("/healthz")[0] == 200


def vanish(daemon, path):
    """A client that asks for much and resets the connection without reading it."""
    host, port = daemon.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10 * SLOW) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() * 50)


def test_sigpipe_put_back(start_daemon):
    """A library of a plugin has made SIGPIPE deadly again: a write to nobody is an error all the same, its own and
    omid's."""
    daemon = start_daemon({**block("bad_pipe"), "plugin echo": {}})
    assert {p["name"]: p["state"] for p in daemon.status()["plugins"]}["bad_pipe"] == "running"
    for _ in range(20):
        vanish(daemon, "/metrics")
    assert daemon.running() and daemon.get("/healthz")[0] == 200


def test_names_that_clash(start_daemon, tmp_path):
    """Names that differ in - and _ alone would share their metrics: refused with the line, at the start and later."""
    daemon = start_daemon({"plugin echo": {}})
    source = Path(__file__).parent / "support" / "versioned.c"
    text = source.read_text()
    blocks = ""
    for name in ("ver-sioned", "ver_sioned"):
        (tmp_path / (name + ".c")).write_text(text.replace('.name = "versioned"', '.name = "%s"' % name)
                                              .replace('"/versioned', '"/%s' % name))
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-fvisibility=hidden",
                        "-I%s" % (PREFIX / "include"), '-DANSWER="x"', str(tmp_path / (name + ".c")), "-o",
                        str(tmp_path / (name + ".so"))], check=True)
        blocks += 'plugin %s { path = "%s" }\n' % (name, tmp_path / (name + ".so"))
    good = daemon.conf.read_text()
    daemon.conf.write_text(good + blocks)
    want = "omi.conf:%d: plugin.*ver_sioned.*clashes with plugin ver-sioned" % (len(good.splitlines()) + 2)
    for command in ([program("omid"), "-t", "-f", daemon.conf],
                    [program("omictl"), "--socket", daemon.control, "reload"]):
        done = subprocess.run([str(a) for a in command], capture_output=True, text=True, timeout=60 * SLOW)
        said = done.stdout + done.stderr
        assert done.returncode != 0 and re.search(want, said), said
    assert [p["name"] for p in daemon.status()["plugins"]] == ["echo"]
    assert daemon.healthz() == 200
