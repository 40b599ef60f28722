"""Summaries of days: asked for, on the schedule, in each user's time zone; once a day, whatever crashes."""
import http.client
import json
import sqlite3
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from support.admin import Admin
from support.model import DAY, SUMMARY, says
from support.receiver import Answer
from support.store import queue_held, rows
from support.talker import talker  # noqa: F401
from support.wait import SLOW, until
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


def talk_again(daemon, talker, uid, text):  # noqa: F811
    t = talker(daemon, uid=uid, conversation_timeout=600).wait_ready()
    t.conversation()
    t.say(text, 0.0)
    t.heard(text.split()[-1])
    assert post(daemon, uid)[0] == 201
    t.close()


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
    daemon.metric_is("omi_fallback_total", 1, component="day_summary", reason="invalid")
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


def passed(zone="UTC"):
    """A time of day that has just come in this zone: minutes since midnight, the date of its summary, the moment."""
    moment = datetime.now(ZoneInfo(zone)).replace(second=0, microsecond=0)
    return moment.hour * 60 + moment.minute, (moment - timedelta(minutes=1)).strftime("%Y-%m-%d"), moment


def change(daemon, *statements):
    """Of the store's file, while the daemon is down, or between two of its commits."""
    db = sqlite3.connect(daemon.dir / "state" / "store.db", timeout=30 * SLOW)
    for sql, args in statements:
        db.execute(sql, args)
    db.commit()
    db.close()


def hours_ago(uid, hours=1, what="1"):
    """As if the user's conversations had begun, and those that are over ended, earlier."""
    ms = hours * 3600000
    return ("UPDATE conversation SET created = created - ?, started = started - ?,"
            " finished = iif(status = 0, finished, finished - ?) WHERE uid = ? AND " + what, (ms, ms, ms, uid))


def day_before(daemon, uid):
    """As if a day had passed."""
    for date, in rows(daemon, "SELECT date FROM day_summary WHERE uid = ? ORDER BY date", uid):
        change(daemon, *[("UPDATE %s = date(?1, '-1 day') WHERE uid = ?2 AND %s = ?1" % (what, what.split()[-1]),
                          (date, uid)) for what in ("day_summary SET date", "conversation SET day")])


def test_on_schedule(start_daemon, talker, receiver):  # noqa: F811
    """Once a day; not for who does not want it, nor before its time; a restart or a clock that jumps changes nothing."""
    at, date, moment = passed()
    daemon = start_daemon(day_settings(None, enabled=True, at=moment.strftime("%H:%M")))
    uids = [talk(daemon, talker, "The schedule number %d." % i) for i in range(4)]
    wants, later, never, zone = uids
    until(lambda: outcome(daemon, "empty") == 4, what="a look at days that were over before")
    for uid in uids:
        hook(daemon, uid, receiver.url("/" + uid))
    daemon.stop()
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    kiritimati = passed("Pacific/Kiritimati")
    change(daemon, *map(hours_ago, uids),
           ("UPDATE day_plan SET enabled = 0 WHERE uid = ?", (never,)),
           ("UPDATE day_plan SET at = ? WHERE uid = ?", (soon.hour * 60 + soon.minute, later)),
           ("UPDATE day_plan SET timezone = 'Pacific/Kiritimati', at = ? WHERE uid = ?", (kiritimati[0], zone)))
    daemon.start()
    until(lambda: receiver.at("/" + wants) and receiver.at("/" + zone), what="the deliveries")
    until(lambda: outcome(daemon, "not_wanted") == 1, what="who does not want it")
    until(lambda: outcome(daemon, "empty") == 1, what="who wants it later, and had nothing by then yesterday")
    said = receiver.at("/" + wants)[0].json["summary_json"]
    assert said["source"] == "extractive" and said["conversations"] == 1 and said["date"] == date
    assert receiver.at("/" + zone)[0].json["summary_json"]["date"] == kiritimati[1]
    tomorrow = int((moment + timedelta(days=1)).timestamp()) * 1000
    planned = "SELECT next FROM day_plan WHERE uid = ?"
    until(lambda: rows(daemon, planned, wants) == [(tomorrow,)], what="its next time, which comes behind the delivery")
    # Planned years ahead: the clock must have been set back.
    change(daemon, ("UPDATE day_plan SET next = next + 1000 * 86400000 WHERE uid = ?", (wants,)))
    until(lambda: outcome(daemon, "already_sent") >= 1, what="a look at it")
    until(lambda: rows(daemon, planned, wants) == [(tomorrow,)], what="its next time again")
    daemon.stop()
    daemon.start()
    until(lambda: outcome(daemon, "already_sent") >= 1, what="the plans looked at after the start")
    assert len(receiver.at("/" + wants)) == 1 and not receiver.at("/" + never)


def test_each_conversation_is_told_once(start_daemon, talker, receiver):  # noqa: F811
    """What is still in progress at the moment, or begins after it, is in the next summary, and nothing is in two; over
    restarts and crashes between."""
    at, date, moment = passed()
    daemon = start_daemon(day_settings(None, enabled=True, at=moment.strftime("%H:%M")))
    t = speak(daemon, talker, "Alpha was before.")
    uid = t.uid
    assert post(daemon, uid)[0] == 201
    t.conversation()  # the next one
    t.say("Bravo goes on over it.", 20.0)
    t.heard("it.")
    t.close()
    hook(daemon, uid, receiver.url("/day"))
    until(lambda: outcome(daemon, "empty") >= 1, what="the first look")
    daemon.stop()
    change(daemon, hours_ago(uid))
    daemon.start()

    def told(n):
        until(lambda: len(receiver.at("/day")) >= n, what="summary %d" % n)
        until(lambda: rows(daemon, "SELECT 1 FROM day_summary WHERE uid = ? AND date = ? AND status = 1", uid, date),
              what="its end")
        assert len({d.headers["webhook-id"] for d in receiver.at("/day")}) == n
        said = receiver.at("/day")[-1].json["summary_json"]
        return said["date"], said["conversations"], sorted(w for w in ("Alpha", "Bravo", "Charlie")
                                                           if w in json.dumps(said))

    assert told(1) == (date, 1, ["Alpha"])
    # The one over the moment ends, and one more follows it: not of this day any more.
    assert post(daemon, uid)[0] == 201
    talk_again(daemon, talker, uid, "Charlie came after.")
    assert Admin(daemon).call("POST", WHERE, {"uid": uid, "date": date})["reason"] == "it was sent before"
    day_before(daemon, uid)
    change(daemon, hours_ago(uid, what="day IS NULL"))
    # Killed when it is kept, and not told.
    with queue_held(daemon):
        user(daemon, uid, "PATCH", {"at": moment.strftime("%H:%M")})  # is looked at again
        until(lambda: rows(daemon, "SELECT 1 FROM day_summary WHERE uid = ? AND date = ? AND summary IS NOT NULL", uid,
                           date), what="the summary on disk")
        daemon.kill()
    daemon.start()
    assert told(2) == (date, 2, ["Bravo", "Charlie"])
    daemon.stop()
    day_before(daemon, uid)
    daemon.start()
    until(lambda: outcome(daemon, "empty") == 1, what="a day with nothing new")
    # A day that nobody got, as its claim was left by a crash before it was read: it still is the scheduled one.
    daemon.stop()
    ms = int(moment.timestamp()) * 1000
    bravo, charlie = [rows(daemon, "SELECT id FROM conversation AS c WHERE uid = ? AND EXISTS(SELECT 1 FROM segment WHERE"
                           " conversation = c.n AND text LIKE ?)", uid, word + "%")[0][0] for word in ("Bravo", "Charlie")]
    change(daemon, ("UPDATE conversation SET day = NULL WHERE id IN (?, ?)", (bravo, charlie)),
           ("UPDATE conversation SET started = ? WHERE id = ?", (ms, charlie)),
           ("INSERT INTO day_summary(uid, date, timezone, created, status, until) VALUES(?, ?, 'UTC', ?, 0, ?)",
            (uid, date, ms, ms)),
           ("UPDATE day_plan SET enabled = 0 WHERE uid = ?", (uid,)))
    daemon.start()
    assert told(3) == (date, 1, ["Bravo"])


def test_wanted_from_now_on(start_daemon, talker, receiver):  # noqa: F811
    """Who begins to want summaries is not told of all that ever was."""
    at, date, moment = passed()
    daemon = start_daemon(day_settings(None, at=moment.strftime("%H:%M")))
    uids = [talk(daemon, talker, "Said long ago.") for _ in range(2)]
    for uid in uids:
        talk_again(daemon, talker, uid, "Said today.")
        hook(daemon, uid, receiver.url("/" + uid))
    user(daemon, uids[1], "PATCH", {"enabled": False})  # has a plan
    until(lambda: outcome(daemon, "not_wanted") == 1, what="a look at it")
    first = "n = (SELECT min(n) FROM conversation AS f WHERE f.uid = conversation.uid)"
    change(daemon, *[hours_ago(uid) for uid in uids], *[hours_ago(uid, 48, first) for uid in uids])
    for uid in uids:
        user(daemon, uid, "PATCH", {"enabled": True})
        until(lambda: receiver.at("/" + uid), what="the delivery")
        said = receiver.at("/" + uid)[0].json["summary_json"]
        assert said["conversations"] == 1 and "today" in json.dumps(said), said


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
