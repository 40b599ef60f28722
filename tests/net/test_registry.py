"""Apps and developer webhooks: the admin API, what plugins see of them, what becomes of those that fail."""
import base64
import json
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from support.admin import Admin
from support.daemon import merge, program
from support.store import queue_held, rows
from support.wait import until

HOOKER = Path(os.environ.get("OMID_BUILD_TREE") or ".") / "tests/plugins/.libs/hooker.so"
BASE = {"plugin hooker": {"path": HOOKER}, "registry": {"flush": "50ms", "setup_check": "300ms", "test": "300ms"}}
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOOK = {"uid": "ann", "url": "https://hooks.example.com/in?x=1", "triggers": ["memory_created"]}
APP = {"name": "Ünïcode app", "url": "http://app.example.com/", "triggers": ["transcript_processed"], "uid": "owner"}


@pytest.fixture
def rig(start_daemon):
    if not HOOKER.exists():
        pytest.skip("needs the test plugin hooker; set OMID_BUILD_TREE to a tree after make check")

    def start(settings=None):
        daemon = start_daemon(merge(BASE, settings or {}))
        return daemon, Admin(daemon)

    return start


def seen(admin, uid):
    """What a plugin sees, by id."""
    return {e["id"]: e for e in admin.call("GET", "/hooker/of/" + uid)}


def test_life_of_a_webhook(rig):
    daemon, admin = rig()
    made = admin.call("POST", "/v1/admin/webhooks", HOOK, 201)
    assert re.fullmatch(r"[0-9a-f-]{36}", made["id"]) and made["kind"] == "webhook" and made["enabled"]
    key = base64.b64decode(made["secret"][len("whsec_"):], validate=True)
    assert made["secret"].startswith("whsec_") and len(key) == 32
    where = "/v1/admin/webhooks/" + made["id"]
    shown = admin.call("GET", where)
    assert shown == {k: v for k, v in made.items() if k != "secret"} and "whsec_" not in json.dumps(shown)
    assert seen(admin, "ann")[made["id"]]["secrets"] == [made["secret"]] and not seen(admin, "bob")
    changed = admin.call("PATCH", where, {"events": ["order.*"], "filter": {"a.b": 1, "c": "x"}, "rate_per_min": 60,
                                          "ordered": True, "audio_seconds": 7})
    assert changed["filter"] == {"a.b": 1, "c": "x"} and changed["events"] == ["order.*"] and changed["ordered"]
    one = seen(admin, "ann")[made["id"]]
    assert one["filter"] == {"a.b": 1, "c": "x"} and one["events"] == ["order.*"] and one["rate"] == 60
    assert one["ordered"] and one["audio_ms"] == 7000 and one["url"] == HOOK["url"]
    assert admin.call("PATCH", where, {"filter": None})["filter"] is None
    # Rotated: both sign, the new one first.
    new = admin.call("POST", where + "/secret", None)["secret"]
    given = admin.call("POST", where + "/secret", {"secret": SECRET})
    assert "secret" not in given and len(given["secrets"]) == 3
    assert given["secrets"][0]["valid_until"] is None and given["secrets"][1]["valid_until"]
    assert seen(admin, "ann")[made["id"]]["secrets"] == [SECRET, new, made["secret"]]
    admin.call("POST", where + "/secret", None)
    admin.call("POST", where + "/secret", None)
    assert "secret" in admin.error("POST", where + "/secret", None, 409)
    # A test is delivered by the plugin, with all of them.
    assert admin.call("POST", where + "/test", {})["answer"] == "5 %s ann" % made["id"]
    off = admin.call("POST", where + "/disable")
    assert not off["enabled"] and off["disabled_reason"] == "operator" and off["disabled_at"] and not seen(admin, "ann")
    assert "disabled" in admin.error("POST", where + "/test", {}, 409)
    assert admin.call("POST", where + "/enable")["disabled_at"] is None and seen(admin, "ann")
    assert admin.call("DELETE", where, expect=204) is None and not seen(admin, "ann")
    assert "no such webhook" in admin.error("GET", where, None, 404)
    assert SECRET not in daemon.log() and made["secret"] not in daemon.log() and new not in daemon.log()


def test_life_of_an_app(rig):
    _, admin = rig({"daemon": {"drain": "1500ms"}})  # what is never answered is waited for so long
    made = admin.call("POST", "/v1/admin/apps", dict(APP, id="app1", capabilities=["proactive_notification"]), 201)
    assert made["name"] == "Ünïcode app" and made["setup_completed_url"] == "" and not seen(admin, "ann")
    where = "/v1/admin/apps/app1"
    for uid in ("ann", "bob", "ann"):
        admin.call("POST", where + "/enable", {"uid": uid})
    assert set(seen(admin, "ann")) == set(seen(admin, "bob")) == {"app1"} and not seen(admin, "owner")
    assert admin.call("GET", "/v1/admin/apps?uid=ann")["apps"][0]["id"] == "app1"
    assert admin.call("GET", "/hooker/find/app1/ann") and not admin.call("GET", "/hooker/find/app1/eve")
    admin.call("POST", where + "/disable", {"uid": "ann"})
    assert not seen(admin, "ann") and seen(admin, "bob")
    admin.call("POST", where + "/disable")  # as a whole
    assert not seen(admin, "bob")
    admin.call("POST", where + "/enable")
    assert seen(admin, "bob") and not seen(admin, "ann")
    # Its address changes for all.
    admin.call("PATCH", where, {"url": "https://other.example.com/x"})
    assert seen(admin, "bob")["app1"]["url"] == "https://other.example.com/x"
    for end, status, word in (("ready", 200, None), ("not", 409, "not set up"), ("broken", 502, "as the URL says"),
                              ("never", 504, "in time"), ("full", 503, "")):
        admin.call("PATCH", where, {"setup_completed_url": "https://app.example.com/" + end})
        answer = admin.call("POST", where + "/enable", {"uid": "u-" + end}, status)
        assert bool(seen(admin, "u-" + end)) == (status == 200)
        assert status == 200 or word in answer["error"]
    for end, status in (("broken", 502), ("never", 504)):
        admin.call("PATCH", where, {"url": "https://app.example.com/" + end})
        admin.error("POST", where + "/test", {"uid": "bob"}, status)
    assert admin.call("DELETE", where, expect=204) is None and not seen(admin, "bob")
    assert admin.call("GET", "/v1/admin/apps?uid=bob") == {"apps": [], "next": None}


def test_audio_and_types(rig):
    _, admin = rig()
    post = lambda body: admin.call("POST", "/v1/admin/webhooks", dict({"uid": "ann"}, **body), 201)
    assert post({"url": "https://h.example.com/a,b", "type": "audio_bytes"})["audio_seconds"] == 5
    made = post({"url": "https://h.example.com/a,12", "type": "audio_bytes"})
    assert (made["url"], made["audio_seconds"]) == ("https://h.example.com/a", 12)
    made = admin.call("PATCH", "/v1/admin/webhooks/" + made["id"], {"url": "https://h.example.com/b,3"})
    assert (made["url"], made["audio_seconds"]) == ("https://h.example.com/b", 3)
    assert post({"url": "https://h.example.com/a,12", "type": "day_summary"})["url"] == "https://h.example.com/a,12"
    for i, name in enumerate(("realtime_transcript", "audio_bytes", "memory_created", "day_summary")):
        made = post({"url": "https://h.example.com/", "triggers": [name]})
        assert made["triggers"] == [name] and seen(admin, "ann")[made["id"]]["triggers"] == 1 << i
    made = post({"url": "https://h.example.com/", "events": ["order.paid", "a.*", "*"]})
    assert made["triggers"] == [] and seen(admin, "ann")[made["id"]]["triggers"] == 1 << 4


WHERE = "/v1/admin/webhooks"
REFUSED = [
    (b"", "JSON object"), (b"{", "JSON object"), (b"[]", "JSON object"), (b"null", "JSON object"), (b"\xff\xfe{}", "JSON"),
    (b'{"uid":"a"} x', "JSON"), (b'{"a":' * 100 + b"1" + b"}" * 100, "JSON object"),
    (b'{"uid":"a","uid":"b","url":"https://x/","type":"audio_bytes"}', "uid"), (b'{"uid":"a\\u0000b"}', "NUL"),
    ({"uid": "a", "type": "audio_bytes"}, "url: it is missing"), ({"url": "https://x/", "type": "audio_bytes"}, "uid"),
    ({"uid": "a", "url": "https://x/"}, "triggers"), ({"uid": "a", "url": "https://x/", "triggers": []}, "triggers"),
]
WRONG = [
    ("uid", ["", "a b", "x" * 129, "a/b", 7, None, ["a"], {}]),
    ("id", ["", "x" * 65, "a.b", "a/b", "ü", 1, None]),
    ("url", ["", "x", "ftp://x/", "file:///etc/passwd", "https://", "http:///x", "https://u:p@x/", "http://u@x/", "//x/",
             "https://x/ y", "https://x:99999/", "https://x:0/", "javascript:alert(1)", "https://x/\r\nHost: y", 5, None,
             "https://x/" + "a" * 2100, "https://x/#f"]),
    ("triggers", [["nonsense"], ["memory_creation"], "audio_bytes", [1], ["audio_bytes", "audio_bytes"], None]),
    ("type", ["", "nonsense", 1, ["audio_bytes"]]),
    ("events", ["a", [""], ["a b"], ["*."], ["a.*.b"], ["**"], [1], ["x" * 129], ["a", "a"], ["e%d" % i for i in range(65)]]),
    ("filter", [[], "x", 1, {"a": {}}, {"a": [1]}, {"": 1}, {".a": 1}, {"a..b": 1}, {"a": "x" * 5000},
                {"p%d" % i: 1 for i in range(33)}]),
    ("audio_seconds", [0, 61, -1, 1.5, "5", None, 1e99]), ("rate_per_min", [-1, 1000001, 0.5, "1", True]),
    ("ordered", [1, "true", None]), ("enabled", [0, "no", None]),
    ("secret", ["", "whsec_", "whsec_AAAA", "WHSEC_" + SECRET[6:], SECRET[6:], SECRET + "x", SECRET[:-1] + "!", 5,
                "whsec_" + base64.b64encode(b"x" * 23).decode(), "whsec_" + base64.b64encode(b"x" * 65).decode()]),
    ("name", ["x"]), ("nonsense", [1]), ("setup_completed_url", ["https://x/"]), ("x" * 3000, [1]),
]


def test_bad_input(rig):
    daemon, admin = rig()
    for body, word in REFUSED:
        assert word in admin.error("POST", WHERE, body, 400), body
    for field, values in WRONG:
        for value in values:
            body = {"uid": "a", "url": "https://x.example/", **({} if field in ("type", "triggers") else {"type": "audio_bytes"})}
            body[field] = value
            text = admin.error("POST", WHERE, body, 400)
            assert text.startswith(field[:60]), (field, value, text)
            assert not isinstance(value, str) or len(value) < 20 or value not in text
    assert daemon.logged("nonsense") == []
    # Apps have other fields.
    for field, values in (("name", ["x" * 129, "a\nb", 1]), ("capabilities", [["x"], "x", [1]]), ("type", ["audio_bytes"]),
                          ("setup_completed_url", ["ftp://x/", 1, "https://u@x/"]), ("triggers", [["memory_created"], ["day_summary"]])):
        for value in values:
            text = admin.error("POST", "/v1/admin/apps", dict({"url": "https://x.example/", "events": ["*"]}, **{field: value}), 400)
            assert text.startswith(field), (field, value, text)
    status, answer = admin.raw("POST", WHERE, b'{"uid":"' + b"a" * 70000 + b'"}')
    assert status == 413 and b"65536" in answer
    assert admin.call("GET", WHERE) == {"webhooks": [], "next": None}
    # The id is one for both kinds, and is taken once.
    admin.call("POST", WHERE, dict(HOOK, id="one"), 201)
    assert "id" in admin.error("POST", WHERE, dict(HOOK, id="one"), 409)
    assert "id" in admin.error("POST", "/v1/admin/apps", dict(APP, id="one"), 409)
    for body, word in (({"id": "two"}, "id"), ({"uid": "bob"}, "uid"), ({"secret": SECRET}, "secret"), ({"triggers": []}, "triggers"),
                       ({"nonsense": 1}, "nonsense"), ([], "JSON")):
        assert word in admin.error("PATCH", WHERE + "/one", body, 400)
    assert admin.call("PATCH", WHERE + "/one", {"uid": "ann"})["uid"] == "ann"
    for method, path in (("GET", "/one2"), ("PATCH", "/one2"), ("DELETE", "/one2"), ("POST", "/one2/enable"), ("POST", "/a%2Fb/test"),
                         ("POST", "/one2/secret"), ("GET", "/" + "x" * 300), ("GET", "/%00")):
        status, _ = admin.raw(method, WHERE + path, {} if method != "GET" else None)
        assert status in (404, 400), (method, path, status)
    assert "webhook" in admin.error("POST", WHERE + "/one/enable", {"uid": "ann"}, 400)
    for body, word in (({"uid": "a b"}, "uid"), ({"uid": 1}, "uid"), ({"x": "y"}, "x"), ([], "JSON"), (b"{", "JSON")):
        assert word in admin.error("POST", WHERE + "/one/disable", body, 400)
    for query, word in (("?x=1", "x"), ("?limit=0", "limit"), ("?limit=101", "limit"), ("?after=none", "after"), ("?uid=%20", "uid"),
                        ("?disabled=maybe", "disabled"), ("?limit=1%00", "")):
        assert word in admin.error("GET", WHERE + query, None, 400)
    for key in ("", "wrong", daemon.admin_key + "ann", daemon.admin_key[:-1]):
        for method, path in (("GET", WHERE), ("POST", WHERE), ("DELETE", WHERE + "/one")):
            assert admin.raw(method, path, {} if method == "POST" else None, key=key)[0] == 401
    assert admin.raw("PUT", WHERE + "/one", {})[0] == 405
    assert admin.call("GET", WHERE + "/one")["id"] == "one"


def test_pages_and_bounds(rig):
    daemon, admin = rig({"registry": {"max_apps": 2, "max_webhooks": 30}})
    ids = ["h%02d" % i for i in range(30)]
    for i, one in enumerate(ids):
        admin.call("POST", WHERE, dict(HOOK, id=one, uid="u%d" % (i % 2), enabled=i % 10 != 0), 201)
    assert "no room" in admin.error("POST", WHERE, dict(HOOK, id="more"), 503)
    assert daemon.metric("omid_registry_refused_total") == 1
    assert daemon.metric("omid_registry_endpoints", kind="webhook") == 30 and daemon.metric("omid_registry_disabled") == 3

    def pages(query):
        out, after = [], ""
        while True:
            page = admin.call("GET", WHERE + query + after)
            out += [e["id"] for e in page["webhooks"]]
            if page["next"] is None:
                return out
            after = "&after=" + page["next"]

    assert pages("?limit=7") == ids and pages("?limit=100") == ids
    assert pages("?limit=4&uid=u1") == ids[1::2] and pages("?limit=2&disabled=true") == ids[::10]
    assert pages("?limit=5&uid=nobody") == []
    for one in ids[3:9]:
        admin.call("DELETE", WHERE + "/" + one, expect=204)
    assert pages("?limit=7") == ids[:3] + ids[9:] and pages("?limit=3&uid=u0") == [i for i in ids[::2] if i not in ids[3:9]]
    admin.call("POST", WHERE, dict(HOOK, id="again"), 201)
    assert pages("?limit=9")[-1] == "again"


def test_disabled_for_failing(rig, reactors):
    daemon, admin = rig({"registry": {"webhook_failures": 20, "app_failing": "1s"}})
    report = lambda one, uid, what, n=1: admin.call("POST", "/hooker/report/%s/%s/%s" % (one, uid, what), str(n).encode())
    admin.call("POST", WHERE, dict(HOOK, id="h1"), 201)
    admin.call("POST", WHERE, dict(HOOK, id="h2"), 201)
    admin.call("POST", "/v1/admin/apps", dict(APP, id="a1"), 201)
    admin.call("POST", "/v1/admin/apps/a1/enable", {"uid": "bob"})
    report("h1", "ann", "failed", 19)
    report("h1", "ann", "ok")
    report("h1", "ann", "failed", 19)
    shown = admin.call("GET", WHERE + "/h1")
    assert shown["failures"] == 19 and shown["failing_since"] and shown["enabled"]
    # The count goes on behind a restart.
    until(lambda: _stored(daemon, "h1") == 19, what="the count on disk")
    daemon.kill()
    daemon.start()
    assert admin.call("GET", WHERE + "/h1")["failures"] == 19 and set(seen(admin, "ann")) == {"h1", "h2"}
    report("h1", "ann", "failed")
    until(lambda: set(seen(admin, "ann")) == {"h2"}, what="the end of h1")
    shown = admin.call("GET", WHERE + "/h1")
    assert not shown["enabled"] and shown["disabled_at"] and shown["disabled_reason"].startswith("failures: 20")
    report("h2", "ann", "gone")
    until(lambda: not seen(admin, "ann"), what="the end of h2")
    assert admin.call("GET", WHERE + "/h2")["disabled_reason"] == "gone: it answered 410"
    report("a1", "bob", "failed")
    since = admin.call("GET", "/v1/admin/apps/a1")["failing_since"]
    assert since and seen(admin, "bob")
    until(lambda: report("a1", "bob", "failed", 0) is not None and _late(report, admin), 20, "the end of a1")
    assert admin.call("GET", "/v1/admin/apps/a1")["disabled_reason"].startswith("time: ")
    assert daemon.metric("omid_registry_disabled_total") == 3
    assert daemon.metric("omid_registry_disabled_total", reason="gone") == 1
    until(lambda: len(admin.call("GET", "/hooker/events")) == 3, what="the events")
    told = {e["event"]["id"]: e for e in admin.call("GET", "/hooker/events")}
    assert told["h1"]["name"] == "endpoint.disabled" and told["h1"]["uid"] == "ann" and told["a1"]["uid"] == "owner"
    assert told["h1"]["event"]["url"] == "https://hooks.example.com:443" and told["h1"]["event"]["kind"] == "webhook"
    assert told["h2"]["event"]["at"] == admin.call("GET", WHERE + "/h2")["disabled_at"]
    assert daemon.logged("keeps failing was disabled.*id=h1")
    # By hand, with a new count.
    assert admin.call("POST", WHERE + "/h1/enable")["failures"] == 0
    report("h1", "ann", "failed", 19)
    assert set(seen(admin, "ann")) == {"h1"}


def test_disabling_is_told_whatever_crashes(rig, receiver):
    """Killed when it is on disk, and what its subscribers get is not: they get it after the next start, once."""
    daemon, admin = rig({"plugin webhooks": {"allow_private": ["127.0.0.0/8"]}})
    admin.call("POST", WHERE, dict(HOOK, id="h1"), 201)
    told = {"uid": "ann", "url": receiver.url("/told"), "events": ["endpoint.disabled"]}
    admin.call("POST", WHERE, told, 201)
    waiting = "SELECT id, at, uid, url, app, reason FROM endpoint_disabled"
    with queue_held(daemon):
        admin.call("POST", "/hooker/report/h1/ann/gone", "1")
        row, = until(lambda: rows(daemon, waiting), what="the disabling on disk")
        until(lambda: len(admin.call("GET", "/hooker/events")) == 1, what="the event on the bus")
        daemon.kill()
    assert not receiver.at("/told")
    daemon.start()
    until(lambda: receiver.at("/told"), what="word of it")
    until(lambda: not rows(daemon, waiting), what="its end")
    assert receiver.at("/told")[0].json["id"] == "h1" and receiver.at("/told")[0].json["reason"].startswith("gone: ")
    # Killed when that is on disk too, and told once more: the same delivery.
    daemon.stop()
    db = sqlite3.connect(daemon.dir / "state/store.db")
    db.execute("INSERT INTO endpoint_disabled(id, at, uid, url, app, reason) VALUES(?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()
    daemon.start()
    until(lambda: len(admin.call("GET", "/hooker/events")) == 1, what="the event on the bus, again")
    until(lambda: not rows(daemon, waiting), what="its end")
    # Another disabling is another delivery.
    admin.call("POST", WHERE + "/h1/enable")
    admin.call("POST", "/hooker/report/h1/ann/gone", "1")
    until(lambda: len(receiver.at("/told")) >= 2, what="word of the next one")
    assert [d.json["at"] for d in receiver.at("/told")][1:] == [admin.call("GET", WHERE + "/h1")["disabled_at"]]
    assert len({d.headers["webhook-id"] for d in receiver.at("/told")}) == 2


def _late(report, admin):
    report("a1", "bob", "failed")
    return not seen(admin, "bob")


def _stored(daemon, one):
    import sqlite3
    db = sqlite3.connect("file:%s?mode=ro" % (daemon.dir / "state/store.db"), uri=True)
    try:
        return db.execute("SELECT failures FROM endpoint WHERE id = ?", (one,)).fetchone()[0]
    finally:
        db.close()


def test_kept_over_kills(rig):
    """What was answered is there after kill -9, whenever it comes."""
    daemon, admin = rig({"registry": {"secret_overlap": "1h"}})
    there = {}
    for turn in range(4):
        for i in range(5):
            one = "k%d-%d" % (turn, i)
            made = admin.call("POST", WHERE, dict(HOOK, id=one, rate_per_min=i), 201)
            there[one] = [made["secret"]]
        first = "k%d-0" % turn
        there[first].insert(0, admin.call("POST", WHERE + "/%s/secret" % first)["secret"])
        admin.call("PATCH", WHERE + "/" + first, {"rate_per_min": 99})
        admin.call("DELETE", WHERE + "/k%d-1" % turn, expect=204)
        del there["k%d-1" % turn]
        daemon.kill()
        daemon.start()
        now = seen(admin, "ann")
        assert {k: v["secrets"] for k, v in now.items()} == there
        assert now[first]["rate"] == 99 and now["k%d-4" % turn]["rate"] == 4


def test_secrets_end(rig):
    _, admin = rig({"registry": {"secret_overlap": "700ms"}})
    first = admin.call("POST", WHERE, dict(HOOK, id="h"), 201)["secret"]
    second = admin.call("POST", WHERE + "/h/secret")["secret"]
    assert seen(admin, "ann")["h"]["secrets"][0] == second
    until(lambda: seen(admin, "ann")["h"]["secrets"] == [second], what="the end of the old one")
    assert first != second and len(admin.call("GET", WHERE + "/h")["secrets"]) == 1


# ------------------------------------------------------------------------------ the configuration's blocks


def seeds(**more):
    return merge({"app billing": {"name": "Billing", "uid": "owner", "url": "https://billing.example.com/in",
                                  "events": ["order.*"], "filter": '{ "order.state": "paid" }', "rate_per_min": 30},
                  "webhook audio1": {"uid": "ann", "url": "https://h.example.com/a,7", "triggers": ["audio_bytes"],
                                     "secret": SECRET}}, more)


def test_blocks(rig):
    daemon, admin = rig(seeds())
    shown = admin.call("GET", "/v1/admin/apps/billing")
    assert shown["from_configuration"] and shown["filter"] == {"order.state": "paid"} and shown["rate_per_min"] == 30
    one = seen(admin, "ann")["audio1"]
    assert (one["url"], one["audio_ms"], one["secrets"]) == ("https://h.example.com/a", 7000, [SECRET])
    # What the operator changes stays, over a restart and a reload, as long as the block does.
    admin.call("PATCH", "/v1/admin/apps/billing", {"rate_per_min": 5, "name": "Other"})
    admin.call("POST", "/v1/admin/apps/billing/enable", {"uid": "ann"})
    admin.call("POST", "/v1/admin/webhooks/audio1/disable")
    daemon.stop()
    daemon.start()
    assert admin.call("GET", "/v1/admin/apps/billing")["rate_per_min"] == 5 and set(seen(admin, "ann")) == {"billing"}
    reload(daemon, merge(BASE, seeds()))
    assert admin.call("GET", "/v1/admin/apps/billing")["name"] == "Other" and set(seen(admin, "ann")) == {"billing"}
    # A changed block counts, as a whole; its secret is rotated.
    other = "whsec_" + base64.b64encode(b"x" * 24).decode()
    now = merge(seeds(), {"app billing": {"rate_per_min": 31}, "webhook audio1": {"secret": other}})
    reload(daemon, merge(BASE, now))
    shown = admin.call("GET", "/v1/admin/apps/billing")
    assert shown["rate_per_min"] == 31 and shown["name"] == "Billing"
    assert seen(admin, "ann")["audio1"]["secrets"] == [other, SECRET] and "billing" in seen(admin, "ann")
    # A block that is gone removes nothing; one that was removed otherwise comes back with the next start.
    reload(daemon, BASE)
    assert set(seen(admin, "ann")) == {"audio1", "billing"}
    admin.call("DELETE", "/v1/admin/apps/billing", expect=204)
    reload(daemon, merge(BASE, now))
    assert admin.call("GET", "/v1/admin/apps/billing")["rate_per_min"] == 31 and set(seen(admin, "ann")) == {"audio1"}
    # An id of the other kind, or another user's, is told and left.
    reload(daemon, merge(BASE, {"webhook billing": dict(HOOK), "webhook audio1": dict(HOOK, uid="bob")}))
    until(lambda: len(daemon.logged("a block of the configuration is not registered")) == 2, what="both are told")
    assert not seen(admin, "bob") and SECRET not in daemon.log() and other not in daemon.log()


def reload(daemon, settings):
    before = daemon.metric("omid_reloads_total", result="ok")
    daemon.rewrite(settings)
    daemon.process.send_signal(1)
    until(lambda: daemon.metric("omid_reloads_total", result="ok") == before + 1, what="the reload")


NONSENSE = {
    "url": ('app a {\n  events = { "*" }\n  url = "ftp://x/"\n}\n', 3, "app a: url: expected a URL"),
    "uid": ('webhook a {\n  uid = "a b"\n  url = "http://x/"\n  triggers = { "audio_bytes" }\n}\n', 2, "webhook a: uid: expected"),
    "trigger": ('app a {\n  url = "http://x/"\n  triggers = { "memory_created" }\n}\n', 3, "app a: triggers: expected memory_creation"),
    "nothing to tell": ('\napp a {\n  url = "http://x/"\n}\n', 2, "app a: expected at least one of triggers and events"),
    "event": ('app a {\n  url = "http://x/"\n\n  events = { "a b" }\n}\n', 4, "app a: events: expected types"),
    "filter": ('app a {\n  url = "http://x/"\n  events = { "a" }\n  filter = "[1]"\n}\n', 4, "app a: filter: expected a JSON object"),
    "capability": ('app a {\n  url = "http://x/"\n  events = { "a" }\n  capabilities = { "all" }\n}\n', 4, "app a: capabilities: expected"),
    "secret": ('app a {\n  url = "http://x/"\n  events = { "a" }\n  secret = "whsec_c2hvcnQ="\n}\n', 4, "app a: secret: expected whsec_"),
    "setup": ('app a {\n  url = "http://x/"\n  events = { "a" }\n  setup_completed_url = "http://u@x/"\n}\n', 4, "app a: setup_completed_url: expected"),
}


def test_blocks_that_make_no_sense(tmp_path):
    file = tmp_path / "omi.conf"
    for what, (text, line, told) in NONSENSE.items():
        file.write_text(text)
        run = subprocess.run([str(program("omid")), "-t", "-f", str(file)], capture_output=True, text=True, timeout=60)
        assert run.returncode == 78 and "%s:%d: %s" % (file, line, told) in run.stderr, (what, run.stderr)
        assert "c2hvcnQ" not in run.stderr


# ------------------------------------------------------------------------------ omictl


def test_omictl(rig, tmp_path):
    daemon, admin = rig({"registry": {"max_apps": 1000}})

    def ctl(*args, status=0, stdin=None):
        done = subprocess.run([str(program("omictl")), "--socket", daemon.control, *[str(a) for a in args]], input=stdin,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (args, done.returncode, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stderr

    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    made = json.loads(ctl("webhooks", "add", "--id", "h1", "--uid", "ann", "--url", "https://h.example.com/a,9", "--trigger",
                          "audio_bytes", "--event", "order.*", "--event", "x", "--filter", '{"a.b": true}', "--rate", 5,
                          "--ordered", "--secret-file", secret, "--json"))
    assert made["audio_seconds"] == 9 and made["events"] == ["order.*", "x"] and made["filter"] == {"a.b": True}
    assert "secret" not in made and seen(admin, "ann")["h1"]["secrets"] == [SECRET] and made["ordered"]
    out = ctl("webhooks", "set", "h1", "--filter", "", "--event", "", "--unordered", "--audio", 3, "--trigger", "day_summary",
              "--trigger", "audio_bytes")
    assert re.search(r"^audio_seconds +3$", out, re.M) and "filter" not in out and "order.*" not in out
    assert admin.call("GET", "/v1/admin/webhooks/h1")["triggers"] == ["audio_bytes", "day_summary"]
    out = ctl("apps", "add", "--id", "a1", "--url", "https://app.example.com/", "--trigger", "memory_creation", "--name", "An app",
              "--uid", "owner", "--capability", "proactive_notification", "--setup-url", "https://app.example.com/not", "--disabled")
    assert re.search(r"^secret +whsec_\S{44}$", out, re.M) and re.search(r"^enabled +false$", out, re.M)
    assert "not set up" in ctl("apps", "enable", "a1", "--uid", "ann", status=1)
    ctl("apps", "set", "a1", "--setup-url", "")
    ctl("apps", "enable", "a1")
    ctl("apps", "enable", "a1", "--uid", "ann")
    assert set(seen(admin, "ann")) == {"h1", "a1"}
    assert json.loads(ctl("--json", "apps", "list", "--uid", "ann"))["apps"][0]["id"] == "a1"
    assert json.loads(ctl("apps", "list", "--uid", "bob", "--json")) == {"apps": []}
    ctl("apps", "disable", "a1", "--uid", "ann")
    assert set(seen(admin, "ann")) == {"h1"}
    assert json.loads(ctl("apps", "test", "a1", "--json"))["answer"] == "1 a1 owner"
    new = json.loads(ctl("webhooks", "secret", "h1", "--json"))["secret"]
    ctl("webhooks", "secret", "h1", "--secret-file", "-", stdin=SECRET[:-4] + "AAA=\n")
    assert seen(admin, "ann")["h1"]["secrets"] == [SECRET[:-4] + "AAA=", new, SECRET]
    ctl("webhooks", "disable", "h1")
    assert "h1" in ctl("webhooks", "list", "--disabled") and "disabled_reason" in ctl("webhooks", "show", "h1")
    for i in range(120):  # more than a page
        admin.call("POST", "/v1/admin/apps", dict(APP, id="p%03d" % i), 201)
    lines = ctl("apps", "list").splitlines()
    assert len(lines) == 122 and lines[1].startswith("a1 ") and lines[-1].startswith("p119 ")
    assert len(json.loads(ctl("apps", "list", "--json"))["apps"]) == 121
    assert "is removed" in ctl("webhooks", "rm", "h1") and not seen(admin, "ann")
    for args, status, word in ((("apps",), 2, "expected list"), (("apps", "nonsense"), 2, "nonsense"), (("apps", "show"), 2, "an id"),
                               (("apps", "add"), 2, "--url"), (("apps", "add", "--url"), 2, "--url: expected a value"),
                               (("webhooks", "add", "--url", "http://x/", "--name", "x"), 2, "--name"),
                               (("apps", "set", "a1", "--audio", "x"), 2, "--audio"), (("apps", "set", "a1", "--rate", "-1"), 2, "--rate"),
                               (("apps", "set", "a1", "--ordered", "--unordered"), 2, "--ordered"), (("apps", "show", "a1", "a2"), 2, "a2"),
                               (("apps", "set", "a1", "--filter", "{"), 2, "--filter"), (("apps", "show", "none"), 1, "no such app"),
                               (("apps", "show", "../webhooks"), 1, "no such app"), (("apps", "set", "a1", "--url", "ftp://x"), 1, "url: "),
                               (("webhooks", "add", "--url", "http://x/"), 1, "uid: "), (("apps", "secret", "a1", "--secret-file", "/nowhere"), 1, "/nowhere"),
                               (("apps", "secret", "a1", "--secret-file", __file__), 1, "secret: "), (("apps", "list", "--trigger", "x"), 2, "--trigger")):
        assert word in ctl(*args, status=status), args
    assert "apps add --url" in ctl("apps", "--help") and "webhooks" in ctl("--help")
