"""Files that are broken when the daemon starts: set aside as they are, said by /readyz and the log, and it works on."""
import os

import pytest

from support.admin import Admin
from support.receiver import Answer
from support.wait import until

SETTINGS = {"queue": {"retry": ["1h"], "commit": "1ms"}, "plugin webhooks": {"allow_private": ["127.0.0.0/8"]},
            "registry": {"webhook_failures": 100000}}
PAGE = 4096


def cut(path):
    """In the middle of what it holds."""
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def scribble(path):
    """Over every page but the first."""
    with open(path, "r+b") as f:
        f.seek(PAGE)
        f.write(b"\xa5" * (path.stat().st_size - PAGE))


def stump(path):
    os.truncate(path, 100)


def zeros(path):
    """As after a crash of a file system that had the size on disk, and not the data."""
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def garbage(path):
    """Over its header alone."""
    with open(path, "r+b") as f:
        f.write(b"\x5a" * 100)


def post(daemon, n):
    assert Admin(daemon).raw("POST", "/v1/events/file.test", {"n": n}, key=daemon.admin_key + "ann")[0] == 202


def hook(admin, url):
    return admin.call("POST", "/v1/admin/webhooks", {"uid": "ann", "url": url, "events": ["file.*"]}, 201)


@pytest.mark.parametrize("name", ["queue.db", "store.db"])
def test_a_broken_file(start_daemon, receiver, name):
    daemon = start_daemon(SETTINGS)
    receiver.on("/hook", Answer(500))
    for n, damage in enumerate((cut, scribble, stump, zeros, garbage)):
        admin = Admin(daemon)
        if n == 0 or name == "store.db":
            hook(admin, receiver.url("/hook"))
        for i in range(20):
            post(daemon, i)
        until(lambda: daemon.metric("omid_queue_jobs", state="leased") == 0, what="all tried once")
        assert daemon.get("/readyz")[0] == 200 or n > 0
        daemon.stop()
        state = daemon.dir / "state"
        damage(state / name)
        broken = (state / name).read_bytes()
        daemon.start()
        body = daemon.get("/readyz")[1]
        assert ("%s was damaged and has been set aside" % name) in str(body), (damage.__name__, body)
        assert "a broken file was set aside" in daemon.log()
        aside = [p for p in state.glob(name + ".corrupt-*") if not p.name.endswith(("-wal", "-shm"))]
        assert len(aside) == n + 1 and broken in [p.read_bytes() for p in aside], damage.__name__
        # The other file is as it was, and the daemon works.
        admin = Admin(daemon)
        hooks = admin.call("GET", "/v1/admin/webhooks?uid=ann")["webhooks"]
        assert len(hooks) == (0 if name == "store.db" else 1), damage.__name__
        kept = sum(daemon.metric("omid_queue_jobs", state=s) or 0 for s in ("delayed", "dead"))
        assert (kept == 0) == (name == "queue.db"), (damage.__name__, kept)
    receiver.on("/again", Answer(200))
    hook(Admin(daemon), receiver.url("/again"))
    post(daemon, 99)
    until(lambda: [d.json for d in receiver.at("/again")] == [{"n": 99}], what="a delivery")
