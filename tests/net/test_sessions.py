"""
What holds a session together and how it ends: reasons, the drain and its bounds, clients, providers and stores that
vanish at the worst moment; and what an operator sees of it: omictl sessions, session kill.
"""
import json
import re
import signal
import subprocess
import time

import pytest

from support.daemon import merge, program
from support.deepgram import Mode
from support.settings import with_deepgram
from support.store import store_held
from support.wait import SLOW, holds, until

UID = "one-and-the-same"  # and so on one and the same reactor
NOBODY = "00000000-0000-4000-8000-000000000000"


def omictl(daemon, *arguments, status=0):
    done = subprocess.run([program("omictl"), "--socket", daemon.control, *arguments], capture_output=True, text=True,
                          timeout=30 * SLOW, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def listed(daemon, *arguments):
    return json.loads(omictl(daemon, "--json", "sessions", *arguments))


def rows(daemon, *arguments):
    return listed(daemon, *arguments)["sessions"]


def only(daemon, **wanted):
    """The one session there is, once it is as wanted."""
    def found():
        all_of_them = rows(daemon)
        return len(all_of_them) == 1 and all(all_of_them[0][k] == v for k, v in wanted.items()) and all_of_them[0]
    return until(found, what=lambda: "%s; there are: %s" % (wanted, rows(daemon)))


def exits(daemon, reason):
    return daemon.metric("async_supervisor_exit_total", label="listen", reason=reason)


def nothing_left(daemon, deadline=20):
    until(lambda: listed(daemon)["total"] == 0, deadline, lambda: "the end of %s\n%s" % (rows(daemon), daemon.log_tail(30)))
    assert daemon.sessions() == 0


# ------------------------------------------------------------------------------ omictl


def test_table(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, uid="a-secret-uid").wait_ready()
    q = phone(daemon, uid="another-uid", custom_stt="enabled", language="de").wait_ready()
    speaking = p.speaking(4.0)
    until(lambda: p.of_type("conversation_session") and q.of_type("conversation_session"), what="conversations")
    until(lambda: any(r["bytes_per_second"] > 8000 for r in rows(daemon)), what=lambda: rows(daemon))
    of_p, = rows(daemon, "--uid", "a-secret-uid")
    of_q, = rows(daemon, "--uid", "another-uid")
    assert re.fullmatch(r"[0-9a-f-]{36}", of_p["id"]) and re.fullmatch(r"u:[0-9a-f]{12}", of_p["uid"])
    assert of_p["state"] == "live" and of_p["codec"] == "pcm16" and of_p["provider"] == "dg-nova-3"
    assert of_p["sample_rate"] == 8000 and of_p["channels"] == 1 and of_p["language"] == "en"
    assert of_p["tasks"] == "client,watch,stt" and 0 < of_p["seconds"] < 60 * SLOW and of_p["bytes"] > 0
    assert 0 <= of_p["lag_ms"] < 1000 * SLOW and 0 <= of_p["idle_seconds"] <= of_p["seconds"]
    assert of_q["state"] == "live" and of_q["provider"] is None and of_q["tasks"] == "client,watch"
    assert rows(daemon, "--uid", of_p["uid"])[0]["id"] == of_p["id"] and rows(daemon, "--uid", "nobody") == []
    assert rows(daemon, "--state", "leaving") == [] and len(rows(daemon, "--state", "live")) == 2
    everything = listed(daemon)
    assert everything["total"] == everything["matching"] == everything["shown"] == 2
    assert everything["states"] == {"starting": 0, "live": 2, "closing": 0, "leaving": 0}
    table = omictl(daemon, "sessions")
    lines = table.splitlines()
    assert lines[0].split()[:2] == ["SESSION", "UID"] and of_p["id"] in table and "2 live" in lines[-1]
    assert "secret-uid" not in table + json.dumps(everything)
    speaking.result(60)
    p.close()
    q.hang_up()
    nothing_left(daemon)
    assert "0 sessions" in omictl(daemon, "sessions")


def test_lag_of_a_provider_that_does_not_answer(start_daemon, deepgram, phone):
    deepgram.default = Mode(hang=True)
    daemon = start_daemon(with_deepgram(deepgram))
    calm = phone(daemon, uid="calm", custom_stt="enabled").wait_ready()
    p = phone(daemon, uid="starting")
    p.speak(2.0, speed=4)
    row = until(lambda: [r for r in rows(daemon) if r["lag_ms"] >= 2000], what=lambda: rows(daemon))[0]
    assert row["state"] == "starting" and rows(daemon)[0]["id"] == row["id"]  # trouble stands first
    calm.close()
    p.hang_up()
    nothing_left(daemon)


def test_misuse(start_daemon):
    daemon = start_daemon()
    assert "there is no such session" in omictl(daemon, "session", "kill", NOBODY, status=1)
    assert "expected a session's id" in omictl(daemon, "session", "kill", "nonsense", status=1)
    assert "expected: kill ID" in omictl(daemon, "session", status=2)
    assert "expected: kill ID" in omictl(daemon, "session", "kill", status=2)
    assert "expected 1001 or 1008" in omictl(daemon, "session", "kill", "--code", "1000", NOBODY, status=2)
    assert "unexpected" in omictl(daemon, "session", "kill", NOBODY, NOBODY, status=2)
    assert "unexpected" in omictl(daemon, "sessions", "--all", status=2)
    assert "expected starting" in omictl(daemon, "sessions", "--state", "gone", status=1)
    for path, status in (("/v1/admin/sessions?uidd=x", 400), ("/v1/admin/sessions?uid=%zz", 400),
                         ("/v1/admin/sessions/kill", 405), ("/v1/admin/sessions", 200)):
        assert daemon.get_control(path)[0] == status, path
    assert daemon.get("/v1/admin/sessions")[0] == 404  # not to strangers


def test_watch(start_daemon):
    daemon = start_daemon()
    watching = subprocess.Popen([program("omictl"), "--socket", daemon.control, "--json", "sessions", "--watch"],
                                stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["sessions"] == []
        watching.stdout.close()  # its reader is gone: it ends by itself
        assert watching.wait(30 * SLOW) == 0
    finally:
        if watching.poll() is None:
            watching.kill()
            watching.wait()


@pytest.mark.parametrize("options, code, reason", [
    ((), 1008, "ended by the operator"),
    (("--code", "1001", "--reason", "maintenance"), 1001, "maintenance"),
    (("--reason", "x" * 123), 1008, "x" * 123),
])
def test_kill(start_daemon, deepgram, phone, options, code, reason):
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, uid="killed").wait_ready()
    other = phone(daemon, uid="spared").wait_ready()
    p.speak(1.0)
    until(lambda: p.text(), what="text")
    victim, = rows(daemon, "--uid", "killed")
    assert "is told to end" in omictl(daemon, "session", "kill", *options, victim["id"])
    until(lambda: p.closed, what="the close")
    assert (p.close_code, p.close_reason) == (code, reason)
    until(lambda: len(rows(daemon)) == 1, what=lambda: rows(daemon))
    assert not other.closed and exits(daemon, "lifetime_done") == 1 and daemon.logged("ended by an operator")
    assert "longer than 123" in omictl(daemon, "session", "kill", "--reason", "x" * 124, victim["id"], status=1)
    other.close()
    nothing_left(daemon)


def test_kill_of_one_that_is_leaving(start_daemon, deepgram, phone):
    """It is not waited for any longer: the drain is over at once."""
    deepgram.default = Mode(silent=True)
    daemon = start_daemon(merge(with_deepgram(deepgram, close_timeout="60s"), {"listen": {"drain": "10min"}}))
    p = phone(daemon).wait_ready()
    p.speak(0.2)
    p.hang_up()
    row = only(daemon, state="leaving", tasks="stt")
    holds(lambda: len(rows(daemon)) == 1, 0.3)
    omictl(daemon, "session", "kill", row["id"])
    nothing_left(daemon)
    assert daemon.metric("async_drain_timeout_total", label="listen") == 1
    assert daemon.logged("ws:u:[0-9a-f]{12}:stt") and daemon.metric("omid_supervisor_stuck_total") == 0
    until(lambda: not deepgram.live(), what="the end of the stream")


# ------------------------------------------------------------------------------ reasons and bounds


def test_reasons(start_daemon, deepgram, phone):
    daemon = start_daemon(merge(with_deepgram(deepgram), {"listen": {"inactivity": "1s"}}))
    assert [exits(daemon, r) for r in ("disconnect", "crash", "lifetime_done")] == [0, 0, 0]
    phone(daemon).wait_ready().hang_up()
    until(lambda: exits(daemon, "disconnect") == 1, what="disconnect")
    idle = phone(daemon).wait_ready()
    until(lambda: idle.closed, what="the end of the idle one")
    assert idle.close_code == 1001
    until(lambda: exits(daemon, "lifetime_done") == 1, what="lifetime_done")
    deepgram.default = Mode(status=401)
    failed = phone(daemon)
    until(lambda: failed.closed, what="the end of the one without a provider")
    assert failed.close_code == 1011 and "stt_failed" in failed.statuses()
    nothing_left(daemon)
    assert [exits(daemon, r) for r in ("disconnect", "crash", "lifetime_done")] == [1, 1, 1]
    assert daemon.logged(r"task failed .*ws:u:[0-9a-f]{12}:stt")
    assert daemon.metric("async_drain_duration_seconds_count", label="listen") == 3
    assert daemon.metric("async_drain_timeout_total", label="listen") == 0


def test_end_without_work_takes_no_time(start_daemon, phone):
    """No poller sleeps: sessions with nothing left to do end within turns of the loop, not at a timer."""
    daemon = start_daemon({"listen": {"ping": "60s", "drain": "10min", "lifecycle_check": "10min"},
                           "store": {"flush": "60s", "sweep": "10min"}})
    for _ in range(5):
        p = phone(daemon, custom_stt="enabled").wait_ready()
        until(lambda: p.of_type("conversation_session"), what="the conversation")
        p.close()
    nothing_left(daemon)
    assert daemon.metric("async_drain_duration_seconds_count", label="listen") == 5
    # Each of them within a millisecond or so: in whole milliseconds of the loop's clock.
    assert daemon.metric("async_drain_duration_seconds_sum", label="listen") < 0.005 * 5 * SLOW


def test_drain_runs_out(start_daemon, deepgram, phone):
    """A provider that hangs keeps nobody: after listen.drain its streams are cancelled."""
    deepgram.default = Mode(silent=True)
    daemon = start_daemon(merge(with_deepgram(deepgram, close_timeout="60s"), {"listen": {"drain": "500ms"}}))
    phones = [phone(daemon).wait_ready() for _ in range(4)]
    before = daemon.descriptors()
    for p in phones:
        p.speak(0.1)
        p.hang_up()
    nothing_left(daemon)
    assert daemon.metric("async_drain_timeout_total", label="listen") == 4
    assert daemon.metric("omid_supervisor_stuck_total", label="listen") == 0
    until(lambda: not deepgram.live(), what="the end of the streams")
    until(lambda: len(daemon.descriptors()) <= len(before) - 8, what=lambda: (before, daemon.descriptors()))


def test_those_that_leave_are_bounded_too(start_daemon, deepgram, phone):
    """Clients that come and go while their provider hangs: at most twice max_sessions are held, then 1013."""
    deepgram.default = Mode(silent=True)
    daemon = start_daemon(merge(with_deepgram(deepgram, close_timeout="60s"),
                                {"listen": {"drain": "10min", "max_sessions": 2}}))
    for _ in range(4):
        phone(daemon).wait_ready().hang_up()
    until(lambda: listed(daemon)["states"]["leaving"] == 4, what=lambda: listed(daemon))
    late = phone(daemon)
    until(lambda: late.closed, what="the refusal")
    assert late.close_code == 1013 and daemon.metric("omid_listen_refused_total") == 1
    for row in rows(daemon):
        omictl(daemon, "session", "kill", row["id"])
    nothing_left(daemon)
    phone(daemon, custom_stt="enabled").wait_ready().close()
    nothing_left(daemon)


# ------------------------------------------------------------------------------ the worst moments


def starting(daemon, deepgram, phone):
    deepgram.default = Mode(hang=True)
    p = phone(daemon, uid=UID)
    only(daemon, state="starting")
    p.speak(0.2, speed=10)
    return p


def live(daemon, deepgram, phone):
    p = phone(daemon, uid=UID).wait_ready()
    p.speak(1.0, speed=4)
    only(daemon, state="live")
    return p


def waiting(daemon, deepgram, phone):
    """Its feed pauses before the next attempt."""
    deepgram.default = Mode(drop_after=0.05)
    p = phone(daemon, uid=UID)
    p.speak(1.0, speed=4)
    until(lambda: daemon.logged("feed state .*to=waiting"), what=lambda: daemon.log_tail(20))
    return p


def closing(daemon, deepgram, phone):
    """It has been told to end, and does not answer."""
    p = live(daemon, deepgram, phone)
    p.ws.transport.pause_reading()
    omictl(daemon, "session", "kill", only(daemon)["id"])
    only(daemon, state="closing")
    return p


def leaving(daemon, deepgram, phone):
    """The client is gone, the provider does not say its last word."""
    deepgram.default = Mode(silent=True)
    p = phone(daemon, uid=UID).wait_ready()
    p.speak(0.5, speed=4)
    p.hang_up()
    only(daemon, state="leaving", tasks="stt")
    return None


MOMENTS = [starting, live, waiting, closing, leaving]


def vanish(daemon, p):
    if p is not None:
        p.hang_up()


def reload_without(daemon, p):
    """The provider's plugin goes away in the middle, then the client."""
    daemon.rewrite({"listen": {"drain": "3s"}, "stt": {"models": ["nobody-serves-it"]}})
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == 1, what=lambda: daemon.log_tail(20))
    if p is not None and not p.closed:
        p.hang_up()


@pytest.mark.parametrize("end", [vanish, reload_without], ids=lambda f: f.__name__)
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda f: f.__name__)
def test_worst_moments(start_daemon, deepgram, phone, moment, end):
    daemon = start_daemon(merge(with_deepgram(deepgram, close_timeout="60s"), {"listen": {"drain": "3s"}}))
    warm = phone(daemon, uid=UID).wait_ready()  # the first one of a reactor makes what stays
    warm.speak(0.5, speed=4)
    warm.close()
    nothing_left(daemon)
    until(lambda: not deepgram.live(), what="the end of the first stream")
    before = daemon.descriptors()
    end(daemon, moment(daemon, deepgram, phone))
    nothing_left(daemon, 30)
    until(lambda: len(daemon.descriptors()) <= len(before), what=lambda: (before, daemon.descriptors()))
    assert daemon.metric("omid_supervisor_stuck_total", label="listen") == 0
    assert daemon.healthz() == 200


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda f: f.__name__)
def test_sigterm_at_the_worst_moment(start_daemon, deepgram, phone, moment):
    daemon = start_daemon(merge(with_deepgram(deepgram, close_timeout="60s"),
                                {"daemon": {"drain": "4s"}, "listen": {"drain": "60s"}}))
    moment(daemon, deepgram, phone)
    began = time.monotonic()
    daemon.stop()
    assert time.monotonic() - began < 6 * SLOW


@pytest.mark.parametrize("end", [vanish, None], ids=["vanish", "sigterm"])
def test_while_the_store_opens(start_daemon, deepgram, phone, end):
    daemon = start_daemon(with_deepgram(deepgram))
    with store_held(daemon):
        p = phone(daemon, uid="early").wait_ready()
        row = only(daemon)
        assert "open" in row["tasks"] and not p.of_type("conversation_session")
        p.speak(1.0, speed=4)
        if end:
            vanish(daemon, p)
            nothing_left(daemon)
        else:
            daemon.process.send_signal(signal.SIGTERM)
    if end:
        assert exits(daemon, "disconnect") == 1
    daemon.stop()
