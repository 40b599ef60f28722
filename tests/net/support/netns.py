"""
Two hosts and a cable between them, as network namespaces: what one of them sends when the cable is cut is lost without a
word, as when a phone leaves its network. Needs root, unshare and nsenter (util-linux) and ip (iproute2).
"""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .wait import SLOW

NEAR, FAR = "10.213.7.1", "10.213.7.2"
TESTS = Path(__file__).resolve().parent.parent


class Unavailable(Exception):
    pass


class Cable:
    """near: where the daemon and its providers live; far: where the client does."""

    def __init__(self):
        self.holders, self.children = [], []
        try:
            self.near, self.far = self._namespace(), self._namespace()
            for pid in (self.near, self.far):
                self._ip(pid, "link", "set", "lo", "up")
            self._ip(self.near, "link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", str(self.far))
            self._ip(self.near, "addr", "add", NEAR + "/24", "dev", "near0")
            self._ip(self.far, "addr", "add", FAR + "/24", "dev", "far0")
            self._ip(self.near, "link", "set", "near0", "up")
            self._ip(self.far, "link", "set", "far0", "up")
        except Exception:
            self.end()
            raise

    def _namespace(self):
        """The pid of a process that holds a namespace of its own."""
        try:
            holder = subprocess.Popen(["unshare", "--net", "sleep", "900"], stderr=subprocess.PIPE)
        except FileNotFoundError as fault:
            raise Unavailable("no unshare") from fault
        self.holders.append(holder)
        ours = os.readlink("/proc/self/ns/net")
        end = time.monotonic() + 10 * SLOW
        while time.monotonic() < end:
            if holder.poll() is not None:
                raise Unavailable(holder.stderr.read().decode().strip())
            if os.readlink("/proc/%d/ns/net" % holder.pid) != ours:
                return holder.pid
            time.sleep(0.01)
        raise Unavailable("unshare does nothing")

    @staticmethod
    def inside(pid):
        return ["nsenter", "--net=/proc/%d/ns/net" % pid]

    def _ip(self, pid, *arguments):
        try:
            done = subprocess.run(self.inside(pid) + ["ip", *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError as fault:
            raise Unavailable("no nsenter") from fault
        if done.returncode != 0:
            raise Unavailable("ip %s: %s" % (" ".join(arguments), done.stderr.strip()))

    def cut(self):
        self._ip(self.far, "link", "set", "far0", "down")

    def python(self, pid, code, *arguments):
        """A Python program there; its lines come on stdout, what is written to its stdin is for it."""
        child = subprocess.Popen(self.inside(pid) + [sys.executable, "-u", "-c", code, *map(str, arguments)],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS)
        self.children.append(child)
        return child

    def end(self):
        for process in self.children + self.holders:
            process.kill()
            process.wait()


def cable_or_skip():
    try:
        return Cable()
    except (Unavailable, PermissionError, OSError) as fault:
        pytest.skip("network namespaces are not permitted here: %s" % fault)
