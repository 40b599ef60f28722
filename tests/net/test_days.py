"""Summaries of days: asked for, on the schedule, in each user's time zone; once a day, whatever crashes."""
import http.client
import json
import sqlite3
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from support.admin import Admin
from support.model import DAY, SUMMARY, says
from support.receiver import Answer
from support.wait import SLOW, until
from test_listen import rows, talker  # noqa: F401
from test_processing import queue_held
from test_summary import FAST, KEY, model, post, settings, speak  # noqa: F401

WHERE = "/v1/admin/day-summary"


def day_settings(model, **more):  # noqa: F811
    base = settings(model) if model else dict(FAST)
    base["plugin webhooks"] = {"allow_private": ["127.0.0.0/8"]}
    base["day_summary"] = dict({"check": "50ms"}, **more)
    return base


def hook(daemon, uid, url):
    return Admin(daemon).call("POST", "/v1/admin/webhooks", {"uid": uid, "url": url, "triggers": ["day_summary"]}, 201)


def talk(daemon, talker, text):  # noqa: F811
    """Somebody new has a completed conversation; the uid."""
    t = speak(daemon, talker, text)
    assert post(daemon, t.uid)[0] == 201
    t.close()
    return t.uid


def user(daemon, uid, method="GET", body=None, expect=200):
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
    c.request(method, "/v1/users/day-summary", json.dumps(body) if body is not None else None,
              {"Authorization": "Bearer " + daemon.admin_key + uid})
    response = c.getresponse()
    answer = json.loads(response.read())
    c.close()
    assert response.status == expect, (response.status, answer)
    return answer


def script(request):
    return says(DAY if "summarise a day" in request["messages"][0]["content"] else SUMMARY)


def today(zone="UTC"):
    return datetime.now(ZoneInfo(zone)).strftime("%Y-%m-%d")


def outcome(daemon, name):
    return daemon.metric("omid_day_summaries_total", outcome=name)


def test_asked_for(start_daemon, talker, receiver, model):  # noqa: F811
    daemon = start_daemon(day_settings(model))
    admin = Admin(daemon)
    model.script = script
    for body, named in (({}, "uid"), ({"uid": 5}, "uid"), ({"uid": "x" * 2000}, "uid"), ([], "body"), ("{", "body"),
                        ({"uid": "a", "date": "2026-02-30"}, "date"), ({"uid": "a", "date": 5}, "date"),
                        ({"uid": "a", "timezone": "../etc/passwd"}, "timezone"), ({"uid": "a", "timezone": []}, "timezone"),
                        ({"uid": "a", "timezone": "Europe/Nowhere"}, "time zone")):
        assert named in admin.error("POST", WHERE, body, 400), body
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
    c.request("POST", WHERE, '{"uid":"a"}', {"Authorization": "Bearer " + daemon.admin_key + "a"})
    assert c.getresponse().status == 401
    c.close()

    answer = admin.call("POST", WHERE, {"uid": "nobody"})
    assert answer == {"uid": "nobody", "date": today(), "timezone": "UTC", "sent": False,
                      "reason": "there are no conversations"}
    uid = talk(daemon, talker, "We talk about the day.")
    hook(daemon, uid, receiver.url("/day?x=1"))
    assert not admin.call("POST", WHERE, {"uid": uid, "date": "2020-01-01"})["sent"]
    zone = "Pacific/Kiritimati"
    answer = admin.call("POST", WHERE, {"uid": uid, "timezone": zone})
    assert answer["sent"] and (answer["date"], answer["timezone"]) == (today(zone), zone)
    wanted = dict(DAY, source="hosted", date=today(zone), timezone=zone, conversations=1)
    assert answer["summary_json"] == wanted
    until(lambda: receiver.at("/day"), what="the delivery")
    told, = receiver.at("/day")
    assert told.query == {"x": ["1"], "uid": [uid]} and told.headers["content-type"] == "application/json"
    assert set(told.json) == {"uid", "created_at", "summary", "summary_json"}
    assert told.json["summary_json"] == wanted and json.loads(told.json["summary"]) == wanted
    created = datetime.fromisoformat(told.json["created_at"])
    assert created.utcoffset() == timedelta(0) and abs(datetime.now(timezone.utc) - created) < timedelta(minutes=5)
    day, = [d for d in model.deliveries if "summarise a day" in d.json["messages"][0]["content"]]
    assert SUMMARY["title"] in day.json["messages"][1]["content"] and "to do: Write the test" in day.json["messages"][1]["content"]
    assert '"events"' not in day.json["messages"][0]["content"]

    again = admin.call("POST", WHERE, {"uid": uid})  # the time zone is the user's now
    assert not again["sent"] and again["reason"] == "it was sent before" and again["summary_json"] == wanted
    assert again["created_at"] == told.json["created_at"]
    assert user(daemon, uid)["settings"] == {"timezone": zone, "at": None, "enabled": None}

    # A model that fails: made here, and labelled so.
    other = talk(daemon, talker, "Another day is talked about.")
    model.script = lambda request: Answer(401)
    answer = admin.call("POST", WHERE, {"uid": other})
    assert answer["sent"] and answer["summary_json"]["source"] == "extractive" and answer["summary_json"]["overview"]
    assert daemon.metric("omi_fallback_total", component="day_summary", reason="invalid") == 1
    assert (outcome(daemon, "sent"), outcome(daemon, "already_sent"), outcome(daemon, "empty")) == (2, 1, 2)
    assert len(receiver.at("/day")) == 1 and KEY not in daemon.log()


def test_settings(start_daemon):
    daemon = start_daemon(day_settings(None, enabled=True, at="21:30", timezone="Europe/Berlin"))
    plain = {"timezone": None, "at": None, "enabled": None}
    own = {"timezone": "Europe/Berlin", "at": "21:30", "enabled": True}
    assert user(daemon, "ann") == {"settings": plain, "effective": own}
    changed = user(daemon, "ann", "PATCH", {"timezone": "Asia/Tokyo", "at": "07:05"})
    assert changed["effective"] == {"timezone": "Asia/Tokyo", "at": "07:05", "enabled": True}
    changed = user(daemon, "ann", "PATCH", {"enabled": False, "timezone": None})
    assert changed == {"settings": {"timezone": None, "at": "07:05", "enabled": False},
                       "effective": {"timezone": "Europe/Berlin", "at": "07:05", "enabled": False}}
    assert user(daemon, "ann") == changed and user(daemon, "bob")["settings"] == plain
    for body, named in (({}, "body"), ([], "body"), ({"at": "7:05"}, "at"), ({"at": "24:00"}, "at"), ({"at": 5}, "at"),
                        ({"enabled": "yes"}, "enabled"), ({"timezone": "Mars/Olympus"}, "timezone"),
                        ({"timezone": 5}, "timezone"), ({"timezone": ""}, "timezone"), ({"timezone": "a" * 100}, "timezone")):
        assert named in user(daemon, "ann", "PATCH", body, 400)["error"], body
    assert user(daemon, "ann") == changed


def test_on_schedule(start_daemon, talker, receiver):  # noqa: F811
    """Once a day; not for who does not want it, nor before its time; a restart or a clock that jumps changes nothing."""
    daemon = start_daemon(day_settings(None, enabled=True, at="00:00"))
    uids = [talk(daemon, talker, "The schedule number %d." % i) for i in range(4)]
    wants, later, never, zone = uids
    until(lambda: outcome(daemon, "sent") == 4, what="today's, whose time has come")
    for uid in uids:
        hook(daemon, uid, receiver.url("/" + uid))
    # As if nothing had been: all is done again by the plans alone.
    daemon.stop()
    db = sqlite3.connect(daemon.dir / "state" / "store.db")
    db.execute("DELETE FROM day_summary")
    db.execute("UPDATE day_plan SET enabled = 0 WHERE uid = ?", (never,))
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    db.execute("UPDATE day_plan SET at = ? WHERE uid = ?", (soon.hour * 60 + soon.minute, later))
    db.execute("UPDATE day_plan SET timezone = 'Pacific/Kiritimati' WHERE uid = ?", (zone,))
    db.commit()
    db.close()
    daemon.start()
    until(lambda: receiver.at("/" + wants) and receiver.at("/" + zone), what="the deliveries")
    until(lambda: outcome(daemon, "not_wanted") == 1, what="who does not want it")
    # The last time of `later` was yesterday, when there was nothing; unless that hour lies beyond midnight.
    until(lambda: outcome(daemon, "empty") + outcome(daemon, "sent") == 3, what="who wants it later")
    said = receiver.at("/" + wants)[0].json["summary_json"]
    assert said["source"] == "extractive" and said["conversations"] == 1 and said["date"] == today()
    assert receiver.at("/" + zone)[0].json["summary_json"]["date"] == today("Pacific/Kiritimati")
    # Planned years ahead: the clock must have been set back.
    db = sqlite3.connect(daemon.dir / "state" / "store.db", timeout=30)
    db.execute("UPDATE day_plan SET next = next + 1000 * 86400000 WHERE uid = ?", (wants,))
    db.commit()
    db.close()
    until(lambda: outcome(daemon, "already_sent") >= 1, what="a look at it")
    midnight = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    until(lambda: rows(daemon, "SELECT next FROM day_plan WHERE uid = ?", wants) == [(int(midnight.timestamp()) * 1000,)],
          what="its next time")
    daemon.stop()
    daemon.start()
    until(lambda: outcome(daemon, "already_sent") >= 1, what="the plans looked at after the start")
    assert len(receiver.at("/" + wants)) == 1 and not receiver.at("/" + never)


def test_killed_in_each_step(start_daemon, talker, receiver, model):  # noqa: F811
    daemon = start_daemon(day_settings(model))
    model.script = script
    uids = [talk(daemon, talker, "Killed on day %d." % i) for i in range(2)]
    for uid in uids:
        hook(daemon, uid, receiver.url("/" + uid))

    def asked():
        return [d for d in model.deliveries if "summarise a day" in d.json["messages"][0]["content"]]

    def ask(uid):
        host, port = daemon.address.rsplit(":", 1)
        c = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
        c.request("POST", WHERE, json.dumps({"uid": uid}), {"Authorization": "Bearer " + daemon.admin_key})
        return c

    def sent(uid):
        until(lambda: receiver.at("/" + uid), what="the delivery")
        until(lambda: rows(daemon, "SELECT status FROM day_summary WHERE uid = ?", uid) == [(1,)], what="the end")
        assert len({d.headers["webhook-id"] for d in receiver.at("/" + uid)}) == 1
        assert len({d.body for d in receiver.at("/" + uid)}) == 1

    # while the model is asked
    model.script = lambda request: Answer(hang=True)
    c = ask(uids[0])
    until(lambda: len(asked()) == 1, what="the question")
    daemon.kill()
    c.close()
    model.script = script
    daemon.start()
    sent(uids[0])
    assert len(asked()) == 2

    # when it is kept, and its deliveries are not
    with queue_held(daemon):
        c = ask(uids[1])
        until(lambda: rows(daemon, "SELECT 1 FROM day_summary WHERE uid = ? AND summary IS NOT NULL", uids[1]),
              what="the summary on disk")
        daemon.kill()
        c.close()
    daemon.start()
    sent(uids[1])
    assert len(asked()) == 3
