"""Things that happen to endpoints, keys and dead letters at the same moment as their deliveries."""
import threading
import uuid

from support.admin import Admin
from support.events import Poster
from support.receiver import Answer
from support.wait import holds, until

SETTINGS = {"queue": {"retry": ["1s"] * 20, "commit": "1ms", "jitter": 0.0, "replay_rate": 1000},
            "plugin webhooks": {"allow_private": ["127.0.0.0/8"], "timeout": "2s",
                                "breaker": {"failures": 1000, "min_attempts": 100000}},
            "registry": {"webhook_failures": 100000}}


def hook(admin, url, uid="ann", **more):
    return admin.call("POST", "/v1/admin/webhooks", dict({"uid": uid, "url": url, "events": ["*"]}, **more), 201)


def together(*functions):
    """All at the same moment; what they return."""
    barrier, out = threading.Barrier(len(functions)), [None] * len(functions)

    def run(i):
        barrier.wait()
        out[i] = functions[i]()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def jobs(daemon, *states):
    return sum(daemon.metric("omid_queue_jobs", state=s) or 0 for s in states or ("ready", "delayed", "leased"))


def test_one_key_at_the_same_moment(start_daemon, receiver):
    """Of one user one event, whichever came first; of another user the same key is another key."""
    daemon = start_daemon(SETTINGS)
    admin = Admin(daemon)
    for uid in ("ann", "bob"):
        hook(admin, receiver.url("/" + uid), uid)
    posters = [Poster(daemon, uid) for uid in ["ann"] * 6 + ["bob"] * 2]
    for _ in range(20):
        key = str(uuid.uuid4())
        got = together(*[lambda p=p: p.accepted("race", {"key": key}, key=key) for p in posters])
        assert len({g["id"] for g in got[:6]}) == 1 and len({g["id"] for g in got[6:]}) == 1
        assert got[0]["id"] != got[6]["id"]
    until(lambda: jobs(daemon) == 0, what="all delivered")
    for uid in ("ann", "bob"):
        assert len(receiver.at("/" + uid)) == 20 == len({d.json["key"] for d in receiver.at("/" + uid)})
    for key, status in (("k" * 255, 202), ("k" * 256, 400), ("k" * 513, 400), ("k" * 8000, 400), ("", 400)):
        assert posters[0].post("race", 1, key=key)[0] == status, len(key)
    for p in posters:
        p.close()


def test_gone_with_a_backlog(start_daemon, receiver):
    """Jobs of an endpoint that is deleted are dead letters that say so; one that comes after it gets none of them."""
    daemon = start_daemon(SETTINGS)
    admin = Admin(daemon)
    receiver.on("/busy", Answer(500))
    made = hook(admin, receiver.url("/busy"))
    ann = Poster(daemon, "ann")
    for n in range(30):
        ann.accepted("a", {"n": n}, endpoints=1)
    until(lambda: len(receiver.at("/busy")) >= 30, what="first attempts")
    admin.call("DELETE", "/v1/admin/webhooks/" + made["id"], None, 204)
    other = hook(admin, receiver.url("/new"))
    assert other["id"] != made["id"]
    until(lambda: jobs(daemon) == 0 and jobs(daemon, "dead") == 30, what="30 dead letters")
    page = admin.call("GET", "/v1/admin/dead?endpoint=" + made["id"])
    assert len(page["dead"]) == 30 and "gone" in page["dead"][0]["error"]
    assert not admin.call("GET", "/v1/admin/dead?endpoint=" + other["id"])["dead"]
    # Brought back they die again, and nobody is asked.
    asked = len(receiver.at("/busy"))
    admin.call("POST", "/v1/admin/dead/replay?all=true", None, 202)
    until(lambda: daemon.metric("omid_queue_replayed_total") == 30, what="replayed")
    until(lambda: jobs(daemon) == 0 and jobs(daemon, "dead") == 30, what="dead again")
    assert len(receiver.at("/busy")) == asked and not receiver.at("/new")


def test_an_app_of_the_same_name(start_daemon, receiver):
    """An app that takes the id of one that was deleted is not sent what waited for that one: its user never enabled it."""
    daemon = start_daemon(SETTINGS)
    admin = Admin(daemon)
    receiver.on("/first", Answer(500))
    app = {"id": "notes", "name": "Notes", "uid": "carl", "events": ["*"], "url": receiver.url("/first")}
    admin.call("POST", "/v1/admin/apps", app, 201)
    admin.call("POST", "/v1/admin/apps/notes/enable", {"uid": "ann"}, 200)
    ann = Poster(daemon, "ann")
    for n in range(5):
        ann.accepted("a", {"n": n}, endpoints=1)
    until(lambda: len(receiver.at("/first")) >= 5, what="first attempts")
    admin.call("DELETE", "/v1/admin/apps/notes", None, 204)
    admin.call("POST", "/v1/admin/apps", dict(app, uid="eve", url=receiver.url("/second")), 201)
    until(lambda: jobs(daemon) == 0 and jobs(daemon, "dead") == 5, what="5 dead letters")
    assert not receiver.at("/second")


def test_a_webhook_of_the_same_id(start_daemon, receiver):
    """Of another user it gets nothing of what waited; of the same user it takes over where the former one was."""
    daemon = start_daemon(SETTINGS)
    admin = Admin(daemon)
    receiver.on("/first", Answer(500))
    for uid, wanted in (("bob", 0), ("ann", 5)):
        hook(admin, receiver.url("/first"), id="w")
        ann = Poster(daemon, "ann")
        before = len(receiver.at("/first"))
        for n in range(5):
            ann.accepted("a", {"n": n}, endpoints=1)
        until(lambda: len(receiver.at("/first")) >= before + 5, what="first attempts")
        admin.call("DELETE", "/v1/admin/webhooks/w", None, 204)
        made = hook(admin, receiver.url("/of-" + uid), uid, id="w")
        until(lambda: jobs(daemon) == 0, what="none waits")
        got = receiver.at("/of-" + uid)
        assert len(got) + jobs(daemon, "dead") == 5 and len(got) in (0, wanted), (uid, len(got))
        began = admin.call("POST", "/v1/admin/dead/replay?all=true", None, 202)
        until(lambda: admin.call("GET", "/v1/admin/replays/%d" % began["id"])["state"] == "done", what="the replay's end")
        until(lambda: jobs(daemon) == 0 and jobs(daemon, "dead") == 5 - wanted, what="brought back")
        assert len(receiver.at("/of-" + uid)) == wanted
        assert made["secret"]
        admin.call("DELETE", "/v1/admin/webhooks/w", None, 204)
        admin.call("POST", "/v1/admin/dead/drop?all=true", None, 202)
        until(lambda: jobs(daemon, "dead") == 0, what="dropped")


def test_disabled_and_drained_meanwhile(start_daemon, receiver):
    daemon = start_daemon(SETTINGS)
    admin = Admin(daemon)
    made = hook(admin, receiver.url("/all"))
    posted, stop = [], threading.Event()

    def stream():
        ann = Poster(daemon, "ann")
        while not stop.is_set():
            try:
                status, answer, _ = ann.post("tick", {"n": len(posted)})
            except OSError:
                return
            except Exception:  # it has left
                return
            assert status in (202, 503), (status, answer)
            if status == 202 and answer["endpoints"]:
                posted.append(answer["id"])
    sender = threading.Thread(target=stream)
    sender.start()
    for i in range(6):
        until(lambda: len(posted) > 20 * (i + 1), what="events")
        state = "disable" if i % 2 == 0 else "enable"
        admin.call("POST", "/v1/admin/webhooks/%s/%s" % (made["id"], state), None, 200)
        if state == "disable":
            admin.call("POST", "/v1/admin/webhooks/%s/enable" % made["id"], None, 200)
    daemon.stop()  # with the sender at it
    stop.set()
    sender.join()
    daemon.start()
    until(lambda: jobs(daemon) == 0, what="nothing waits")
    got = {d.headers["webhook-id"].split("_")[0] for d in receiver.at("/all")}
    assert len(posted) - len(set(posted) & got) == jobs(daemon, "dead")
    holds(lambda: daemon.healthz() == 200, 0.2, "alive")
