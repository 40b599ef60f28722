"""The end of a conversation with all its parts: killed in each step it goes on, and what was made is not made again."""
import http.client
import json
import sqlite3
from contextlib import contextmanager

import pytest

from support.admin import Admin
from support.model import SUMMARY, Model, says
from support.receiver import Answer, Receiver
from support.store import queue_held, rows, status_of, store_held
from support.talker import stored_text, talker  # noqa: F401
from support.wait import SLOW, holds, until
from test_places import BERLIN, FOUND, GOOD, PATH, patch

BREAKER = {"failures": 1000, "min_attempts": 1000000}
HANG = Answer(hang=True)


@pytest.fixture
def model():
    peer = Model()
    yield peer
    peer.stop()


@pytest.fixture
def places():
    peer = Receiver()
    peer.on(PATH, Answer(body=GOOD))
    yield peer
    peer.stop()


def settings(model, places, receiver, **processing):
    return {"listen": {"ping": "200ms"},
            "processing": dict({"retry": "10ms", "retry_max": "50ms"}, **processing),
            "queue": {"retry": ["1s"]},
            "plugin summary": {"url": model.base, "key": "k", "model": "m", "timeout": "60s", "breaker": BREAKER},
            "plugin geocoding": {"url": places.url(PATH), "key": "k", "timeout": "40s", "breaker": BREAKER},
            "plugin webhooks": {"memory_created": [receiver.url("/memory")], "allow_private": ["127.0.0.0/8"]}}


class End:
    """A conversation that is to end, of a user whose place is known and who has an app and a developer's endpoint."""

    def __init__(self, daemon, talker, model, places, receiver, uid="ann"):  # noqa: F811
        self.daemon, self.model, self.places, self.receiver, self.uid = daemon, model, places, receiver, uid
        self.calls = []
        Admin(daemon).call("POST", "/v1/admin/apps", {
            "id": "notes", "name": "Notes", "uid": "owner", "url": receiver.url("/notes"),
            "triggers": ["memory_creation"]}, 201)
        Admin(daemon).call("POST", "/v1/admin/apps/notes/enable", {"uid": uid})
        assert patch(daemon, BERLIN, uid)[0] == 200
        self.speak(talker)

    def speak(self, talker):  # noqa: F811
        t = talker(self.daemon, uid=self.uid, conversation_timeout=600).wait_ready()
        self.id = t.conversation()
        t.say("It was killed.", 0.0)
        t.heard("killed.")
        t.close()
        until(lambda: self.daemon.sessions() == 0, what="the end of the session")
        until(lambda: stored_text(self.daemon, self.id) == "It was killed.", what="the flush")

    def post(self):
        """Ended; nobody waits for the answer."""
        host, port = self.daemon.address.rsplit(":", 1)
        c = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
        c.request("POST", "/v1/conversations", headers={"Authorization": "Bearer " + self.daemon.admin_key + self.uid})
        self.calls.append(c)

    def told(self, path):
        return [d for d in self.receiver.at(path) if d.json["id"] == self.id]

    def kept(self, what):
        sql = {"summary": "SELECT p.summary FROM process AS p JOIN conversation AS c ON c.n = p.conversation WHERE c.id = ?",
               "place": "SELECT geolocation FROM conversation WHERE id = ?"}[what]
        return [value for value, in rows(self.daemon, sql, self.id) if value]

    def asked(self):
        return len(self.model.deliveries), len(self.places.deliveries)

    def status(self):
        return status_of(self.daemon, self.id)


# Each leaves it in one step; what it yields is how often the model and the geocoder may have been asked in the end.


@contextmanager
def before_it_begins(e):
    with store_held(e.daemon):
        e.post()
        holds(lambda: e.asked() == (0, 0) and e.status() == 0, 0.2)
        yield 1, 1


@contextmanager
def while_the_place_is_asked(e):
    e.places.on(PATH, HANG)
    e.post()
    until(lambda: e.kept("summary") and e.places.deliveries, what="the summary on disk, and the geocoder asked")
    yield 1, 2


@contextmanager
def while_the_model_is_asked(e):
    e.model.script = lambda request: HANG
    e.post()
    until(lambda: e.kept("place") and e.model.deliveries, what="the place on disk, and the model asked")
    yield 2, 1


@contextmanager
def while_both_are_asked(e):
    e.model.script = lambda request: HANG
    e.places.on(PATH, HANG)
    e.post()
    until(lambda: e.asked() == (1, 1), what="both asked")
    yield 2, 2


@contextmanager
def in_a_pause(e):
    e.model.script = lambda request: Answer(500)
    e.post()
    until(lambda: e.kept("place") and rows(e.daemon, "SELECT 1 FROM process WHERE failures = 1"), what="a failure on disk")
    yield 2, 1


@contextmanager
def before_deliveries(e):
    with queue_held(e.daemon):
        e.post()
        until(lambda: e.kept("summary") and e.kept("place"), what="both on disk")
        yield 1, 1


@contextmanager
def before_it_is_completed(e):
    with queue_held(e.daemon):
        e.post()
        until(lambda: e.kept("summary") and e.kept("place"), what="both on disk")
        held = store_held(e.daemon)
        held.__enter__()
    try:
        until(lambda: e.told("/memory") and e.told("/notes"), what="both deliveries")
        assert e.status() == 1
        yield 1, 1
    finally:
        held.__exit__(None, None, None)


@contextmanager
def while_it_is_delivered(e):
    e.receiver.on("/memory", HANG)
    e.receiver.on("/notes", HANG)
    e.post()
    until(lambda: e.told("/memory") and e.told("/notes") and e.status() == 2, what="deliveries under way")
    yield 1, 1


@contextmanager
def when_all_is_done(e):
    e.post()
    until(lambda: e.told("/memory") and e.told("/notes") and e.status() == 2, what="its end")
    until(lambda: e.daemon.metric("omid_queue_jobs", state="ready") == 0 and
          e.daemon.metric("omid_queue_jobs", state="leased") == 0, what="an empty queue")
    yield 1, 1


STEPS = [before_it_begins, while_the_place_is_asked, while_the_model_is_asked, while_both_are_asked, in_a_pause,
         before_deliveries, before_it_is_completed, while_it_is_delivered, when_all_is_done]


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.__name__)
def test_killed(start_daemon, talker, receiver, model, places, step):  # noqa: F811
    """It goes on after the start; what was made is asked for no more, and nobody hears of it under two ids."""
    pause = {"retry": "1h", "retry_max": "1h"} if step is in_a_pause else {}
    daemon = start_daemon(settings(model, places, receiver, **pause))
    e = End(daemon, talker, model, places, receiver)
    with step(e) as asked:
        daemon.kill()
    model.script = lambda request: says(SUMMARY)
    places.on(PATH, Answer(body=GOOD))
    receiver.on("/memory", Answer())
    receiver.on("/notes", Answer())
    daemon.start()
    if step is before_it_begins:
        assert e.status() == 0  # nothing has happened: its client asks again
        e.post()
    until(lambda: e.status() == 2, what="the conversation to be completed")
    until(lambda: e.told("/memory") and e.told("/notes"), what="both deliveries")
    until(lambda: rows(daemon, "SELECT count(*) FROM process") == [(0,)], what="its end")
    assert e.asked() == asked
    for path in ("/memory", "/notes"):
        assert len({d.headers["webhook-id"] for d in e.told(path)}) == 1, path
    structured, place = rows(daemon, "SELECT structured, geolocation FROM conversation WHERE id = ?", e.id)[0]
    assert json.loads(structured)["title"] == SUMMARY["title"] and json.loads(place) == dict(BERLIN, **FOUND)
    for d in e.told("/memory") + e.told("/notes"):
        assert d.json["structured"] == json.loads(structured) and d.json["geolocation"] == json.loads(place)
    if step is when_all_is_done:
        holds(lambda: len(e.told("/memory")) == len(e.told("/notes")) == 1, 0.3)
    for c in e.calls:
        c.close()


def test_a_store_that_fails_is_nobodys_failure(start_daemon, talker, receiver, model, places):  # noqa: F811
    """The place can't be kept, the summary can, later: it is tried until both are, and that counts as no failed attempt."""
    model.script = lambda request: Answer(200, says(SUMMARY).body, drip=0.0005)
    daemon = start_daemon(settings(model, places, receiver, attempts=3))
    e = End(daemon, talker, model, places, receiver)
    db = sqlite3.connect(daemon.dir / "state" / "store.db", timeout=30 * SLOW, isolation_level=None)
    db.execute("CREATE TRIGGER broken BEFORE UPDATE OF geolocation ON conversation BEGIN SELECT RAISE(ABORT, 'broken'); END")
    e.post()
    until(lambda: daemon.metric("omid_conversation_retries_total") >= 5, what="attempts in vain")
    assert e.status() == 1 and e.kept("summary")
    assert not rows(daemon, "SELECT 1 FROM process WHERE failures > 0")
    db.execute("DROP TRIGGER broken")
    db.close()
    until(lambda: e.status() == 2, what="its end")
    assert len(model.deliveries) == 1 and e.kept("place")
    e.calls[0].close()
