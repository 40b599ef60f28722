"""What an operator sees of the lanes: omictl lanes, breakers, breaker reset, and the admin API below them."""
import json
import subprocess

from support.daemon import merge, program
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import until


def settings(deepgram, receiver):
    return merge(with_deepgram(deepgram), {"plugin webhooks": {
        "transcript_interval": "100ms", "timeout": "2s", "breaker": {"failures": 3, "open": "60s"},
        "realtime_transcript": [receiver.url("/transcript?key=secret").replace("://", "://me:secret@")]}})


def omictl(daemon, *arguments, status=0):
    done = subprocess.run([program("omictl"), "--socket", daemon.control, *arguments], capture_output=True, text=True,
                          timeout=30, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def breakers(daemon, *arguments):
    text = omictl(daemon, "--json", "breakers", *arguments)
    assert "secret" not in text
    return json.loads(text)["breakers"]


def of_receiver(daemon):
    return [b for b in breakers(daemon, "--lane", "webhooks") if b["target"].endswith("/transcript")]


def test_breaker_seen_and_reset(start_daemon, deepgram, receiver, phone):
    receiver.on("/transcript", Answer(500))
    daemon = start_daemon(settings(deepgram, receiver))
    p = phone(daemon).wait_ready()

    def opened():
        p.speak(0.3)
        return [b for b in of_receiver(daemon) if b["state"] == "open"]
    b = until(opened, what="an open breaker")[0]
    assert b["lane"] == "webhooks" and b["why"] == "consecutive_failures"
    assert 40000 < b["next_probe_ms"] <= 72000 and b["in_flight"] == 0 and b["limit"] >= 1
    assert len(receiver.at("/transcript")) == 3
    table = omictl(daemon, "breakers")
    assert "consecutive_failures" in table and b["target"] in table and "secret" not in table
    lane = [x for x in json.loads(omictl(daemon, "--json", "lanes"))["lanes"] if x["name"] == "webhooks"][0]
    assert lane["breakers_open"] == 1 and lane["p99_ms"] >= lane["p50_ms"] > 0
    assert "webhooks" in omictl(daemon, "lanes")
    assert breakers(daemon, "--lane", "nobody") == []

    receiver.on("/transcript", Answer(200))
    assert "1 closed" in omictl(daemon, "breaker", "reset", b["target"])

    def delivered():
        p.speak(0.3)
        return len(receiver.at("/transcript")) > 3
    until(delivered, what="a delivery after the reset")
    until(lambda: of_receiver(daemon)[0]["state"] == "closed", what="a closed breaker")


def test_refusals(start_daemon, deepgram, receiver):
    daemon = start_daemon(settings(deepgram, receiver))
    assert "is open" in omictl(daemon, "breaker", "reset", "http://127.0.0.1:1/x", status=1)
    assert "expected an http" in omictl(daemon, "breaker", "reset", "nonsense", status=1)
    assert "expected: reset TARGET" in omictl(daemon, "breaker", status=2)
    assert "expected: reset TARGET" in omictl(daemon, "breaker", "reset", status=2)
    assert "unexpected" in omictl(daemon, "breakers", "--lan", "x", status=2)
    assert "unexpected" in omictl(daemon, "lanes", "--lane", "x", status=2)
    for path, status in (("/v1/admin/breakers?lan=x", 400), ("/v1/admin/breakers?lane=%zz", 400),
                         ("/v1/admin/breakers/reset", 405), ("/v1/admin/lanes", 200)):
        assert daemon.get_control(path)[0] == status, path
    # Not to strangers.
    for path in ("/v1/admin/breakers", "/v1/admin/lanes"):
        assert daemon.get(path)[0] == 404


def test_watch(start_daemon, deepgram, receiver):
    daemon = start_daemon(settings(deepgram, receiver))
    watching = subprocess.Popen([program("omictl"), "--socket", daemon.control, "--json", "lanes", "--watch"],
                                stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["lanes"]
        watching.stdout.close()  # its reader is gone: it ends by itself
        assert watching.wait(30) == 0
    finally:
        if watching.poll() is None:
            watching.kill()
            watching.wait()
