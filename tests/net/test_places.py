"""Where conversations were: PATCH /v1/users/geolocation, the geocoding partner and what it may do, what conversations keep."""
import http.client
import json
import sqlite3
import threading

import pytest

from support.receiver import Answer, Receiver
from support.talker import talker  # noqa: F401
from support.wait import SLOW, until
from test_conversations import rest

KEY = "scenario+geocoding/key"
FAST = {"connect_timeout": "500ms", "timeout": "800ms", "breaker": {"failures": 1000, "min_attempts": 1000}}
PATH = "/maps/api/geocode/json"
BERLIN = {"latitude": 52.5200066, "longitude": 13.404954}
RESULT = {"address_components": [{"long_name": "1", "short_name": "1", "types": ["street_number"]}],
          "formatted_address": "Alexanderplatz 1, 10178 Berlin, Germany",
          "geometry": {"location": {"lat": 52.52, "lng": 13.405}, "location_type": "ROOFTOP"},
          "place_id": "ChIJbygR2x5OqEcRbhbkZ3lqOFo", "types": ["street_address", "political"]}
GOOD = json.dumps({"plus_code": {}, "results": [RESULT, {"place_id": "other"}], "status": "OK"}).encode()
FOUND = {"google_place_id": RESULT["place_id"], "address": RESULT["formatted_address"], "location_type": "street_address"}


def answer_of(status, **more):
    return Answer(body=json.dumps(dict({"status": status, "results": []}, **more)).encode())


# What the partner may do, and what the daemon makes of it: the reason of the fallback.
BAD = [
    (Answer(hang=True), "timeout"), (Answer(body=GOOD, drip=0.3), "timeout"), (Answer(reset=True), "failed"),
    (Answer(401), "failed"), (Answer(429), "full"), (Answer(500), "failed"), (Answer(body=b"<html></html>"), "failed"),
    (Answer(body=b""), "failed"), (Answer(body=b"[]"), "failed"), (Answer(huge=4 << 20), "failed"),
    (answer_of("ZERO_RESULTS"), "nothing"), (answer_of("REQUEST_DENIED", error_message="key " + KEY), "failed"),
    (answer_of("OVER_QUERY_LIMIT"), "failed"), (answer_of("OK"), "failed"),
    (answer_of("OK", results=[dict(RESULT, place_id=7)]), "failed"), (answer_of("OK", results="x"), "failed"),
    (answer_of("OK", results=[{k: v for k, v in RESULT.items() if k != "place_id"}]), "failed"),
]


def patch(daemon, body, uid="ann", token=None):
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
    try:
        headers = {"Content-Type": "application/json"}
        if token != "":
            headers["Authorization"] = "Bearer " + (token or daemon.admin_key + uid)
        c.request("PATCH", "/v1/users/geolocation", body if isinstance(body, bytes) else json.dumps(body), headers)
        response = c.getresponse()
        return response.status, json.loads(response.read())
    finally:
        c.close()


def place(daemon, uid="ann"):
    store = sqlite3.connect("file:%s/state/store.db?mode=ro" % daemon.dir, uri=True)
    try:
        return store.execute("SELECT latitude, longitude FROM place WHERE uid = ?", (uid,)).fetchone()
    finally:
        store.close()


def ended(daemon, talker, uid):  # noqa: F811
    """A conversation of this user, said and ended: what it keeps of where it was."""
    t = talker(daemon, uid).wait_ready()
    t.conversation()
    t.say("hello there.")
    t.heard("hello there.")
    status, answer = rest(daemon, "POST", "/v1/conversations", uid, timeout=60)
    assert status == 201, (status, answer)
    t.hang_up()
    memory = answer["memory"]
    assert rest(daemon, "GET", "/v1/conversations/" + memory["id"], uid)[1]["geolocation"] == memory["geolocation"]
    return memory["geolocation"]


def fallbacks(daemon, reason):
    return daemon.metric("omi_fallback_total", component="geocoding", from_mode="geocoded", to_mode="raw", reason=reason,
                         outcome="degraded")


def test_patch(start_daemon, talker):  # noqa: F811
    daemon = start_daemon()
    for body, why in [
            ({"longitude": 1}, "latitude: expected a number from -90 to 90"),
            ({"latitude": 1}, "longitude: expected a number from -180 to 180"),
            ({"latitude": "1", "longitude": 1}, "latitude: expected a number from -90 to 90, found something else"),
            ({"latitude": 1, "longitude": None}, "longitude: expected a number"),
            ({"latitude": True, "longitude": 1}, "latitude"), ({"latitude": [1], "longitude": 1}, "latitude"),
            ({"latitude": 90.0001, "longitude": 1}, "latitude: expected a number from -90 to 90, found one beyond that"),
            ({"latitude": -91, "longitude": 1}, "latitude"), ({"latitude": 1, "longitude": 180.01}, "longitude"),
            ({"latitude": 1, "longitude": -181}, "longitude"), (b'{"latitude":1e999,"longitude":1}', "latitude"),
            (b'{"latitude":NaN,"longitude":1}', "body: expected a JSON object"), (b"", "body: expected a JSON object"),
            (b"[1,2]", "body: expected a JSON object"), (b"<html>", "body"), (b'{"latitude":1,"longitude":2}x', "body"),
            (b'{"latitude":1,"longitude":2,"x":"' + b"x" * 20000 + b'"}', "body"), (b"[" * 500, "body")]:
        status, answer = patch(daemon, body)
        assert status == 400 and why in answer["error"], (body[:60] if isinstance(body, bytes) else body, answer)
    assert place(daemon) is None
    assert patch(daemon, BERLIN, token="")[0] == 401 and patch(daemon, BERLIN, token="x")[0] == 401
    assert rest(daemon, "GET", "/v1/users/geolocation")[0] == 405
    for body in (dict(BERLIN, accuracy=3.5, altitude=None, time="now", more={"x": []}), {"latitude": -90, "longitude": 180},
                 {"latitude": 0, "longitude": -0.0}):
        assert patch(daemon, body) == (200, {"status": "ok"})
        assert place(daemon) == (body["latitude"], body["longitude"])
    assert patch(daemon, BERLIN, "bob")[0] == 200
    daemon.kill()
    daemon.start()
    assert place(daemon, "bob") == (BERLIN["latitude"], BERLIN["longitude"])

    # Nobody geocodes here: the coordinates are what is kept. Of somebody who never said where: nothing.
    assert ended(daemon, talker, "bob") == BERLIN
    assert ended(daemon, talker, "carl") is None
    assert sum(fallbacks(daemon, r) for r in ("failed", "timeout", "nothing", "full", "stopped", "invalid", "bad_value")) == 0


@pytest.fixture(params=[False, True], ids=["http", "https"])
def partner(request, authority):
    peer = Receiver(authority.server_context() if request.param else None)
    peer.environment = {"SSL_CERT_FILE": str(authority.ca)} if request.param else None
    yield peer
    peer.stop()


def test_geocoded(start_daemon, partner, talker):  # noqa: F811
    daemon = start_daemon({"plugin geocoding": dict(FAST, url=partner.url(PATH), key=KEY)}, partner.environment)
    partner.on(PATH, Answer(body=GOOD))
    assert patch(daemon, BERLIN)[0] == 200
    assert ended(daemon, talker, "ann") == dict(FOUND, **BERLIN)
    asked, = partner.deliveries
    assert (asked.method, asked.path, asked.body) == ("GET", PATH, b"")
    assert asked.query == {"latlng": ["52.5200066,13.404954"], "key": [KEY]}

    # Near by, by another user, and after a crash: known.
    near = {"latitude": 52.5199, "longitude": 13.40455}
    patch(daemon, near, "bob")
    assert ended(daemon, talker, "bob") == dict(FOUND, **near)
    daemon.kill()
    daemon.start()
    assert ended(daemon, talker, "bob") == dict(FOUND, **near)
    assert len(partner.deliveries) == 1
    daemon.metric_is("omid_plugin_geocoding_lookups_total", 1, **{"from": "store"})
    assert sum(daemon.metric("omi_fallback_total", component="geocoding") for _ in [0]) == 0
    for text in (daemon.log(), daemon.get("/metrics")[1].decode(), json.dumps(daemon.status())):
        assert KEY not in text and "scenario%2B" not in text


def test_partner_fails(start_daemon, partner, talker):  # noqa: F811
    """Whatever the partner does: the coordinates are kept, and it is counted."""
    daemon = start_daemon({"plugin geocoding": dict(FAST, url=partner.url(PATH), key=KEY)}, partner.environment)
    spots = [{"latitude": 10.0 + i, "longitude": -20.5} for i in range(len(BAD))]
    kept, lock = {}, threading.Lock()
    partner.on(PATH, Answer(hang=True))
    for (answer, reason), spot in zip(BAD, spots):
        before = fallbacks(daemon, reason)
        partner.on(PATH, answer)
        patch(daemon, spot)
        with lock:
            kept[reason] = ended(daemon, talker, "ann")
        assert kept[reason] == spot, (answer, kept[reason])
        until(lambda: fallbacks(daemon, reason) == before + 1, what=lambda: "%s: %s" % (answer, reason))
    # A failure is not kept.
    partner.on(PATH, Answer(body=GOOD))
    assert ended(daemon, talker, "ann") == dict(FOUND, **spots[-1])
    partner.stop()
    patch(daemon, {"latitude": 1, "longitude": 1})
    assert ended(daemon, talker, "ann") == {"latitude": 1.0, "longitude": 1.0}
    assert KEY not in daemon.log() and "scenario%2B" not in daemon.log()


def test_age(start_daemon, talker):  # noqa: F811
    """What was said too long before or after a conversation is not where it was; what was said within it is."""
    daemon = start_daemon({"listen": {"location_age": "10min"}})
    # a conversation's length in minutes, and when before its end (after it: negative) its user said where
    cases = [(60, 5, True), (60, 11, True), (60, 59, True), (60, 69, True), (60, 71, False), (0, 9, True), (0, 11, False),
             (60, -9, True), (60, -11, False)]
    for number, (length, said, kept) in enumerate(cases):
        uid = "user%d" % number
        assert patch(daemon, BERLIN, uid)[0] == 200
        t = talker(daemon, uid).wait_ready()
        t.conversation()
        t.say("hello there.")
        t.heard("hello there.")
        t.hang_up()
        until(lambda: daemon.sessions() == 0, what="the end of the session")
        store = sqlite3.connect(daemon.dir / "state" / "store.db", timeout=30 * SLOW)
        with store:
            store.execute("UPDATE conversation SET started = finished - ? WHERE uid = ?", (length * 60000, uid))
            store.execute("UPDATE place SET updated = (SELECT finished FROM conversation WHERE uid = ?1) - ?2 WHERE uid = ?1",
                          (uid, said * 60000))
        store.close()
        status, answer = rest(daemon, "POST", "/v1/conversations", uid, timeout=60)
        assert status == 201 and answer["memory"]["geolocation"] == (BERLIN if kept else None), (length, said, answer)


def test_one_request_for_many(start_daemon, receiver, talker):  # noqa: F811
    """Users on all reactors end conversations at one place at the same time."""
    receiver.on(PATH, Answer(body=GOOD, drip=0.001))
    daemon = start_daemon({"plugin geocoding": {"url": receiver.url(PATH), "key": KEY}})
    users = ["user%d" % i for i in range(8)]
    for uid in users:
        patch(daemon, BERLIN, uid)
    found = {}
    threads = [threading.Thread(target=lambda u=uid: found.update({u: ended(daemon, talker, u)})) for uid in users]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {uid: dict(FOUND, **BERLIN) for uid in users}
    assert len(receiver.deliveries) == 1
