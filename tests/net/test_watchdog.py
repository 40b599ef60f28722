"""Plugins that hold their reactor, or whose file has calls that would; the watchdog and systemd, played by the test."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.daemon import program
from support.wait import SLOW, holds, until

BUILD = os.environ.get("OMID_BUILD_TREE")
PLUGINS = Path(BUILD or ".") / "tests/plugins/.libs"
pytestmark = pytest.mark.skipif(not (PLUGINS / "bad_hold.so").exists(),
                                reason="needs the test plugins; set OMID_BUILD_TREE to a tree after make check")


def block(name, **more):
    return {"plugin " + name: {"path": PLUGINS / (name + ".so"), **more}}


class Systemd:
    """The socket that systemd would listen on."""

    def __init__(self, folder, interval):
        path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(interval * 1e6))}

    def fed(self):
        """How often it was, since the last call."""
        n = 0
        while True:
            try:
                n += self.socket.recv(4096).decode().splitlines().count("WATCHDOG=1")
            except BlockingIOError:
                return n


class Hold:
    """GET /hold on a thread of its own."""

    def __init__(self, daemon, ms):
        self.answer = None
        self.thread = threading.Thread(target=self._run, args=(daemon, ms))
        self.thread.start()

    def _run(self, daemon, ms):
        self.answer = daemon.get("/hold?%d" % ms, timeout=60)

    def pending(self):
        return self.thread.is_alive()

    def end(self):
        self.thread.join()
        assert self.answer == (200, b"held")


def test_named_while_it_runs(start_daemon):
    daemon = start_daemon(block("bad_hold"))
    hold = Hold(daemon, 3000 * SLOW)
    line = until(lambda: daemon.logged("a callback holds its loop"), what="the watchdog's line")
    assert hold.pending(), "it was named when it had ended"
    assert re.search(r"plugin=\"?bad_hold.*callback=\"?request.*loop=\"?reactor_", line[0]), line
    hold.end()
    assert len(daemon.logged("a callback holds its loop.*bad_hold")) == 1  # once, however long it took
    daemon.metric_is("omid_watchdog_slow_total", 1, plugin="bad_hold")
    # The answer is out before the callback has been counted.
    until(lambda: daemon.metric("omid_plugin_slow_callbacks_total", plugin="bad_hold") == 1, what="it to be counted")


def test_limit_is_a_setting(start_daemon):
    daemon = start_daemon({"watchdog": {"slow": "1s"}, **block("bad_hold")})
    Hold(daemon, 200).end()
    assert not daemon.logged("plugin=\"?bad_hold.*loop=\"?reactor|a callback held its loop.*bad_hold")
    assert daemon.metric("omid_plugin_slow_callbacks_total", plugin="bad_hold") == 0


def test_systemd_is_fed_while_the_loops_turn(start_daemon, tmp_path):
    systemd = Systemd(tmp_path, 0.3 * SLOW)
    daemon = start_daemon({"watchdog": {"fatal": "1s"}, **block("bad_hold")}, systemd.environment)
    for _ in range(3):
        until(systemd.fed, what="WATCHDOG=1")
    hold = Hold(daemon, 5000 * SLOW)
    until(lambda: daemon.metric("omid_watchdog_held_loops") == 1, what="the loop to count as held")
    systemd.fed()
    holds(lambda: systemd.fed() == 0, 1.0, "systemd was fed for a daemon with a held loop")
    assert hold.pending()
    assert daemon.logged("held past watchdog.fatal.*bad_hold")
    hold.end()
    until(systemd.fed, what="WATCHDOG=1 again")
    daemon.metric_is("omid_watchdog_held_loops", 0)
    assert daemon.logged("a loop turns again")


def test_blocking_call_is_warned_about(start_daemon):
    daemon = start_daemon({**block("bad_block"), **block("executors")})
    for symbol in ("sleep", "poll"):
        line = daemon.logged("a plugin has a blocking call.*symbol=\"?%s\\b" % symbol)
        assert len(line) == 1 and str(PLUGINS / "bad_block.so") in line[0], daemon.log()
    assert not daemon.logged("blocking call.*executors")
    plugins = {p["name"]: p for p in daemon.status()["plugins"]}
    assert plugins["bad_block"]["state"] == "running"
    assert sorted(plugins["bad_block"]["blocking"]) == ["poll", "sleep"]
    assert plugins["executors"]["blocking"] == []


def test_blocking_call_is_refused(start_daemon):
    daemon = start_daemon({"daemon": {"strict_lint": True}, **block("bad_block"), **block("executors")})
    refused = daemon.logged("bad_block.so: calls that block a loop, which daemon.strict_lint refuses: ")
    assert refused and "sleep" in refused[0] and "poll" in refused[0], daemon.log()
    plugins = {p["name"]: p for p in daemon.status()["plugins"]}
    assert plugins.get("bad_block", {}).get("state") != "running"
    assert plugins["executors"]["state"] == "running"


def test_required_and_refused(start_daemon, tmp_path):
    conf = tmp_path / "strict.conf"
    conf.write_text('daemon { strict_lint = true }\nplugin bad_block { path = "%s" required = true }\n'
                    % (PLUGINS / "bad_block.so"))
    done = subprocess.run([program("omid"), "-t", "-f", conf], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 78, done
    assert "strict.conf:2: plugin bad_block" in done.stderr and "strict_lint refuses" in done.stderr
    conf.write_text('plugin bad_block { path = "%s" required = true }\n' % (PLUGINS / "bad_block.so"))
    done = subprocess.run([program("omid"), "-t", "-f", conf], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 0 and "has the blocking call sleep, which sleeps" in done.stderr, done
    assert "0 errors, 2 warnings" in done.stderr


def lint(name, *options):
    done = subprocess.run([program("omictl"), "lint", PLUGINS / (name + ".so"), *options], capture_output=True, text=True,
                          timeout=60 * SLOW)
    return done.returncode, done.stdout, done.stderr


def test_omictl_lint():
    code, out, _ = lint("bad_block")
    assert code == 1 and "bad_block.so: sleep: sleeps" in out and "bad_block.so: poll: waits" in out
    code, out, _ = lint("good")
    assert code == 0 and "no blocking call" in out
    code, out, _ = lint("executors")
    assert code == 0 and "allowed" in out
    code, out, err = lint("bad_magic")
    assert code == 1 and "wrong magic" in err and not out
    code, out, err = lint("nothing")
    assert code == 1 and "No such file" in err
    code, out, _ = lint("bad_block", "--json")
    found = json.loads(out)
    assert code == 1 and not found["ok"] and {f["symbol"] for f in found["blocking"]} == {"sleep", "poll"}
    code, out, _ = lint("bad_tiny", "--json")
    found = json.loads(out)
    assert code == 1 and not found["ok"] and "4 bytes" in found["reason"]


def test_idle_watchdog_costs_little(start_daemon):
    """It looks at the loops, but not all the time."""
    daemon = start_daemon({})

    def ticks():
        for task in Path("/proc/%d/task" % daemon.process.pid).iterdir():
            if (task / "comm").read_text().strip() == "watchdog":
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
                return int(fields[11]) + int(fields[12])
        raise AssertionError("no thread of this name")

    before, began = ticks(), time.monotonic()
    holds(daemon.running, 2.0)
    used = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert used <= 0.05 * (time.monotonic() - began) * SLOW


# ------------------------------------------------------------------------------ plugins that never return


HANGS = "a callback holds its loop.*plugin=\"?bad_hang\"? callback=\"?%s\"? loop=\"?%s"


def hanging(where):
    return {"daemon": {"drain": "2s"}, **block("bad_hang", where=where)}


def reload_into(daemon, where):
    """omictl, which waits for a reload whose new plugin hangs there."""
    daemon.rewrite(hanging(where))
    return subprocess.Popen([program("omictl"), "--socket", daemon.control, "reload"], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def left_behind(daemon, line):
    """SIGTERM ends it in bounded time, and it says what it left."""
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(40 * SLOW) == 1
    assert daemon.logged(line), daemon.log_tail()
    daemon.process = None


def test_start_never_returns_at_reload(start_daemon):
    daemon = start_daemon(hanging("nowhere"))
    asking = reload_into(daemon, "start")
    try:
        line = until(lambda: daemon.logged(HANGS % ("start", "reactor_")), what="the watchdog's line")
        assert len({name for name in re.findall(r"loop=\"?(\w+)", "\n".join(line))}) >= 1
        # The reload is over with the stop that is asked for, and refused; what holds a reactor can't be waited for.
        left_behind(daemon, "a plugin holds its reactor: leaving without it")
        assert daemon.log().count("start() does not return") >= 1
    finally:
        asking.kill()
        asking.wait()


def test_start_never_returns_at_start(tmp_path, start_daemon):
    """A daemon that never gets ready hears SIGTERM all the same."""
    daemon = start_daemon(hanging("nowhere"))
    daemon.stop()
    log = daemon.log_file
    daemon.rewrite(hanging("start"))
    with open(log, "ab") as out:
        daemon.process = subprocess.Popen([program("omid"), "-f", daemon.conf], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=out, env=daemon.environment, cwd=daemon.dir)
    until(lambda: daemon.logged(HANGS % ("start", "reactor_")), what="the watchdog's line")
    left_behind(daemon, "start\\(\\) does not return")


@pytest.mark.parametrize("where, callback, loop", [
    ("drain", "drain", "reactor_"), ("stop", "stop", "reactor_"), ("unconfigure", "unconfigure", "main"),
    ("destructor", "dlclose", "main")])
def test_end_never_returns_at_stop(start_daemon, where, callback, loop):
    """One SIGTERM is enough, whoever holds what."""
    daemon = start_daemon(hanging(where))
    left_behind(daemon, HANGS % (callback, loop))
    assert daemon.logged("leaving without it"), daemon.log_tail()


@pytest.mark.parametrize("where, callback", [("unconfigure", "unconfigure"), ("destructor", "dlclose")])
def test_end_never_returns_at_reload(start_daemon, where, callback):
    """A replaced plugin that can't be closed holds the main thread alone."""
    daemon = start_daemon({**hanging(where), "plugin echo": {}})
    asking = reload_into(daemon, "nowhere")
    try:
        until(lambda: daemon.logged(HANGS % (callback, "main")), what="the watchdog's line")
        assert daemon.healthz() == 200
        left_behind(daemon, "asked to stop while a plugin holds the main thread.*bad_hang.*%s" % callback)
    finally:
        asking.kill()
        asking.wait()


def test_configure_never_returns_at_reload(start_daemon):
    daemon = start_daemon({**hanging("nowhere"), "plugin echo": {}})
    asking = reload_into(daemon, "configure")
    try:
        until(lambda: daemon.logged(HANGS % ("configure", "main")), what="the watchdog's line")
        # Whoever is connected notices nothing: the main thread alone is held.
        assert daemon.healthz() == 200
        assert {p["name"]: p["state"] for p in daemon.status()["plugins"]}["bad_hang"] == "running"
        left_behind(daemon, "asked to stop while a plugin holds the main thread.*bad_hang.*configure")
    finally:
        asking.kill()
        asking.wait()


def test_configure_never_returns_at_start(start_daemon):
    """Before anything runs: SIGTERM is heard all the same."""
    daemon = start_daemon(hanging("nowhere"))
    daemon.stop()
    daemon.rewrite(hanging("configure"))
    with open(daemon.log_file, "ab") as out:
        daemon.process = subprocess.Popen([program("omid"), "-f", daemon.conf], stdin=subprocess.DEVNULL, stdout=out,
                                          stderr=out, env=daemon.environment, cwd=daemon.dir)
    until(lambda: daemon.logged(HANGS % ("configure", "main")), what="the watchdog's line")
    left_behind(daemon, "asked to stop while a plugin holds the main thread.*bad_hang.*configure")


def test_hangup_while_the_configuration_is_read(start_daemon):
    """Before there is anybody to take it: a reload when the daemon is ready, not its end."""
    daemon = start_daemon(hanging("nowhere"), {"OMID_TEST_HANGUP": "1"})
    until(lambda: daemon.logged("reloaded: "), what="the reload")
    assert daemon.healthz() == 200


def test_every_thread_has_its_lag(start_daemon, reactors):
    daemon = start_daemon({"ingress": {"threads": 2}, **block("bad_hold")})
    loops = {"lane", "ingress_0", "ingress_1"} | {"reactor_%d" % i for i in range(reactors)}
    found = {dict(labels).get("loop") for name, labels in daemon.metrics() if name == "omid_loop_lag_seconds_count"}
    assert found == loops
    assert {loop["name"] for loop in daemon.status()["loops"]} == loops

    def lags():
        assert daemon.get("/hold?0") == (200, b"held")
        return sum(daemon.metric("omid_loop_lag_seconds_count", loop="ingress_%d" % i) for i in range(2)) > 0
    until(lags, what="an answer that went through an ingress thread")
