"""Starts of the daemon that fail: what it says, and with which status."""
import json
import os
import socket
import subprocess

import pytest

from support.daemon import program
from support.wait import SLOW

def run_omid(tmp_path, text, *args):
    """(exit status, output) of an omid that does not start."""
    conf = tmp_path / "broken.conf"
    conf.write_text(text)
    done = subprocess.run([str(program("omid")), "-f", str(conf), *args], capture_output=True, text=True,
                          timeout=30 * SLOW)
    return done.returncode, done.stdout + done.stderr


def plain_conf(tmp_path, address="127.0.0.1:0", state=None, more=""):
    return ('daemon {\n  state_dir = "%s"\n  run_dir = "%s"\n}\ningress { address = { "%s" } }\n'
            'auth { admin_key = "a-key-for-scenarios-" }\n%s' % (state or tmp_path / "state", tmp_path / "run", address, more))


def test_state_directory_that_can_not_be(tmp_path):
    (tmp_path / "file").write_text("")
    status, out = run_omid(tmp_path, plain_conf(tmp_path, state=tmp_path / "file" / "state"))
    assert status == 1 and "daemon.state_dir" in out and "Not a directory" in out, (status, out)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a read-only file system")
def test_state_directory_that_is_read_only(tmp_path):
    state = tmp_path / "ro"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(state)], check=True)
    try:
        status, out = run_omid(tmp_path, plain_conf(tmp_path, state=state))
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert status == 1 and str(state) in out and "Read-only" in out, (status, out)


def test_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        status, out = run_omid(tmp_path, plain_conf(tmp_path, address=address))
    assert status == 1 and address in out and "in use" in out, (status, out)


def test_plugins_that_can_not_be_loaded(tmp_path, start_daemon):
    text = tmp_path / "text.so"
    text.write_text("no shared object\n")
    libc = next(p for p in ("/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6") if os.path.exists(p))
    for path, why in ((tmp_path / "missing.so", "No such file"), (text, ""), (libc, "omid_plugin")):
        block = 'plugin ghost {\n  path = "%s"\n  required = true\n}\n' % path
        status, out = run_omid(tmp_path, plain_conf(tmp_path, more=block))
        assert status == 78 and "broken.conf:7" in out and "ghost" in out and why in out, (status, out)
    daemon = start_daemon({"plugin ghost": {"path": tmp_path / "missing.so"}, "plugin echo": {}})
    assert daemon.logged("ghost") or "ghost" in daemon.log()
    assert "running" in json.dumps(daemon.status()["plugins"])
