"""Sessions whose disk is full, and clients that do not read what they are told."""
import json
import os
import re
import resource
import sqlite3
import subprocess

import pytest

from support.daemon import merge, program
from support.talker import FLOOR, SHORT, DeafTalker, stored_text, talker  # noqa: F401
from support.wait import SLOW, until


# ---------------------------------------------------------------------------------- disk


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_full_disk(start_daemon, talker, tmp_path):
    state = tmp_path / "small"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(state)], check=True)
    try:
        daemon = start_daemon({**FLOOR, "daemon": {"state_dir": state}})
        t = talker(daemon, uid="full").wait_ready()
        conversation = t.conversation()
        until(lambda: daemon.get("/readyz")[0] == 200, what="ready")
        with open(state / "filler", "wb", buffering=0) as filler:
            with pytest.raises(OSError):
                while True:
                    filler.write(b"\0" * 4096)
        said = 0
        while daemon.get("/readyz")[0] == 200:
            t.say("Sentence %d. %s" % (said, "x" * 2000), said, 0.5, speaker=said)
            t.heard("Sentence %d." % said)
            said += 1
            assert said < 500
        status, body = daemon.get("/readyz")
        assert status == 503 and "store" in body.decode() and "full" in body.decode(), body
        assert daemon.healthz() == 200
        t.say("While it is full.", said + 1, speaker=said)
        t.heard("While it is full.")
        late = talker(daemon, uid="late").wait_ready()  # begins without the store
        late.say("I came later.")
        late.heard("I came later.")
        os.unlink(state / "filler")
        until(lambda: daemon.get("/readyz")[0] == 200, what=lambda: "recovery: %s" % (daemon.get("/readyz"),))

        def stored(conversation):
            db = sqlite3.connect("file:%s?mode=ro" % (state / "store.db"), uri=True, timeout=5)
            try:
                return " ".join(r[0] for r in db.execute(
                    "SELECT s.text FROM segment s JOIN conversation c ON s.conversation = c.n WHERE c.id = ?"
                    " ORDER BY s.start, s.n", [conversation]))
            finally:
                db.close()

        until(lambda: stored(conversation).endswith("While it is full."), what="what was said meanwhile")
        assert stored(conversation).count("Sentence") == said
        until(lambda: stored(late.conversation()) == "I came later.", what="the late one")
        daemon.stop()
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_file_size_limit(start_daemon, talker):
    """Another way in which a disk says no; its signal must not end the daemon."""
    daemon = start_daemon({**FLOOR, "log": {"level": "error"}})
    t = talker(daemon).wait_ready()
    conversation = t.conversation()
    largest = max((daemon.dir / "state" / name).stat().st_size for name in os.listdir(daemon.dir / "state"))
    former = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    said = 0
    while daemon.get("/readyz")[0] == 200:
        t.say("Sentence %d. %s" % (said, "x" * 2000), said, 0.5, speaker=said)
        t.heard("Sentence %d." % said)
        said += 1
        assert said < 500
    assert daemon.running()
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, former)
    until(lambda: daemon.get("/readyz")[0] == 200, what="recovery")
    until(lambda: stored_text(daemon, conversation).count("Sentence") == said, what="all of it in the store")


# ----------------------------------------------------------------------- slow readers


def flood(speaking, sentences, size, start=0):
    for i in range(start, start + sentences):
        speaking.say("Sentence %d. %s." % (i, "y" * size), i, 0.5, speaker=i % 2)


def flood_until_merged(daemon, speaking, meanwhile=lambda: None):
    """Until somebody's updates are merged, who does not read them; how many sentences that took."""
    said = 0
    while not daemon.metric("omid_listen_coalesced_total"):
        flood(speaking, 4, 8000, said)
        said += 4
        speaking.heard("Sentence %d." % (said - 1))
        meanwhile()
        assert said < 800
    return said


def test_a_client_that_never_reads(start_daemon, talker):
    daemon = start_daemon({"listen": {"down_buffer": "64KiB", "down_stall": "2s"}})
    deaf = talker(daemon, uid="one", kind=DeafTalker).wait_ready()
    speaking = talker(daemon, uid="one").wait_ready()
    deaf.stop_reading()
    said = flood_until_merged(daemon, speaking)
    speaking.heard("Sentence %d." % (said - 1))  # the others are served meanwhile
    until(lambda: daemon.sessions() == 1, 30, what="the deaf one to be closed")
    assert daemon.logged("closing.*1013")
    assert not speaking.closed and daemon.healthz() == 200
    speaking.say("Go on.", said + 10)
    speaking.heard("Go on.")


def test_a_client_that_sends_and_never_reads(start_daemon, talker):
    """Alive, with a window of zero: neither silence nor the kernel's limit ends it, but that nothing gets through."""
    settings = {"listen": {"down_buffer": "64KiB", "down_stall": "10min"}, "ingress": {"ping_interval": "200ms"}}
    daemon = start_daemon(settings)
    deaf = talker(daemon, uid="one", kind=DeafTalker).wait_ready()
    speaking = talker(daemon, uid="one").wait_ready()
    # Connected before: the kernel's own limit for what is not acknowledged stays longer than this.
    daemon.rewrite(merge(settings, {"ingress": {"receive_timeout": "2s"}}))
    done = subprocess.run([program("omictl"), "--socket", daemon.control, "reload"], capture_output=True, text=True,
                          timeout=60 * SLOW)
    assert done.returncode == 0, done
    deaf.stop_reading()
    most = 0
    said = flood_until_merged(daemon, speaking, lambda: deaf.send({"type": "keepalive"}))

    def over():
        nonlocal most
        if daemon.sessions() == 1:
            return True
        deaf.send({"type": "keepalive"})
        most = max(most, daemon.status()["memory"]["used"])
        return False

    until(over, 12, what=lambda: "the deaf one's end\n" + daemon.log_tail(20))
    assert daemon.metric("omid_ingress_stalls_total") == 1
    assert daemon.metric("async_supervisor_exit_total", reason="disconnect") == 1
    assert not daemon.logged("closing.*1013") and most < 32 << 20, most
    assert not speaking.closed and daemon.healthz() == 200
    speaking.say("Go on.", said + 10)
    speaking.heard("Go on.")


def test_a_client_that_reads_late(start_daemon, talker):
    """Updates are merged meanwhile; in the end it has them all, also those of a conversation that has ended."""
    daemon = start_daemon({"listen": {"down_buffer": "64KiB", "conversation_timeout_floor": "2s"}})
    deaf = talker(daemon, uid="one", kind=DeafTalker, conversation_timeout=SHORT).wait_ready()
    speaking = talker(daemon, uid="one", conversation_timeout=SHORT).wait_ready()
    first = deaf.conversation()
    deaf.stop_reading()
    said = flood_until_merged(daemon, speaking)
    flood(speaking, 5, 8000, said)
    said += 5
    speaking.heard("Sentence %d." % (said - 1))
    speaking.conversation(2)
    deaf.read_on()
    deaf.heard("Sentence %d." % (said - 1))
    numbers = [int(n) for n in re.findall(r"Sentence (\d+)\.", deaf.text())]
    assert numbers == list(range(said))
    assert deaf.conversation(2) == speaking.conversation(2)
    kinds = [(m["type"] if isinstance(m, dict) else "segments") for m in map(json.loads, (r for r in deaf.raw if r != "ping"))]
    assert "segments" not in kinds[kinds.index("memory_processing_started"):]
    assert [m["memory"]["id"] for m in deaf.of_type("memory_processing_started")] == [first]
    assert not deaf.closed
