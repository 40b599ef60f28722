"""omictl: its usage, what it shows, and recordings that it streams."""
import json
import os
import subprocess
import time
import wave

import pytest

from support.daemon import program
from support.deepgram import Mode
from support.settings import with_deepgram
from support.talker import FLOOR, leaves_nothing, talker  # noqa: F401
from support.wait import SLOW, until

def omictl(*args, daemon=None, status=0, timeout=60):
    environment = dict(os.environ)
    environment.pop("OMID_TOKEN", None)
    if daemon:
        environment["OMID_CONTROL"] = daemon.control
    done = subprocess.run([str(program("omictl")), *map(str, args)], capture_output=True, text=True,
                          timeout=timeout * SLOW, env=environment)
    assert done.returncode == status, (args, done.returncode, done.stdout, done.stderr)
    return done


def listen(daemon, *args, uid="ctl", **more):
    return omictl("listen", "--url", "ws://%s" % daemon.address, "--token", daemon.admin_key + uid, *args, **more)


@pytest.fixture
def recording(tmp_path):
    """Two seconds of one value, as a WAV file and as bare samples."""
    with wave.open(str(tmp_path / "voice.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(b"\x05\0" * 32000)
    (tmp_path / "voice.raw").write_bytes(b"\x05\0" * 32000)
    return tmp_path


def test_omictl_status_and_plugins(start_daemon, talker):
    daemon = start_daemon({"plugin echo": {}})
    talker(daemon).wait_ready()
    out = omictl("status", daemon=daemon).stdout
    assert daemon.address in out and "1 live" in out and "echo" in out
    for args in (("--json", "status"), ("status", "--json")):
        told = json.loads(omictl(*args, daemon=daemon).stdout)
        assert told["sessions"]["live"] == 1 and told["pid"] == daemon.process.pid
    assert "echo" in omictl("plugins", daemon=daemon).stdout
    plugin, = json.loads(omictl("plugins", "--json", daemon=daemon).stdout)["plugins"]
    assert plugin["name"] == "echo"
    daemon.stop()
    assert omictl("status", daemon=daemon, status=1).stderr


def test_omictl_usage(tmp_path):
    for args in ((), ("dance",), ("status", "now"), ("plugins", "all"), ("listen",), ("listen", "a", "b"), ("conf",),
                 ("conf", "check"), ("conf", "dance", "x"), ("receive",), ("receive", "--port", "x"),
                 ("receive", "--port", "70000"), ("listen", "--speed", "fast", "x"), ("listen", "--sessions", "0", "x"),
                 ("listen", "--raw", "x"), ("listen", "--no-such-option", "x"), ("--no-such-option",)):
        assert omictl(*args, status=2).stderr, args
    for command in ("status", "plugins", "conf", "listen", "receive"):
        assert command in omictl(command, "--help").stdout


def test_omictl_conf_check(start_daemon, tmp_path):
    daemon = start_daemon({})
    omictl("conf", "check", daemon.conf)
    broken = tmp_path / "broken.conf"
    broken.write_text('listen {\n  ping = 5\n}\n')
    done = omictl("conf", "check", broken, status=1)
    assert "broken.conf:2" in done.stdout + done.stderr and "ping" in done.stdout + done.stderr
    omictl("conf", "check", tmp_path / "missing.conf", status=1)


def test_omictl_listen(start_daemon, deepgram, recording):
    daemon = start_daemon(with_deepgram(deepgram))
    for args in (("voice.wav",), ("--raw", "--rate", "16000", "voice.raw")):
        done = listen(daemon, "--speed", "4", "--wait", "1", *args[:-1], recording / args[-1], uid="u" + args[-1])
        assert "v5 n4." in done.stdout and "sessions=1 failed=0" in done.stderr.splitlines()[-1]
    assert [s.audio for s in deepgram.streams] == [64000, 64000]
    done = listen(daemon, "--json", "--speed", "4", "--wait", "1", recording / "voice.wav", uid="json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["summary"]["failed"] == 0 and lines[-1]["summary"]["sessions"] == 1
    leaves_nothing(daemon)


def test_omictl_listen_many_and_abrupt(start_daemon, deepgram, recording):
    daemon = start_daemon(with_deepgram(deepgram))
    done = listen(daemon, "--sessions", "5", "--speed", "4", "--wait", "1", recording / "voice.wav")
    assert "sessions=5 failed=0" in done.stderr and len(deepgram.streams) == 5
    began = time.monotonic()
    listen(daemon, "--hangup-after", "0.5", recording / "voice.wav")
    assert time.monotonic() - began < 1.9 * SLOW
    leaves_nothing(daemon)
    assert daemon.logged("client left.*1006")


def test_omictl_listen_faults(start_daemon, deepgram, recording, tmp_path):
    daemon = start_daemon(with_deepgram(deepgram))
    (tmp_path / "no.wav").write_text("no WAV at all, though it says so")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((recording / "voice.wav").read_bytes()[:30])
    for name in ("no.wav", "empty.wav", "cut.wav", "missing.wav"):
        assert name in listen(daemon, tmp_path / name, status=1).stderr
    assert "403" in omictl("listen", "--url", "ws://%s/v4/listen" % daemon.address, "--token", "wrong",
                           recording / "voice.wav", status=1).stderr
    assert "400" in listen(daemon, "--query", "channels=many", recording / "voice.wav", status=1).stderr
    assert "1008" in listen(daemon, "--language", "xx", recording / "voice.wav", status=1).stderr
    deepgram.default = Mode(status=401)
    assert "1011" in listen(daemon, recording / "voice.wav", status=1).stderr
    leaves_nothing(daemon)


def test_omictl_receive(start_daemon, talker, tmp_path):
    ready = tmp_path / "receiver"
    out = open(tmp_path / "deliveries", "w+")
    receiver = subprocess.Popen([str(program("omictl")), "receive", "--json", "--port", "0", "--count", "1", "--ready-file",
                                 str(ready)], stdout=out, stderr=subprocess.STDOUT,
                                # h2o keeps its caches when a process ends
                                env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
    try:
        until(lambda: ready.exists() and ready.read_text().strip(), what="the receiver")
        address = ready.read_text().strip()
        url = address if address.startswith("http") else "http://" + address
        daemon = start_daemon({**FLOOR, "plugin webhooks": {"realtime_transcript": [url + "/transcript"]}})
        talker(daemon).wait_ready().say("To the receiver.")
        assert receiver.wait(20 * SLOW) == 0
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
    out.seek(0)
    assert "To the receiver." in out.read()
