"""Custom events by POST, to the endpoints of the registry: what is answered, what arrives, what a bad receiver costs."""
import gzip
import socket
import threading
import time

import pytest
from support import standard_webhooks
from support.admin import Admin
from support.daemon import merge
from support.events import Poster
from support.receiver import Answer
from support.wait import holds, until

BASE = {"plugin webhooks": {"timeout": "1s", "connect_timeout": "500ms", "allow_private": ["127.0.0.0/8"],
                            "breaker": {"failures": 1000}},
        "queue": {"retry": ["1s", "1s", "1s"]},
        "registry": {"flush": "50ms"}}


@pytest.fixture
def rig(start_daemon):
    def start(settings=None):
        daemon = start_daemon(merge(BASE, settings or {}))
        return daemon, Admin(daemon)
    return start


def hook(admin, url, uid="ann", **more):
    """A webhook for custom events; what the admin API answers."""
    body = {"uid": uid, "url": url, "events": ["*"]}
    return admin.call("POST", "/v1/admin/webhooks", dict(body, **more), 201)


def shown(admin, made):
    return admin.call("GET", "/v1/admin/webhooks/" + made["id"])


def metric(daemon, what, outcome):
    return daemon.metric("omid_plugin_webhooks_%s_total" % what, outcome=outcome) or 0


def test_the_verifier_is_right():
    v = standard_webhooks.VECTOR
    assert standard_webhooks.sign(v["secret"], v["id"], v["timestamp"], v["body"]) == v["signature"]


def test_who_gets_what(rig, receiver):
    daemon, admin = rig()
    made = {"paid": hook(admin, receiver.url("/paid?k=v"), events=["order.paid"]),
            "order": hook(admin, receiver.url("/order"), events=["order.*"]),
            "all": hook(admin, receiver.url("/all"), events=["*"]),
            "big": hook(admin, receiver.url("/big"), events=["order.*"], filter={"order.sum": 100, "order.open": True}),
            "bobs": hook(admin, receiver.url("/bobs"), uid="bob")}
    ann = Poster(daemon, "ann")
    small = ann.accepted("order.paid", {"order": {"sum": 3, "open": True}}, endpoints=3)
    large = ann.accepted("order.sent", {"order": {"sum": 100.0, "open": True}}, endpoints=3)
    ann.accepted("other", "just a string", endpoints=1)
    Poster(daemon, "eve").accepted("order.paid", {}, endpoints=0)
    assert metric(daemon, "events", "unwanted") == 1
    until(lambda: len(receiver.deliveries) == 7, what=lambda: "7 deliveries: %r" % receiver.deliveries)
    assert [d.json for d in receiver.at("/paid")] == [{"order": {"sum": 3, "open": True}}]
    assert receiver.at("/paid")[0].query == {"k": ["v"]}  # no uid: it is the event's own affair
    assert [d.headers["omid-event"] for d in receiver.at("/big")] == ["order.sent"]
    assert sorted(d.headers["omid-event"] for d in receiver.at("/all")) == ["order.paid", "order.sent", "other"]
    assert not receiver.at("/bobs")
    for d in receiver.deliveries:
        secret = made[d.path[1:]]["secret"]
        assert standard_webhooks.fault(secret, d.headers, d.body) is None
        assert standard_webhooks.fault(standard_webhooks.new_secret(), d.headers, d.body)
    ids = [d.headers["webhook-id"] for d in receiver.deliveries]
    assert len(set(ids)) == 7
    assert {i.split("_")[0] for i in ids} >= {small["id"], large["id"]}
    holds(lambda: len(receiver.deliveries) == 7, 0.5, "delivered again")


def test_what_is_refused(rig, receiver):
    daemon, admin = rig({"ingress": {"max_body": "2MiB"}})
    hook(admin, receiver.url("/all"))
    ann = Poster(daemon, "ann")
    for kind in ("a%20b", "a%2Fb", "x" * 129, "%C3%A9"):
        assert ann.post(kind, {})[0] == 400, kind
    for body in (b"", b"{", b"{}x", b"\xff", b"nope", b"{'a':1}", b"[" * 65 + b"]" * 65, b"[" * 100000, b"\x00", b"{}\x00",
                 b'"\\ud8"', b"<html></html>"):
        status, answer, _ = ann.post("a", body, raw=True)
        assert status == 400 and "error" in answer, (body[:20], status, answer)
    assert ann.post("a", {}, key="k" * 256)[0] == 400
    assert ann.post("a", b'"' + b"x" * (1 << 20) + b'"', raw=True)[0] == 413
    for token in ("", "wrong", daemon.admin_key):
        assert Poster(daemon, "ann", token).post("a", {})[0] == 401
    # What is just within the bounds.
    ann.accepted("x" * 128, None, endpoints=1)
    assert ann.post("a.b-c_D9", b"[" * 64 + b"]" * 64, raw=True)[0] == 202
    largest = b'"' + b"x" * ((1 << 20) - 2) + b'"'
    assert ann.post("a", largest, raw=True)[0] == 202
    until(lambda: len(receiver.deliveries) == 3, what=lambda: "3 deliveries:\n" + daemon.log_tail())
    assert max(len(d.body) for d in receiver.deliveries) == 1 << 20


def test_idempotency_and_a_crash(rig, receiver):
    """Accepted is on disk: killed before it is delivered, it is delivered after the next start, and is remembered."""
    receiver.on("/all", Answer(hang=True), Answer())
    daemon, admin = rig({"plugin webhooks": {"timeout": "20s"}})
    hook(admin, receiver.url("/all"))
    hook(admin, receiver.url("/bob"), uid="bob")
    first = Poster(daemon, "ann").accepted("order.paid", {"n": 1}, key="once")
    assert Poster(daemon, "ann").accepted("other", {"n": 2}, key="once") == first
    until(lambda: receiver.at("/all"), what="the first attempt")
    bobs = Poster(daemon, "bob").accepted("order.paid", {"n": 3}, key="once")
    assert bobs["id"] != first["id"]
    daemon.kill()
    daemon.start()
    assert Poster(daemon, "ann").accepted("order.paid", {"n": 1}, key="once") == first
    until(lambda: len(receiver.at("/all")) >= 2, 30, what=lambda: "the next attempt:\n" + daemon.log_tail())
    assert {d.body for d in receiver.at("/all")} == {b'{"n": 1}'}
    assert len({d.headers["webhook-id"] for d in receiver.at("/all")}) == 1
    assert metric(daemon, "events", "repeated") == 1


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


BOMB = gzip.compress(b"\0" * (64 << 20))
TRIED_AGAIN = {
    "hang": Answer(hang=True), "drip": Answer(drip=0.3), "reset": Answer(reset=True), "cut": Answer(cut=True),
    "garbage": Answer(raw=b"\x16\x03\x01 what is this\r\n\r\n"), "500": Answer(500), "408": Answer(408),
    "redirect": Answer(307, headers={"Location": "/elsewhere"}), "refused": None}
TAKEN = {
    "200 then reset": Answer(then_reset=True), "html": Answer(body=b"<html>thanks</html>"), "204": Answer(204, body=b""),
    "huge": Answer(huge=50 << 20), "bomb": Answer(body=BOMB, headers={"Content-Encoding": "gzip"})}
NOT_AGAIN = {"404": Answer(404), "401": Answer(401), "413": Answer(413, early=True)}


def test_receivers_that_misbehave(rig, receiver):
    """Each beside a good one: that one gets each event once, at once, whatever the others do."""
    daemon, admin = rig()
    made = {}
    for name, answer in {**TRIED_AGAIN, **TAKEN, **NOT_AGAIN, "410": Answer(410)}.items():
        path = "/" + name.replace(" ", "-")
        if answer is None:
            made[name] = hook(admin, "http://127.0.0.1:%d%s" % (closed_port(), path), events=["thing.*"])
            continue
        receiver.on(path, answer)
        made[name] = hook(admin, receiver.url(path), events=["thing.*"])
    hook(admin, receiver.url("/good"), events=["thing.*"])
    hook(admin, receiver.url("/told"), events=["endpoint.disabled"])
    ann = Poster(daemon, "ann")
    ann.accepted("thing.done", {"n": 1}, endpoints=len(made) + 1)
    until(lambda: [d.json for d in receiver.at("/good")] == [{"n": 1}], what="the good one's")

    def count(name):
        return len(receiver.at("/" + name.replace(" ", "-")))

    for name in TRIED_AGAIN:
        if name != "refused":
            until(lambda: count(name) >= 4, 30, what=lambda: "%s: 4 attempts, not %d" % (name, count(name)))
    until(lambda: not shown(admin, made["410"])["enabled"], what="410: disabled")
    until(lambda: receiver.at("/told"), what="word of it")
    assert receiver.at("/told")[0].json["id"] == made["410"]["id"]
    assert receiver.at("/told")[0].json["reason"] and receiver.at("/told")[0].headers["omid-event"] == "endpoint.disabled"
    once = [*TAKEN, *NOT_AGAIN, "410"]
    holds(lambda: all(count(name) == 1 for name in once), 0.3, "sent again")
    for name in TRIED_AGAIN:
        # A kept connection that is reset without a byte of an answer may have been dead before: libcurl asks once more.
        assert name in ("refused", "reset") or count(name) == 4, name
        assert len({d.headers["webhook-id"] for d in receiver.at("/" + name)}) <= 1
    assert not receiver.at("/elsewhere"), "a redirect was followed"
    assert len(receiver.at("/good")) == 1
    assert daemon.healthz() == 200
    until(lambda: metric(daemon, "event_deliveries", "error") == 6 * 4, 20, what="the last attempts' ends")


def test_retry_after_is_respected(rig, receiver):
    receiver.on("/busy", Answer(429, headers={"Retry-After": "2"}), Answer())
    daemon, admin = rig({"queue": {"retry": ["1s"]}})
    hook(admin, receiver.url("/busy"))
    Poster(daemon, "ann").accepted("a", 1)
    until(lambda: len(receiver.at("/busy")) == 2, 30, what=lambda: "another attempt:\n" + daemon.log_tail())
    first, second = receiver.at("/busy")
    assert second.time - first.time >= 1.5  # twice the slot at the most, and some of it is jitter


def test_rotation_without_a_refused_delivery(rig, receiver):
    """A receiver that changes its secret when it is told the new one, at any moment of a stream of events."""
    daemon, admin = rig()
    made = hook(admin, receiver.url("/all"))
    secrets, stop, posted = [made["secret"]], threading.Event(), []

    def stream():
        ann = Poster(daemon, "ann")
        while not stop.is_set():
            posted.append(ann.accepted("tick", len(posted)))
            time.sleep(0.002)
        ann.close()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        for _ in range(3):
            seen = len(receiver.deliveries)
            until(lambda: len(receiver.deliveries) > seen + 30, what="deliveries")
            secrets.append(admin.call("POST", "/v1/admin/webhooks/%s/secret" % made["id"], None)["secret"])
    finally:
        seen = len(receiver.deliveries)
        until(lambda: len(receiver.deliveries) > seen + 30, what="deliveries")
        stop.set()
        thread.join()
    until(lambda: len(receiver.deliveries) >= len(posted), what="the rest")
    newest = 0
    for d in receiver.deliveries:
        knows = [i for i, s in enumerate(secrets) if standard_webhooks.fault(s, d.headers, d.body) is None]
        # Whoever has not heard of the new one yet goes on with the first; whoever has, goes on with what was the newest.
        assert 0 in knows, "a receiver with the old secret refuses it"
        assert knows == list(range(len(knows)))
        newest = max(newest, len(knows))
    assert newest == len(secrets)
    last = receiver.deliveries[-1]
    assert standard_webhooks.fault(secrets[-1], last.headers, last.body) is None


def test_private_addresses_are_for_the_operator(start_daemon, receiver):
    daemon = start_daemon({"queue": {"retry": ["1s"]}, "plugin webhooks": {}})
    admin = Admin(daemon)
    made = hook(admin, receiver.url("/secret"))
    Poster(daemon, "ann").accepted("a", 1, endpoints=1)
    until(lambda: metric(daemon, "event_deliveries", "error") == 1, what="the attempt")
    answer = admin.call("POST", "/v1/admin/webhooks/%s/test" % made["id"], {})
    assert answer["status"] == 0 and answer["error"], answer
    assert receiver.connections == 0


def test_an_endpoint_is_full(rig, receiver):
    """One user's endpoint that fails takes half of the queue, and no more: all others go on, and nothing of its own is
    lost without a word."""
    daemon, admin = rig({"queue": {"max_jobs": 40, "retry": ["1h"]}, "registry": {"webhook_failures": 100000}})
    receiver.on("/bad", Answer(500))
    bad = hook(admin, receiver.url("/bad"), events=["a", "both"])
    hook(admin, receiver.url("/good"), events=["both"])
    hook(admin, receiver.url("/told"), events=["endpoint.full"])
    hook(admin, receiver.url("/bobs"), uid="bob")
    ann = Poster(daemon, "ann")
    taken = 0
    while ann.post("a", taken)[0] == 202:
        taken += 1
    assert 15 <= taken <= 20
    status, answer, headers = ann.post("a", 1)
    assert status == 429 and int(headers["retry-after"]) >= 1 and "error" in answer
    # What is for others too is taken: they get it, and of the full one it is a dead letter.
    for n in range(10):
        ann.accepted("both", {"n": n}, endpoints=2)
        Poster(daemon, "bob").accepted("a", {"n": n}, endpoints=1)
    for path in ("/good", "/bobs"):
        until(lambda: sorted(d.json["n"] for d in receiver.at(path)) == list(range(10)), what="all of " + path)
    assert daemon.metric("omid_queue_over_share_total", outcome="dead") == 10
    assert daemon.metric("omid_queue_over_share_total", outcome="refused") >= 2
    dead = admin.call("GET", "/v1/admin/dead?target=" + bad["id"])
    assert len(dead["dead"]) == 10 and "queue.max_share" in dead["dead"][0]["error"], dead
    until(lambda: receiver.at("/told"), what="word of it")
    told = receiver.at("/told")[0].json
    assert told["id"] == bad["id"] and told["kind"] == "webhook" and told["waiting"] == taken and told["refused"] >= 1
    assert daemon.logged("a target holds its share of the queue")


def test_the_queue_is_full(rig, receiver):
    receiver.on("/all", Answer(500))
    daemon, admin = rig({"queue": {"max_jobs": 3, "retry": ["1h"]}})
    hook(admin, receiver.url("/all"))
    ann = Poster(daemon, "ann")
    until(lambda: ann.post("a", 1)[0] == 429, what="a full queue")
    status, answer, headers = ann.post("a", 1)
    assert status == 429 and int(headers["retry-after"]) >= 1 and "error" in answer
    assert metric(daemon, "events", "full") >= 2
    assert Poster(daemon, "bob").accepted("a", 1, endpoints=0)


def test_the_queue_is_full_of_bytes(rig, receiver):
    """Large events for an endpoint that fails: they end at its share of the bytes, and others' go on."""
    receiver.on("/bad", Answer(500))
    daemon, admin = rig({"queue": {"max_bytes": "1MiB", "retry": ["1h"]}, "registry": {"webhook_failures": 100000}})
    hook(admin, receiver.url("/bad"))
    hook(admin, receiver.url("/bobs"), uid="bob")
    ann, bob, large = Poster(daemon, "ann"), Poster(daemon, "bob"), "x" * 100000
    taken = 0
    while ann.post("a", large)[0] == 202:
        taken += 1
    assert taken == 5
    status, answer, headers = ann.post("a", large)
    assert status == 429 and int(headers["retry-after"]) >= 1 and "error" in answer
    for n in range(10):
        bob.accepted("a", large, endpoints=1)
        until(lambda: len(receiver.at("/bobs")) > n, what="bob's")
    assert 500000 <= daemon.metric("omid_queue_payload_bytes") < daemon.metric("omid_queue_max_bytes") == 1 << 20
    # And when it is all of it.
    daemon.stop()
    receiver.on("/bobs", Answer(500))
    daemon.start()
    bob = Poster(daemon, "bob")
    while bob.post("a", large)[0] == 202:
        taken += 1
    assert taken <= 10 and daemon.metric("omid_queue_payload_bytes") <= 1 << 20
