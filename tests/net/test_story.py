"""
One user's day with everything: a recording made offline, a live conversation of two people, its place, summaries, an app
that is told of both, and both played back.
"""
import array
import io
import time
import wave

import pytest

from support.admin import Admin
from support.daemon import merge
from support.deepgram import Mode
from support.embedder import Embedder
from support.model import SUMMARY, Model
from support.receiver import Answer, Receiver
from support.settings import with_deepgram
from support.standard_webhooks import fault
from support.wait import until
from test_conversations import rest
from test_places import BERLIN, FOUND, GOOD, PATH, patch
from test_storage import audio
from test_sync import finished, upload, wav

BEN, CID = 2000, 5500  # voices, as sample values


@pytest.fixture
def partners():
    peers = {"apps": Receiver(), "places": Receiver(), "model": Model(), "voices": Embedder()}
    peers["places"].on(PATH, Answer(body=GOOD))
    peers["apps"].on("/setup", Answer(body=b'{"is_setup_completed":true}'))
    peers["apps"].on("/notes", Answer(body=b'{"message":"Noted."}'))
    yield peers
    for p in peers.values():
        p.stop()


def two_people(value, number):
    return [("Number%d." % number, 0 if value == BEN else 1)]


def settings(partners, deepgram):
    return merge(with_deepgram(deepgram, models=("dg-nova-3", "sphinx")), {
        "plugin sphinx": {}, "plugin vad": {},
        "plugin geocoding": {"url": partners["places"].url(PATH), "key": "k"},
        "plugin summary": {"url": partners["model"].base, "key": "k", "model": "test"},
        "plugin diarizer": {"url": partners["voices"].url + "/base"},
        "plugin storage": {"append": "100ms", "batch": "2s"},
        "plugin webhooks": {"allow_private": ["127.0.0.0/8"]},
        "sync": {"check": "50ms", "retry": "50ms"}})


def samples(daemon, conversation):
    status, data, _ = audio(daemon, conversation)
    assert status == 200, status
    with wave.open(io.BytesIO(data)) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, 16000)
        out = array.array("h")
        out.frombytes(w.readframes(w.getnframes()))
        return out


def one(daemon, conversation):
    return rest(daemon, "GET", "/v1/conversations/" + conversation, uid="ann")[1]


def test_a_day(start_daemon, partners, deepgram, phone, speech, have_sphinx):
    if not have_sphinx:
        pytest.skip("built without the sphinx plugin")
    deepgram.default = Mode(words=two_people, every=1.0)
    d = start_daemon(settings(partners, deepgram))
    admin = Admin(d)
    apps = partners["apps"]
    app = admin.call("POST", "/v1/admin/apps", {
        "id": "notes", "name": "Notes", "uid": "owner", "url": apps.url("/notes"), "triggers": ["memory_creation"],
        "setup_completed_url": apps.url("/setup")}, 201)
    admin.call("POST", "/v1/admin/apps/notes/enable", {"uid": "ann"})
    assert apps.at("/setup")[0].query == {"uid": ["ann"]}

    # In the morning, without a network.
    start = int(time.time()) - 3600
    job = finished(d, upload(d, [("walk_%d.wav" % start, wav(bytes(32000) + speech + bytes(32000)), None)],
                             query="?language=en"))
    walk, = job["files"][0]["conversation_ids"]
    until(lambda: one(d, walk)["status"] == "completed", what="the walk's summary")

    # Now, with Ben and Cid.
    assert patch(d, BERLIN)[0] == 200
    p = phone(d, uid="ann", codec="pcm16", sample_rate=16000).wait_ready()
    p.speak(4.0, BEN, speed=4)
    p.speak(4.0, CID, speed=4)
    until(lambda: {s["speaker_id"] for s in p.segments.values()} == {0, 1}, what="both speakers")
    ben = next(s for s in p.segments.values() if s["speaker_id"] == 0)
    p.send({"type": "speaker_assigned", "speaker_id": 0, "person_id": "ben", "person_name": "Ben",
            "segment_ids": [ben["id"]]})
    until(lambda: any(s["person_id"] == "ben" for s in p.segments.values()), what="Ben's name")
    status, answer = rest(d, "POST", "/v1/conversations", uid="ann")[:2]
    assert status == 201, answer
    talk = answer["memory"]["id"]
    p.close()

    made = one(d, talk)
    assert made["status"] == "completed" and made["structured"]["title"] == SUMMARY["title"]
    assert made["structured"]["action_items"] and made["geolocation"] == dict(BERLIN, **FOUND)
    assert {s["person_id"] for s in made["transcript_segments"]} == {"ben", None}
    assert "go forward ten meters" in one(d, walk)["transcript_segments"][0]["text"].lower()
    assert one(d, walk)["structured"]["title"] == SUMMARY["title"]

    # The app has heard of both, once each, and what it said is kept.
    until(lambda: len(apps.at("/notes")) == 2, what="both deliveries")
    told = {n.json["id"]: n for n in apps.at("/notes")}
    assert set(told) == {walk, talk}
    for n in told.values():
        assert n.query == {"uid": ["ann"]}
        assert fault(app["secret"], n.headers, n.body) is None
    assert told[talk].json["structured"]["overview"] == SUMMARY["overview"]
    until(lambda: [m["text"] for m in one(d, talk)["messages"]] == ["Noted."], what="what the app said")

    # Both can be heard again.
    until(lambda: len(samples(d, walk)) >= len(speech) // 2, what="the walk's audio")
    heard, said = samples(d, walk), array.array("h", [])
    said.frombytes(speech)
    at = next(i for i in range(len(heard) - 200) if heard[i:i + 200] == said[4000:4200])
    assert heard[at:at + 8000] == said[4000:12000]
    until(lambda: len(samples(d, talk)) >= 7.9 * 16000, what="the talk's audio")
    voices = [v for v in samples(d, talk) if v]
    assert set(voices) == {BEN, CID} and abs(voices.index(CID) - 4 * 16000) < 1600
