"""What scenarios of voices share: a client that speaks with them, an embedding service, and what the store holds of them."""
import http.client
import json
import subprocess
import wave

import pytest

from .daemon import merge
from .embedder import Embedder, constant
from .phone import Phone
from .store import rows
from .wait import SLOW, until

RATE = 16000
LONG = 14400
BEN, CID, OWNER, STRANGER = 2000, 5500, 9500, -5000  # voices far from each other


class Talker(Phone):
    """Does speech-to-text itself: says who said what when, of the audio it sends."""

    def __init__(self, daemon, uid, **query):
        query = dict({"custom_stt": "enabled", "sample_rate": RATE, "conversation_timeout": LONG}, **query)
        super().__init__(daemon, uid, **query)
        self.at = 0.0
        self.words = 0

    def utter(self, voice, seconds=3.0, speaker=0):
        """Audio of a voice (a value, or s16le bytes) and the segment that goes with it; the segment as it came back."""
        pcm = constant(voice, seconds, self.rate) if isinstance(voice, int) else voice
        length = len(pcm) / 2.0 / self.rate
        self.play(pcm, speed=1000)
        self.words += 1
        text = "Words number %d." % self.words
        self.send({"type": "suggested_transcript", "segments": [
            {"text": text, "speaker": "SPEAKER_%02d" % speaker, "start": self.at, "end": self.at + length}]})
        self.at += length + 10  # too far apart to be combined
        self.play(bytes(int(10 * self.rate) * 2), speed=1000)
        until(lambda: self.saying(text) or self.closed, 5,
              what=lambda: "%r; told: %s" % (text, self.text()))
        return self.saying(text)

    def saying(self, text):
        return next((s for s in self.segments.values() if s["text"] == text), None)

    def current(self, segment):
        return self.segments[segment["id"]]

    def suggestions(self):
        return self.of_type("speaker_label_suggestion")

    def suggested(self, number=1):
        until(lambda: len(self.suggestions()) >= number, what=lambda: "suggestion %d; told: %s" % (
            number, self.messages[-5:]))
        return self.suggestions()[number - 1]

    def assign(self, segment, person, name=""):
        self.send({"type": "speaker_assigned", "speaker_id": segment["speaker_id"], "person_id": person,
                   "person_name": name, "segment_ids": [segment["id"]]})


@pytest.fixture
def embedder():
    peer = Embedder()
    yield peer
    peer.stop()


@pytest.fixture(params=[False, True], ids=["http", "https"])
def partner(request, authority):
    """An embedding service, and what a daemon needs to trust it."""
    peer = Embedder(authority.server_context() if request.param else None)
    peer.trust = {"tls": {"ca": authority.ca}} if request.param else {}
    yield peer
    peer.stop()


@pytest.fixture
def talker():
    talkers = []

    def connect(daemon, uid, **query):
        t = Talker(daemon, uid, **query)
        reads = lambda: len(daemon.logged("speakers: voices were read"))
        before, alone = reads(), not [o for o in talkers if o.uid == uid and not o.closed]
        talkers.append(t)
        t.connect()
        t.wait_ready()
        if alone and daemon.logged("plugin runs plugin=diarizer"):
            until(lambda: reads() > before, what="its voices are known")
        until(lambda: t.of_type("conversation_session"), what="a conversation")
        return t

    yield connect
    for t in talkers:
        if t.ws and not t.closed:
            t.hang_up()


QUICK = {"sample_age": "0s", "sample_check": "50ms", "sample_retry": "50ms", "sample_drain": "3s"}


def with_speakers(peer, speakers=None, **plugin):
    return {"listen": {"ping": "200ms"}, "speakers": dict(QUICK, **(speakers or {})),
            "plugin diarizer": merge({"url": peer.url + "/base", "breaker": {"failures": 1000, "error_rate": 1}}, plugin)}


def voices(daemon, uid):
    return rows(daemon, "SELECT person_id, kind FROM voice WHERE uid = ? ORDER BY n", uid)


def questions(daemon, result):
    return daemon.metric("omid_speaker_questions_total", result=result)


def samples(daemon, result):
    return daemon.metric("omid_speaker_samples_total", result=result)


def introduce(daemon, talker, uid, *people):
    """The user names people by their voices; their samples are taken."""
    before = len(voices(daemon, uid))
    t = talker(daemon, uid)
    t.utter(0, 0.5, speaker=99)  # a speaker without a name: from now on audio is kept
    for number, (voice, person, name) in enumerate(people):
        t.assign(t.utter(voice, speaker=10 + number), person, name)
    until(lambda: len(voices(daemon, uid)) == before + len(people), what=lambda: "samples of voices: %s, %s" % (
        voices(daemon, uid), rows(daemon, "SELECT status, attempts, error FROM speaker_sample")))
    leave(daemon, t)


def request(daemon, method, path, uid, body=None, content_type="application/json"):
    """(status, what the JSON of the answer says, or None)"""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
    try:
        c.request(method, path, body, {"Authorization": "Bearer " + daemon.admin_key + uid, "Content-Type": content_type})
        response = c.getresponse()
        text = response.read()
        is_json = response.getheader("content-type", "").startswith("application/json")
        return response.status, json.loads(text) if text and is_json else None
    finally:
        c.close()


def leave(daemon, t):
    """The conversation ends, so that the next session begins one of its own."""
    before = daemon.sessions()
    status, said = request(daemon, "POST", "/v1/conversations", t.uid)
    assert status == 201, said
    t.close()
    until(lambda: daemon.sessions() == before - 1, what="the end of the session")


def recording(name):
    listing = subprocess.run(["dpkg", "-L", "pocketsphinx-testdata"], capture_output=True, text=True).stdout
    path = next((line for line in listing.splitlines() if line.endswith(name)), None)
    if path is None:
        pytest.skip("needs the Debian package pocketsphinx-testdata")
    if path.endswith(".raw"):
        with open(path, "rb") as f:
            return f.read()
    with wave.open(path) as w:
        return w.readframes(w.getnframes())


def waiting(daemon):
    return rows(daemon, "SELECT attempts, error FROM speaker_sample WHERE status = 0 ORDER BY n")
