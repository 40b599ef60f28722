"""Dead letters and the log of deliveries: over the admin API, and with omictl."""
import json
import subprocess
import urllib.parse

from support.admin import Admin
from support.daemon import merge, program
from support.receiver import Answer
from support.wait import SLOW, until

UID = "dead"
QUICK = {"queue": {"retry": ["1s"], "jitter": 0.0, "commit": "1ms", "replay_rate": 1000},
         "plugin webhooks": {"allow_private": ["127.0.0.0/8"], "breaker": {"failures": 1000, "min_attempts": 100000}},
         "registry": {"webhook_failures": 100000}}


def omictl(daemon, *arguments, ok=0):
    done = subprocess.run([program("omictl"), "--socket", daemon.control, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60 * SLOW)
    assert done.returncode == ok, (arguments, done.stdout, done.stderr)
    return done.stdout if ok == 0 else done.stderr


def post(daemon, admin, n, kind="dead.test", **more):
    for i in range(n):
        status, body = Admin(daemon).raw("POST", "/v1/events/" + kind, dict(more, n=i), key=daemon.admin_key + UID)
        assert status == 202, (status, body)


def hook(admin, url, **more):
    return admin.call("POST", "/v1/admin/webhooks", dict({"uid": UID, "url": url, "events": ["dead.*"]}, **more),
                      expect=201)["id"]


def dead(admin, **query):
    return admin.call("GET", "/v1/admin/dead?" + urllib.parse.urlencode(query))


def test_dead_letters(start_daemon, receiver):
    daemon = start_daemon(QUICK)
    admin = Admin(daemon)
    receiver.on("/hook", Answer(400, b"no, thanks"))
    endpoint = hook(admin, receiver.url("/hook"))
    assert dead(admin) == {"dead": [], "next": None, "total": 0}
    assert "0 shown of 0" in omictl(daemon, "dead", "list")
    post(daemon, admin, 6)
    until(lambda: dead(admin)["total"] == 6, what="six dead letters")
    letters = dead(admin)["dead"]
    first = letters[-1]
    assert first["plugin"] == "webhooks" and first["attempts"] == 1 and "400" in first["error"], first
    ids = [d.headers["webhook-id"] for d in receiver.at("/hook")]
    assert len(set(ids)) == 6

    # In pages, each once; with filters; and what can't be meant is refused.
    seen, cursor = [], None
    while True:
        page = dead(admin, limit=4, **({"before": cursor} if cursor else {}))
        seen += [d["id"] for d in page["dead"]]
        cursor = page["next"]
        if not cursor:
            break
    assert seen == [d["id"] for d in letters]
    for query, n in (({"target": first["target"]}, 6), ({"target": "nobody"}, 0), ({"error": "400"}, 6),
                     ({"plugin": "webhooks", "type": first["type"]}, 6), ({"to": first["died_ms"]}, 0),
                     ({"from": letters[0]["died_ms"] + 1}, 0)):
        assert len(dead(admin, **query)["dead"]) == n, query
    for bad in ("limit=0", "limit=1001", "limit=x", "before=1", "before=a-b", "from=-1", "frm=1", "error=%ff", "="):
        admin.error("GET", "/v1/admin/dead?" + bad, None, 400)
    for path in ("/v1/admin/dead/0", "/v1/admin/dead/x", "/v1/admin/dead/999999", "/v1/admin/replays/77"):
        admin.error("GET", path, None, 404)
    for path in ("replay", "drop", "replay?all=maybe", "replay?all=true&type=x", "drop?id=1&all=true", "drop?frm=1",
                 "replay?rate=0&all=true"):
        admin.error("POST", "/v1/admin/dead/" + path, None, 400)
    for action in ("replay", "drop"):
        admin.error("POST", "/v1/admin/dead/%s?id=999999" % action, None, 404)
    admin.error("DELETE", "/v1/admin/replays/77", None, 404)
    for method, path in (("GET", "dead"), ("POST", "dead/replay?all=true"), ("GET", "deliveries")):
        assert Admin(daemon).raw(method, "/v1/admin/" + path, key="wrong")[0] == 401

    # One, with its payload; brought back it is the same delivery.
    shown = admin.call("GET", "/v1/admin/dead/%d" % first["id"])
    assert shown["payload"] or shown["payload_base64"]
    assert "error     " in omictl(daemon, "dead", "show", str(first["id"]))
    receiver.on("/hook", Answer(200))
    assert admin.call("POST", "/v1/admin/dead/replay?id=%d" % first["id"]) == {"replayed": 1}
    until(lambda: len(receiver.at("/hook")) == 7, what="the replayed one")
    assert receiver.at("/hook")[6].headers["webhook-id"] in ids  # they die in any order
    assert omictl(daemon, "dead", "drop", str(letters[0]["id"])) == "drop: done\n"
    until(lambda: dead(admin)["total"] == 4, what="four left")

    # Many: by a filter, until it has ended.
    text = omictl(daemon, "dead", "replay", "--error", "400", "--since", "1h", "--rate", "1000", "--wait")
    assert text.startswith("replay 1: done, 4 of 4"), text
    until(lambda: len(receiver.at("/hook")) == 11, what="the rest")
    again = {d.headers["webhook-id"] for d in receiver.at("/hook")[6:]}
    assert len(again) == 5 and again < set(ids)
    until(lambda: dead(admin)["total"] == 0, what="none left")
    replay = admin.call("GET", "/v1/admin/replays/1")
    assert replay["state"] == "done" and replay["error"] == "400" and replay["done"] == 4
    assert "replay" in omictl(daemon, "dead", "replays")
    assert "no such replay runs" in omictl(daemon, "dead", "cancel", "1", ok=1)

    # The log of attempts.
    log = admin.call("GET", "/v1/admin/deliveries?limit=1000")["deliveries"]
    assert len(log) == 11 and [d["outcome"] for d in log[:5]] == ["done"] * 5
    assert log[0]["status"] == 200 and log[-1]["status"] == 400 and log[-1]["answer"] == "no, thanks"
    assert all(d["endpoint"] == endpoint for d in log), log[0]
    assert len(admin.call("GET", "/v1/admin/deliveries?failed=true&endpoint=" + endpoint)["deliveries"]) == 6
    assert admin.call("GET", "/v1/admin/deliveries?after=%d" % log[0]["id"])["deliveries"] == []
    lines = omictl(daemon, "--json", "deliveries", "--failed", "--endpoint", endpoint, "--limit", "3").splitlines()
    assert [json.loads(x)["status"] for x in lines] == [400] * 3
    watcher = subprocess.Popen([program("omictl"), "--socket", daemon.control, "--json", "deliveries", "--watch",
                                "--limit", "1"], stdout=subprocess.PIPE, text=True)
    try:
        assert json.loads(watcher.stdout.readline())["id"] == log[0]["id"]
        post(daemon, admin, 1)
        assert json.loads(watcher.stdout.readline())["status"] == 200
    finally:
        watcher.terminate()
        watcher.wait()
        watcher.stdout.close()
    for bad in (["dead"], ["dead", "show"], ["dead", "replay"], ["dead", "drop", "--all", "1"], ["dead", "show", "x"],
                ["dead", "list", "--since", "yesterday"], ["dead", "list", "--limit", "0"], ["deliveries", "--all"]):
        omictl(daemon, *bad, ok=2)


def test_replay_goes_on_after_a_kill(start_daemon, receiver):
    daemon = start_daemon(merge(QUICK, {"queue": {"replay_rate": 20}}))
    admin = Admin(daemon)
    receiver.on("/hook", Answer(400))
    hook(admin, receiver.url("/hook"))
    post(daemon, admin, 60)
    until(lambda: dead(admin)["total"] == 60, what="sixty dead letters")
    receiver.on("/hook", Answer(200))
    began = admin.call("POST", "/v1/admin/dead/replay?all=true", expect=202)
    assert began["action"] == "replay" and began["state"] == "running"
    until(lambda: 0 < admin.call("GET", "/v1/admin/replays/%d" % began["id"])["done"], what="its begin")
    daemon.kill()
    daemon.start()
    until(lambda: admin.call("GET", "/v1/admin/replays/%d" % began["id"])["state"] == "done", what="its end")
    assert admin.call("GET", "/v1/admin/replays/%d" % began["id"])["done"] == 60
    until(lambda: dead(admin)["total"] == 0, what="none left")
    until(lambda: len({d.headers["webhook-id"] for d in receiver.at("/hook")[60:]}) == 60, what="all delivered")
    # One that is cancelled stops where it is.
    receiver.on("/hook", Answer(400))
    post(daemon, admin, 40)
    until(lambda: dead(admin)["total"] == 40, what="forty more")
    again = admin.call("POST", "/v1/admin/dead/replay?all=true&rate=1", expect=202)["id"]
    assert admin.call("DELETE", "/v1/admin/replays/%d" % again)["state"] == "cancelled"
    assert admin.call("GET", "/v1/admin/replays/%d" % again)["state"] == "cancelled"
    assert omictl(daemon, "dead", "drop", "--all", "--wait").startswith("drop ")
    assert dead(admin)["total"] <= 2


def test_order_and_too_many(start_daemon, receiver):
    """One in order: what is retried holds back the rest. A 429 with Retry-After holds back its endpoint, no other."""
    daemon = start_daemon(merge(QUICK, {"queue": {"retry": ["1s"] * 5}}))
    admin = Admin(daemon)
    receiver.on("/ordered", Answer(500), Answer(200), Answer(500), Answer(200))
    receiver.on("/limited", Answer(429, headers={"Retry-After": "2"}), Answer(200))
    hook(admin, receiver.url("/ordered"), ordered=True, events=["dead.o"])
    hook(admin, receiver.url("/limited"), events=["dead.l"])
    post(daemon, admin, 1, "dead.l")
    until(lambda: len(receiver.at("/limited")) == 1, what="the first of the limited")
    until(lambda: admin.call("GET", "/v1/admin/deliveries?failed=true")["deliveries"], what="its end")
    post(daemon, admin, 4, "dead.l")
    post(daemon, admin, 6, "dead.o")
    until(lambda: len(receiver.at("/ordered")) == 8, what="all in order")
    assert [d.json["data"]["n"] if "data" in d.json else d.json["n"] for d in receiver.at("/ordered")] == \
        [0, 0, 1, 1, 2, 3, 4, 5]
    until(lambda: len(receiver.at("/limited")) == 6, what="the rest of the limited")
    limited = receiver.at("/limited")
    assert limited[1].time - limited[0].time >= 1.9
    assert len({d.headers["webhook-id"] for d in limited}) == 5


def test_no_daemon(tmp_path):
    """Nothing on stdout that could be taken for an empty list."""
    for command in (["apps", "list"], ["webhooks", "list"], ["deliveries"], ["dead", "list"], ["dead", "replays"]):
        done = subprocess.run([program("omictl"), "--socket", tmp_path / "none.sock", *command], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60 * SLOW)
        assert done.returncode == 1 and done.stdout == "" and "is omid running?" in done.stderr, (command, done)
