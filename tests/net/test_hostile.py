"""A hundred hostile peers at once: what they cost is bounded, and a healthy one beside them notices nothing."""
import os
import re
import threading
from pathlib import Path

import pytest

from support import caller
from support.caller import OK, PROTOCOL, RESET, TIMEOUT, TLS, call, lane, needs_caller
from support.peers import Peer
from support.wait import until

pytestmark = needs_caller

EACH = 9
TIMEOUT_MS = 2000
MAX_BODY = 65536
# kind: (outcomes that are right, is the body cut?)
KINDS = {"silent": ({TIMEOUT}, None), "drip-head": ({TIMEOUT, PROTOCOL}, None), "drip-body": ({TIMEOUT}, None),
         "huge": ({OK}, True), "bomb": ({OK}, True), "nested": ({PROTOCOL}, None), "informs": ({PROTOCOL, TIMEOUT}, None),
         "reset": ({RESET}, None), "garbage": ({PROTOCOL}, None), "loop": ({PROTOCOL, TIMEOUT}, None), "tls": ({TLS}, None)}


@pytest.fixture
def peers():
    made = []

    def make(*args):
        made.append(Peer(*args))
        return made[-1]
    yield make
    for peer in made:
        peer.stop()


def memory(daemon, what):
    """KiB"""
    text = Path("/proc/%d/status" % daemon.process.pid).read_text()
    return int(re.search(r"%s:\s+(\d+) kB" % what, text).group(1))


def is_instrumented(daemon):
    return "libasan" in Path("/proc/%d/maps" % daemon.process.pid).read_text() or \
        "libtsan" in Path("/proc/%d/maps" % daemon.process.pid).read_text() or os.environ.get("OMID_VALGRIND") == "1"


class Healthy(threading.Thread):
    """One request after the other to a decent peer, until it is told to stop."""

    def __init__(self, daemon, peer):
        super().__init__()
        self.daemon_, self.peer, self.outcomes, self.ending = daemon, peer, [], threading.Event()
        self.start()

    def run(self):
        while not self.ending.is_set():
            self.outcomes += call(self.daemon_, *["GET " + self.peer.url("/ok/healthy")] * 4)

    def end(self):
        self.ending.set()
        self.join()
        return self.outcomes


def test_a_hundred_at_once(start_daemon, peers):
    bad, good = {kind: peers() for kind in KINDS}, peers()  # one partner may not have the whole lane
    daemon = start_daemon(caller.settings(semaphore=128, pool=128, timeout="%dms" % TIMEOUT_MS, follow=3))
    lines, kinds = [], []
    for i in range(EACH):
        for kind in KINDS:
            url = bad[kind].url("/ok/%d" % i, "https") if kind == "tls" else bad[kind].url("/%s/%d" % (kind, i))
            lines.append("GET " + url)
            kinds.append(kind)
    assert len(lines) >= 99
    call(daemon, *["GET " + good.url("/ok/%d" % i) for i in range(100)])  # handles and caches are there
    before, sockets = memory(daemon, "VmRSS"), daemon.fds()
    healthy = Healthy(daemon, good)
    until(lambda: len(healthy.outcomes) >= 8, what="the healthy peer to be served")
    served = len(healthy.outcomes)
    results = call(daemon, *lines, query="max_body=%d" % MAX_BODY)
    outcomes = healthy.end()

    late = 0
    for kind, r in zip(kinds, results):
        right, cut = KINDS[kind]
        assert r["error"] in right, (kind, r)
        assert r["len"] <= MAX_BODY, (kind, r)
        if cut:
            assert r["truncated"] and r["len"] == MAX_BODY, (kind, r)
        if kind == "loop" and r["error"] == PROTOCOL:  # a busy machine may not come round so often in its time
            assert r["redirects"] == 3, r
        late = max(late, r["elapsed_ms"] - TIMEOUT_MS)
    print("the latest was over %d ms after its deadline" % late)
    # Beside them, all went well, all the time.
    assert all(r["error"] == OK and r["status"] == 200 for r in outcomes)
    print("%d healthy requests meanwhile" % (len(outcomes) - served))
    assert len(outcomes) - served >= 20
    # Every slot is free again, and no connection is left open.
    state = lane(daemon)
    assert state["in_flight"] == 0 and state["waiting"] == 0
    until(lambda: daemon.fds() <= sockets + 20, what="the connections to be closed")  # `idle` of them may be kept
    assert all(r["error"] == OK for r in call(daemon, *["GET " + bad["reset"].url("/ok/%d" % i) for i in range(40)]))
    # A body, its growth and a header for each, curl's buffers and a TLS session: far from what they tried.
    growth, bound = memory(daemon, "VmHWM") - before, len(lines) * (4 * MAX_BODY // 1024 + 128)
    print("VmHWM grew by %d KiB of %d" % (growth, bound))
    if not is_instrumented(daemon):
        assert growth < bound


def test_what_a_bomb_costs(start_daemon, peers):
    """The processor, too: the transfer ends when enough has come, not when the time is over."""
    bad = peers()
    daemon = start_daemon(caller.settings(timeout="20s"))

    def ticks():
        return sum(int(x) for x in Path("/proc/%d/stat" % daemon.process.pid).read_text().rsplit(")", 1)[1].split()[11:13])
    began = ticks()
    results = call(daemon, *["GET " + bad.url("/bomb/%d" % i) for i in range(20)])
    assert all(r["error"] == OK and r["truncated"] and r["elapsed_ms"] < 15000 for r in results), results
    used = (ticks() - began) / os.sysconf("SC_CLK_TCK")
    print("20 bombs took %.2f s of the processor" % used)
    if not is_instrumented(daemon):
        assert used < 2
