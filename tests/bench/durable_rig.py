"""What the benchmarks of durable events share: omid with the webhooks plugin, and a process that sends and receives."""
import json

import rig

UID = "bench"
BODY = 1024  # bytes of an event


class Events(rig.Program):
    """tests/bench/events: both ends and their ledger."""

    def __init__(self):
        super().__init__([rig.TREE / "tests/bench/events", -1, "Bearer %s%s" % (rig.ADMIN_KEY, UID), BODY])
        self.port = int(self.line())

    def url(self, path):
        return "http://127.0.0.1:%d%s" % (self.port, path)

    def target(self, daemon, connections):
        self.ask("target %s %d" % (daemon.address.rsplit(":", 1)[1], connections))

    def send(self, count, rate=0, kind="bench.posted", key=False):
        self.ask("send %f %d /v1/events/%s%s" % (rate, count, kind, " key" if key else ""))

    def stat(self):
        return self.numbers("stat")


class Daemon(rig.Daemon):
    """Delivers bench.posted to the receiver, and holds bench.held, which is refused there."""

    def __init__(self, events, queue="", **options):
        super().__init__("""
queue { %s }
plugin webhooks { path = "%s" required = true allow_private = { "127.0.0.0/8" }
    pool = 256 idle = 256 semaphore = 256 queue = 4096 breaker { failures = 3 open = 10min open_max = 10min } }
""" % (queue, rig.TREE / "plugins/webhooks/.libs/webhooks.so"), pin=False, **options)
        for kind, path in (("bench.posted", "/ok"), ("bench.held", "/held")):
            self.register({"uid": UID, "url": events.url(path), "events": [kind]})

    def register(self, webhook):
        self.request("POST", "/v1/admin/webhooks", json.dumps(webhook),
                     {"Authorization": "Bearer " + rig.ADMIN_KEY}, (201,))

    def waiting(self):
        """Jobs that are neither under way nor dead."""
        return sum(self.metric("omid_queue_jobs", 'state="%s"' % state) for state in ("ready", "delayed"))
