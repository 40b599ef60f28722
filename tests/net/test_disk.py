"""
Events while the disk fails: none is answered 202 that is not on it, which a crash tells; /readyz says so; and when the
disk takes writes again, all goes on.
"""
import http.client
import json
import re
import threading

import pytest

from support.admin import Admin
from support.daemon import ADMIN_KEY, Daemon
from support.disk import FullDisk, LyingDisk
from support.receiver import Answer
from support.wait import SLOW, until

UID = "disk"


class Sender:
    """Posts events on several connections; who was answered 202 is in self.accepted."""

    def __init__(self, daemon, size):
        self.daemon, self.size, self.n = daemon, size, 0
        self.accepted, self.answers, self.lock = set(), [], threading.Lock()

    def post(self, count, threads=8):
        """count more; the statuses."""
        first, self.n = self.n, self.n + count
        numbers, out = iter(range(first, self.n)), []

        def run():
            host, port = self.daemon.address.rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
            while True:
                with self.lock:
                    n = next(numbers, None)
                if n is None:
                    break
                connection.request("POST", "/v1/events/disk.test", json.dumps({"n": n, "pad": "x" * self.size}),
                                   {"Authorization": "Bearer " + ADMIN_KEY + UID, "Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                with self.lock:
                    out.append(response.status)
                    if response.status == 202:
                        self.accepted.add(n)
            connection.close()
        workers = [threading.Thread(target=run) for _ in range(threads)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        assert len(out) == count
        return out


@pytest.fixture(params=["full", "lying"])
def disk(request, tmp_path):
    (tmp_path / "state").mkdir()
    d = FullDisk(tmp_path / "state") if request.param == "full" else LyingDisk(tmp_path / "state", tmp_path)
    yield d
    d.end()


@pytest.fixture
def daemon(disk, tmp_path, reactors, receiver):
    retry = ["1s"] * 30
    d = Daemon(tmp_path, reactors, {
        "queue": {"retry": retry}, "registry": {"webhook_failures": 1000000},
        "plugin webhooks": {"allow_private": ["127.0.0.0/8"], "breaker": {"failures": 1000, "min_attempts": 100000}}},
        disk.environment)
    d.prefix = disk.prefix
    try:
        yield d.start()
        d.stop()
    finally:
        d.remove()


def reasons(daemon):
    status, body = daemon.get("/readyz")
    return [] if status == 200 else json.loads(body)["reasons"]


def test_a_disk_that_fails(disk, daemon, receiver):
    receiver.on("/e", Answer(500))  # nobody takes one until the end
    Admin(daemon).call("POST", "/v1/admin/webhooks",
                       {"uid": UID, "url": receiver.url("/e"), "events": ["disk.test"]}, 201)
    sender = Sender(daemon, 32 << 10 if isinstance(disk, FullDisk) else 1 << 10)

    def arrived():
        return {d.json["n"] for d in receiver.at("/e") if d.answered}

    def broken():
        disk.breaks()
        answers = []
        while answers.count(503) < 30:
            answers += sender.post(40)
            assert set(answers) <= {202, 503} and len(answers) < 2000
        if isinstance(disk, LyingDisk):
            assert set(answers) == {503}
        assert any(r.startswith("queue: ") for r in reasons(daemon)), reasons(daemon)
        assert daemon.healthz() == 200

    assert set(sender.post(60)) == {202}
    broken()
    daemon.kill()  # what was accepted while the disk failed is there, and nothing else is needed
    disk.mends()
    daemon.start()
    assert reasons(daemon) == []
    assert set(sender.post(20)) == {202}
    broken()
    disk.mends()  # and on it goes
    until(lambda: reasons(daemon) == [], what="the disk to be well")
    assert set(sender.post(20)) == {202}
    daemon.kill()
    receiver.deliveries.clear()
    receiver.on("/e", Answer(200))
    daemon.start()
    until(lambda: sender.accepted <= arrived(), 30, lambda: "of %d accepted %s are missing" % (
        len(sender.accepted), sorted(sender.accepted - arrived())))


def test_fresh_on_a_full_disk(tmp_path, reactors):
    """Nothing is there yet to go on with: it says which file has no room, and what it leaves is no hindrance."""
    (tmp_path / "state").mkdir()
    disk = FullDisk(tmp_path / "state", "16m")
    d = Daemon(tmp_path, reactors, {"plugin webhooks": {}})
    d.prefix = disk.prefix
    without, known, started = [], 0, False
    try:
        while not started and len(without) < 30:
            disk.breaks(64 << 10 if without else 0)  # a little more each time, as what was made stays
            try:
                d.start()
                started = True
            except AssertionError as e:
                assert "omid ended at once with 1:" in str(e)
                log, known = d.log()[known:], len(d.log())
                file, = re.findall(r"error omid: (?:store|queue) path=%s/(\S+) reason=" % (tmp_path / "state"), log)
                assert "the disk is full (%s" % (tmp_path / "state" / file) in log and "omid: not started" in log, log
                without.append(file)
                disk.mends()
        assert started and list(dict.fromkeys(without)) == ["store.db", "queue.db"], without
        d.kill()
        disk.mends()
        d.start()
        assert reasons(d) == [] and not list((tmp_path / "state").glob("*corrupt*"))
        assert Sender(d, 100).post(5, 1) == [202] * 5
        d.stop()
    finally:
        d.remove()
        disk.end()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_starts_on_a_full_disk(tmp_path, reactors, receiver, end):
    """It starts, serves what needs no room, refuses what does, and goes on once there is some; nothing is lost."""
    (tmp_path / "state").mkdir()
    disk = FullDisk(tmp_path / "state", "16m")
    d = Daemon(tmp_path, reactors, {"queue": {"retry": ["1s"] * 30}, "plugin webhooks": {
        "timeout": "20s", "allow_private": ["127.0.0.0/8"], "breaker": {"failures": 1000, "min_attempts": 100000}}})
    d.prefix = disk.prefix
    try:
        receiver.on("/e", Answer(hang=True))  # an attempt is under way at the end of the first life
        d.start()
        Admin(d).call("POST", "/v1/admin/webhooks", {"uid": UID, "url": receiver.url("/e"), "events": ["disk.test"]}, 201)
        sender = Sender(d, 100)
        assert sender.post(1, 1) == [202]
        until(lambda: receiver.at("/e"), what="an attempt")
        for turn in range(2):  # once more, now with what the first start on it has left
            getattr(d, end)()
            disk.breaks()
            d.start()
            assert d.healthz() == 200
            assert set(sender.post(20)) == {503}
            assert any(r.startswith("queue: ") and "full" in r for r in reasons(d)), reasons(d)
            assert Admin(d).call("GET", "/v1/admin/webhooks?limit=5")["webhooks"][0]["url"] == receiver.url("/e")
            assert d.metric("omid_queue_jobs", state="ready") is not None
        receiver.on("/e", Answer(200))
        receiver.deliveries.clear()
        disk.mends()
        until(lambda: reasons(d) == [], what="the disk to be well")
        until(lambda: sorted({x.json["n"] for x in receiver.at("/e")}) == [0], what="what was accepted before")
        assert sender.post(5) == [202] * 5
        until(lambda: {x.json["n"] for x in receiver.at("/e")} == sender.accepted, what="the rest")
        d.stop()
    finally:
        d.remove()
        disk.end()
