"""Apps and developers' webhooks of the registry while somebody speaks, and at the end of the conversation."""
import http.client
import json
import re

import pytest
from support import standard_webhooks
from support.admin import Admin
from support.daemon import merge
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import holds, until

NOTE = {"prompt": "Tell {{user_name}} something", "params": ["user_name"], "context": {"question": "what?"}}


@pytest.fixture
def rig(start_daemon, deepgram):
    def start(settings=None):
        daemon = start_daemon(merge(merge(with_deepgram(deepgram), {
            "listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s"},
            "registry": {"flush": "50ms"},
            "plugin webhooks": {"transcript_interval": "100ms", "timeout": "2s", "allow_private": ["127.0.0.0/8"]}}),
            settings or {}))
        return daemon, Admin(daemon)
    return start


def app(admin, name, url, trigger, uid, **more):
    body = dict({"id": name, "name": name.title(), "url": url, "triggers": [trigger], "uid": "owner"}, **more)
    made = admin.call("POST", "/v1/admin/apps", body, 201)
    admin.call("POST", "/v1/admin/apps/%s/enable" % name, {"uid": uid})
    return made


def hook(admin, url, uid, **more):
    return admin.call("POST", "/v1/admin/webhooks", dict({"uid": uid, "url": url}, **more), 201)


def heard(phone, n):
    until(lambda: len(re.findall(r"n\d+\.", phone.text())) >= n, what=lambda: "%d results: %r" % (n, phone.text()))


def words(deliveries):
    return re.findall(r"n(\d+)\.", " ".join(s["text"] for d in deliveries for s in d.json["segments"]))


def conversation_of(daemon, uid, key):
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/v1/conversations/" + key, headers={"Authorization": "Bearer " + daemon.admin_key + uid})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    return json.loads(body)


def test_all_triggers(rig, receiver, phone):
    uid = "ann:x@y.z"
    daemon, admin = rig()
    receiver.on("/talk", Answer(body=json.dumps({"message": "well said", "notification": NOTE}).encode()))
    receiver.on("/hear", Answer(500))
    receiver.on("/keep", Answer(body=b'{"message": "kept"}'))
    receiver.on("/dev-keep", Answer(202, body=b'{"message": "a developer says nothing here"}'))
    made = {"/talk": app(admin, "talker", receiver.url("/talk?k=v"), "transcript_processed", uid,
                         capabilities=["proactive_notification"]),
            "/hear": app(admin, "hearer", receiver.url("/hear"), "audio_bytes", uid, audio_seconds=1),
            "/keep": app(admin, "keeper", receiver.url("/keep"), "memory_creation", uid),
            "/dev-talk": hook(admin, receiver.url("/dev-talk"), uid, type="realtime_transcript"),
            "/dev-hear": hook(admin, receiver.url("/dev-hear") + ",1", uid, type="audio_bytes"),
            "/dev-keep": hook(admin, receiver.url("/dev-keep"), uid, type="memory_created"),
            "/told": hook(admin, receiver.url("/told"), uid, events=["app.*"])}
    hook(admin, receiver.url("/others"), "somebody-else", type="realtime_transcript")
    p = phone(daemon, uid=uid, conversation_timeout=2).wait_ready()
    p.speak(3.0, 500)
    heard(p, 6)
    named = next(iter(p.segments.values()))
    p.send({"type": "speaker_assigned", "speaker_id": named["speaker_id"], "person_id": "p1", "person_name": "Zoë",
            "segment_ids": list(p.segments)})
    until(lambda: words(receiver.at("/talk"))[-1:] == ["6"] and words(receiver.at("/dev-talk"))[-1:] == ["6"],
          what="the transcript")
    until(lambda: p.of_type("app_message"), what="the app's message")
    said = p.of_type("app_message")[0]
    assert (said["app_id"], said["app_name"], said["message"]) == ("talker", "Talker", "well said")
    until(lambda: p.of_type("memory_created"), 30, what=lambda: "the conversation:\n" + daemon.log_tail())
    until(lambda: receiver.at("/keep") and receiver.at("/dev-keep"), what=lambda: "deliveries:\n" + daemon.log_tail())
    # From a job on whatever reactor to the client that is still there.
    until(lambda: [m for m in p.of_type("app_message") if m["app_id"] == "keeper"], what="the other app's message")

    for d in receiver.at("/talk"):
        assert list(d.json) == ["session_id", "segments"] and d.json["session_id"] == uid
        assert d.query == {"k": ["v"], "uid": [uid]}
    for d in receiver.at("/dev-talk"):
        assert list(d.json) == ["segments", "session_id"] and d.json["session_id"] == uid and d.query == {"uid": [uid]}
    p.close()
    for path in ("/hear", "/dev-hear"):
        until(lambda: sum(len(d.body) for d in receiver.at(path)) == 48000, what="all the audio at " + path)
        for d in receiver.at(path):
            assert d.headers["content-type"] == "application/octet-stream"
            assert d.query == {"sample_rate": ["8000"], "uid": [uid]}
    full, named = receiver.at("/keep")[0], receiver.at("/dev-keep")[0]
    assert full.query == named.query == {"uid": [uid]}
    assert "folder_name" not in full.json and named.json["folder_name"] is None
    assert all("speaker_name" not in s for s in full.json["transcript_segments"])
    without = {k: v for k, v in named.json.items() if k != "folder_name"}
    assert {s.pop("speaker_name") for s in without["transcript_segments"]} == {"Zoë"}
    assert full.json == without

    def kept():
        return {m["app_id"]: m["text"] for m in conversation_of(daemon, uid, full.json["id"])["messages"]}
    until(lambda: kept() == {"talker": "well said", "keeper": "kept"}, what=lambda: "messages: %s" % kept())
    # One notification in 30 s, however many answers had one.
    until(lambda: receiver.at("/told"), what="the notification")
    assert receiver.at("/told")[0].json == {"app_id": "talker", "app_name": "Talker", **NOTE}
    if len(receiver.at("/talk")) > 1:
        daemon.metric_reaches("omid_plugin_webhooks_notifications_total", 1, outcome="too_soon")
    assert len(receiver.at("/told")) == 1
    for d in receiver.deliveries:
        assert standard_webhooks.fault(made[d.path]["secret"], d.headers, d.body) is None, d.path
    assert not receiver.at("/others")
    for name in ("hearer", "talker", "keeper"):
        assert admin.call("GET", "/v1/admin/apps/" + name)["enabled"]


def test_a_session_follows_the_registry(rig, receiver, phone):
    uid = "bob"
    daemon, admin = rig()
    first = hook(admin, receiver.url("/first"), uid, type="realtime_transcript")
    receiver.on("/gone", Answer(410))
    p = phone(daemon, uid=uid).wait_ready()
    talk = p.speaking(8.0)
    until(lambda: receiver.at("/first"), what="the first endpoint's")
    hook(admin, receiver.url("/second"), uid, type="realtime_transcript")
    gone = hook(admin, receiver.url("/gone"), uid, type="realtime_transcript")
    until(lambda: receiver.at("/second"), what="the second one's, in mid-session")
    until(lambda: not admin.call("GET", "/v1/admin/webhooks/" + gone["id"])["enabled"], what="410: disabled")
    admin.call("PATCH", "/v1/admin/webhooks/" + first["id"], {"url": receiver.url("/moved")})
    until(lambda: receiver.at("/moved"), what="the moved one's")
    before = len(receiver.at("/first"))
    admin.call("DELETE", "/v1/admin/webhooks/" + first["id"], expect=204)
    talk.result(60)
    heard(p, 16)
    until(lambda: words(receiver.at("/second"))[-1:] == ["16"], what="the last words")
    assert len(receiver.at("/first")) == before and words(receiver.at("/moved"))[-1:] != ["16"]
    assert len(receiver.at("/gone")) <= 3


def test_bad_apps_delay_nobody(rig, receiver, phone):
    uid = "cleo"
    daemon, admin = rig()
    for path, trigger, bad in (("/bad-talk", "transcript_processed", Answer(hang=True)),
                               ("/bad-hear", "audio_bytes", Answer(huge=50 << 20)),
                               ("/bad-keep", "memory_creation", Answer(drip=0.3))):
        receiver.on(path, bad)
        app(admin, path[1:], receiver.url(path), trigger, uid, **({"audio_seconds": 1} if "hear" in path else {}))
    hook(admin, receiver.url("/talk"), uid, type="realtime_transcript")
    hook(admin, receiver.url("/hear") + ",1", uid, type="audio_bytes")
    hook(admin, receiver.url("/keep"), uid, type="memory_created")
    p = phone(daemon, uid=uid, conversation_timeout=2).wait_ready()
    p.speak(3.0, 500)
    heard(p, 6)
    until(lambda: words(receiver.at("/talk"))[-1:] == ["6"], what="the good one's transcript")
    until(lambda: receiver.at("/keep"), 30, what=lambda: "the good one's conversation:\n" + daemon.log_tail())
    assert receiver.at("/bad-talk") and receiver.at("/bad-hear") and daemon.healthz() == 200 and not p.closed
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end, whatever the app does")
    until(lambda: sum(len(d.body) for d in receiver.at("/hear")) == 48000, what="all the audio at the good one")
    assert len(receiver.at("/keep")) == 1


def test_setup_and_test(rig, receiver):
    daemon, admin = rig()
    answers = {"/yes": Answer(body=b'{"is_setup_completed": true}'), "/no": Answer(body=b'{"is_setup_completed": false}'),
               "/html": Answer(body=b"<html>"), "/500": Answer(500), "/redirect": Answer(302, headers={"Location": "/yes"})}
    for path, answer in answers.items():
        receiver.on(path, answer)
        name = path[1:]
        admin.call("POST", "/v1/admin/apps", {"id": name, "name": name, "url": receiver.url("/hook"), "uid": "owner",
                                              "triggers": ["memory_creation"],
                                              "setup_completed_url": receiver.url(path + "?a=b")}, 201)
        admin.call("POST", "/v1/admin/apps/%s/enable" % name, {"uid": "ann@1"},
                   {"/yes": 200, "/no": 409}.get(path, 502))
    assert receiver.at("/yes")[0].method == "GET" and receiver.at("/yes")[0].query == {"a": ["b"], "uid": ["ann@1"]}
    assert len(receiver.at("/yes")) == 1, "a redirect was followed"
    made = hook(admin, receiver.url("/test?x=1"), "ann", type="memory_created")
    receiver.on("/test", Answer(418, body=b"I am a \xff teapot"))
    answer = admin.call("POST", "/v1/admin/webhooks/%s/test" % made["id"], {})
    assert answer["status"] == 418 and answer["answer"].startswith("I am a ") and answer["error"] is None
    d = receiver.at("/test")[0]
    assert d.json["type"] == "omid.test" and d.query == {"x": ["1"], "uid": ["ann"]}
    assert standard_webhooks.fault(made["secret"], d.headers, d.body) is None
    holds(lambda: len(receiver.at("/test")) == 1, 0.3, "a test is delivered once")
