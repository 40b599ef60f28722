"""Who speaks, by the voice: recognised live, named by the user and sampled, with an embedding service that may misbehave."""
import http.client
import itertools
import json
import shutil
import signal
import struct
import subprocess
import wave

import pytest

from support.daemon import merge
from support.embedder import Embedder, angle, apart, constant, distance, embedding
from support.phone import Phone
from support.receiver import Answer
from support.store import rows
from support.wait import SLOW, holds, until

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


# ---------------------------------------------------------------------- who is who


def test_recognised(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder))
    until(lambda: daemon.metric("omid_plugin_diarizer_health_total", result="ok") == 1, what="the health")
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"), (CID, "p-cid", "Cid"), (OWNER, "user", ""))
    assert sorted(voices(daemon, "ann")) == [("p-ben", 0), ("p-cid", 0), ("user", 0)]
    nobody, asked = questions(daemon, "nobody"), len(embedder.asked)

    # Two sessions at once, of two users: what one knows the other does not.
    ann, eve = talker(daemon, "ann"), talker(daemon, "eve")
    first = ann.utter(BEN + apart(0.05), speaker=3)
    said = ann.suggested()
    assert said == {"type": "speaker_label_suggestion", "speaker_id": 3, "person_id": "", "person_name": "Ben",
                    "segment_id": first["id"]}
    until(lambda: ann.current(first)["person_id"] == "p-ben", what="the name on the segment")
    assert ann.utter(CID, speaker=3)["person_id"] == "p-ben", "of a known speaker nothing is asked"
    assert ann.utter(BEN, 1.0, speaker=3)["person_id"] == "p-ben"
    mine = ann.utter(OWNER - 300, speaker=4)
    assert ann.suggested(2)["person_name"] == "User"
    until(lambda: ann.current(mine)["is_user"], what="the owner")
    assert ann.current(mine)["person_id"] is None
    later = ann.utter(OWNER, speaker=4)
    assert later["is_user"] and later["person_id"] is None
    eve.utter(BEN, speaker=3)
    ann.utter(BEN, 1.9, speaker=5)  # too short to be compared
    ann.utter(STRANGER, speaker=5)  # nobody's
    until(lambda: questions(daemon, "nobody") == nobody + 1, what="a voice that is nobody's")
    assert (questions(daemon, "person"), questions(daemon, "owner")) == (1, 1)
    assert len(ann.suggestions()) == 2 and not eve.suggestions()
    assert len(embedder.asked) == asked + 3 and not [a.fault for a in embedder.asked if a.fault]

    # The conversation is stored so.
    until(lambda: set(rows(daemon, "SELECT speaker_id, person_id, is_user FROM segment WHERE speaker_id IN (3, 4)"
                                   " AND conversation IN (SELECT n FROM conversation WHERE uid = 'ann')")) ==
          {(3, "p-ben", 0), (4, None, 1)}, what="the names on disk")


def test_how_it_is_told(start_daemon, embedder, talker):
    """speaker_auto_assign, include_speech_profile, the user's own word, other rates, a person that is deleted."""
    daemon = start_daemon(with_speakers(embedder))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"), (OWNER, "user", ""))
    nobody = questions(daemon, "nobody")
    t = talker(daemon, "ann", speaker_auto_assign="enabled")
    t.utter(BEN, speaker=1)
    assert t.suggested()["person_id"] == "p-ben"
    t.utter(OWNER, speaker=2)
    assert t.suggested(2)["person_id"] == "user"
    leave(daemon, t)

    t = talker(daemon, "ann", include_speech_profile="false", sample_rate=8000)
    t.utter(OWNER, speaker=5)
    until(lambda: questions(daemon, "nobody") == nobody + 1, what="the owner is not looked for")
    t.utter(BEN, speaker=6)
    assert t.suggested()["speaker_id"] == 6
    assert embedder.asked[-1].rate == RATE and abs(embedder.asked[-1].seconds - 3) < 0.01
    # The user knows better, and is not asked again.
    one = t.utter(CID, speaker=7)
    until(lambda: questions(daemon, "nobody") == nobody + 2, what="a new voice")
    asked = len(embedder.asked)
    t.assign(one, "p-cid", "Cid")
    until(lambda: t.current(one)["person_id"] == "p-cid", what="the user's name")
    until(lambda: len(voices(daemon, "ann")) == 3, what="its sample")
    assert t.utter(BEN, speaker=7)["person_id"] == "p-cid"
    assert len(embedder.asked) == asked + 1  # the sample alone
    leave(daemon, t)

    # Of a long segment the middle.
    t = talker(daemon, "ann")
    t.utter(constant(CID, 6) + constant(BEN, 10) + constant(CID, 6), speaker=1)
    assert t.suggested()["person_name"] == "Ben"
    assert abs(embedder.asked[-1].seconds - 10) < 0.01


def test_remote_side_of_a_call(start_daemon, embedder, talker):
    """Of several channels it is their mix that is compared; the microphone is the owner's, and nothing is asked of it."""
    daemon = start_daemon(with_speakers(embedder))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    t = talker(daemon, "ann", channels=2)
    asked = len(embedder.asked)
    for _ in range(40):
        t.send(b"\1" + constant(0, 0.1))
        t.send(b"\2" + constant(BEN, 0.1))
    t.send({"type": "suggested_transcript", "segments": [
        {"text": "Mine.", "speaker": "SPEAKER_00", "is_user": True, "start": 0, "end": 3},
        {"text": "From afar.", "speaker": "SPEAKER_01", "start": 0.5, "end": 3.5}]})
    assert t.suggested()["speaker_id"] == 1
    until(lambda: t.saying("From afar.") and t.saying("From afar.")["person_id"] == "p-ben", what="the name")
    assert t.saying("Mine.")["is_user"] and len(embedder.asked) == asked + 1


@pytest.mark.parametrize("speakers", [{}, {"threshold": 1.2}], ids=["default", "setting"])
def test_threshold(start_daemon, embedder, talker, speakers):
    limit = speakers.get("threshold", 0.45)
    daemon = start_daemon(with_speakers(embedder, speakers))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    t = talker(daemon, "ann")
    below, above = BEN + apart(limit - 0.01), BEN + apart(limit + 0.01)
    assert distance(BEN, below) < limit < distance(BEN, above)
    t.utter(above, speaker=1)
    until(lambda: questions(daemon, "nobody") == 1, what="one that is too far")
    t.utter(below, speaker=2)
    t.suggested()
    assert [s["speaker_id"] for s in t.suggestions()] == [2]
    leave(daemon, t)
    # The nearest wins; a vector of another length is as far as can be.
    near = BEN + apart(0.2)
    introduce(daemon, talker, "ann", (near, "p-dan", "Dan"))
    t = talker(daemon, "ann")
    t.utter(near - 50, speaker=1)
    assert t.suggested()["person_name"] == "Dan"
    embedder.on("shorter")
    t.utter(BEN, speaker=2)
    until(lambda: questions(daemon, "nobody") == 2, what="another dimension")
    assert angle(BEN) > 0  # a vector that would match were it not for its length


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


def test_recordings_of_people(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder, {"max_speech": "10s"}))
    introduce(daemon, talker, "ann", (recording("goforward.raw"), "p-man", "Man"),
              (recording("-0920.wav"), "p-woman", "Woman"))
    t = talker(daemon, "ann")
    for number, (name, person) in enumerate((("something.raw", "Man"), ("-0930.wav", "Woman"), ("numbers.raw", "Man"),
                                             ("-0890.wav", "Woman"))):
        t.utter(recording(name), speaker=number)
        assert t.suggested(number + 1)["person_name"] == person, name


SENTENCES = ("The boats left the harbour early in the morning, and nobody was awake to see them go.",
             "We measured the old bridge twice, and both times it was longer than the map says.")


def spoken(directory, voice, sentence):
    """By a synthesiser's voice, at RATE."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs the Debian package espeak-ng")
    path = directory / "spoken.wav"
    subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", str(path), sentence], check=True, timeout=30 * SLOW)
    with wave.open(str(path)) as w:
        data, rate = w.readframes(w.getnframes()), w.getframerate()
    samples_ = struct.unpack("<%dh" % (len(data) // 2), data) + (0,)
    at = [k * rate / RATE for k in range((len(samples_) - 1) * RATE // rate)]
    between = lambda x: samples_[int(x)] + (samples_[int(x) + 1] - samples_[int(x)]) * (x - int(x))
    return struct.pack("<%dh" % len(at), *(int(between(x)) for x in at))


def test_four_voices_in_two_sessions(start_daemon, embedder, talker, tmp_path):
    """Whom a user names in one session the other one knows, by other sentences of theirs. (Both are of one conversation:
    a speaker has one number in it.)"""
    people = {"en-gb+klaus": "Klaus", "en-us+Annie": "Annie", "en-us+Denis": "Denis", "en-us+whisper": "User"}
    daemon = start_daemon(with_speakers(embedder))
    other = talker(daemon, "ann", source="desk")
    other.words = 100
    t = talker(daemon, "ann", source="phone")
    t.utter(0, 0.5, speaker=99)
    for number, (voice, name) in enumerate(people.items()):
        said = t.utter(spoken(tmp_path, voice, SENTENCES[0]), speaker=number)
        t.assign(said, "user" if name == "User" else "p-" + name, "" if name == "User" else name)
    until(lambda: len(voices(daemon, "ann")) == 4, what=lambda: "all samples; %s" % waiting(daemon))
    until(lambda: daemon.logged("speakers: voices were read.*voices=4"), what="both sessions know them")
    for number, (voice, name) in enumerate(reversed(people.items())):
        said = other.utter(spoken(tmp_path, voice, SENTENCES[1]), speaker=20 + number)
        assert other.suggested(number + 1)["person_name"] == name, voice
        until(lambda: other.current(said)["is_user"] if name == "User" else other.current(said)["person_id"] == "p-" + name,
              what="the name of %s" % name)
    assert not t.suggestions()
    # Somebody else's session knows none of them.
    eve = talker(daemon, "eve")
    asked = len(embedder.asked)
    eve.utter(spoken(tmp_path, "en-us+Denis", SENTENCES[1]), speaker=1)
    assert len(embedder.asked) == asked and not eve.suggestions()


# ----------------------------------------------------------------------- bad answers

ANSWERS = [500, 503, 429, 401, 404, 422, "reset", b"<html><body>Bad gateway</body></html>", b"[1, NaN, 2]", b"[0, 0, 0]",
           b"[]", b"[1]", b'{"embedding": "none"}', b'{"embedding": [1, null]}', b"{}", b"", b"null",
           b"[" + b"1," * 999999 + b"1]", b"[" * 100000, b"[1e99, 1]", b"[\"1\", \"2\"]", b"[1, 2"]


def test_answers_that_are_none(start_daemon, partner, talker):
    embedder = partner
    daemon = start_daemon(with_speakers(embedder, {"attempts": 1}, **embedder.trust))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    t = talker(daemon, "ann")
    for number, what in enumerate(ANSWERS):
        embedder.on(what)
        t.utter(BEN, speaker=number)
        until(lambda: questions(daemon, "failed") == number + 1, what=lambda: "the answer %r is none" % (what,))
    assert not t.suggestions() and not t.closed
    embedder.on("array")
    t.utter(BEN, speaker=len(ANSWERS))
    t.suggested()


def test_attempts_are_bounded(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    embedder.on(500)
    t = talker(daemon, "ann")
    for _ in range(3):
        failed = questions(daemon, "failed")
        t.utter(BEN, speaker=1)
        until(lambda: questions(daemon, "failed") == failed + 1, what="an attempt")
    embedder.on("ok")
    asked = len(embedder.asked)
    t.utter(BEN, speaker=1)
    t.utter(BEN, speaker=2)
    t.suggested()
    assert len(embedder.asked) == asked + 1, "of speaker 1 nothing is asked any more"


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_service_that_does_not_end(start_daemon, partner, talker, how):
    embedder = partner
    daemon = start_daemon(with_speakers(embedder, {"timeout": "1s"}, **embedder.trust))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    embedder.on(how)
    t = talker(daemon, "ann")
    t.utter(BEN, speaker=1)
    until(lambda: embedder.asked[1:], what="the question")
    t.utter(BEN, speaker=1)  # one question per speaker at a time
    assert len(embedder.asked) == 2
    until(lambda: questions(daemon, "late") == 1, what="the end of the wait")
    t.utter(BEN, speaker=1)
    until(lambda: len(embedder.asked) == 3, what="the next question")
    t.close()
    until(lambda: daemon.sessions() == 0 and daemon.status()["sessions"]["live"] == 0, 2, "the session's end")
    until(lambda: not [s for s in json.loads(daemon.get_control("/v1/admin/sessions")[1])["sessions"]],
          2, "no session is kept by a question beyond its time")


def rows_of(daemon):
    return json.loads(daemon.get_control("/v1/admin/sessions")[1])["sessions"]


def test_the_answer_comes_after_the_client_has_left(start_daemon, embedder, talker):
    """What was asked is part of the session's drain: the name is kept with the conversation."""
    daemon = start_daemon(with_speakers(embedder))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    embedder.on("held")
    t = talker(daemon, "ann")
    t.utter(BEN, speaker=1)
    until(lambda: len(embedder.asked) == 2, what="the question")
    t.hang_up()
    until(lambda: [s["tasks"] for s in rows_of(daemon)] == ["voice:1"], what=lambda: "the drain: %s" % rows_of(daemon))
    assert daemon.sessions() == 0 and rows_of(daemon)[0]["state"] == "leaving"
    embedder.release()
    until(lambda: not rows_of(daemon), what="the session's end")
    until(lambda: rows(daemon, "SELECT person_id FROM segment WHERE speaker_id = 1") == [("p-ben",)], what="the name on disk")
    assert daemon.metric("async_drain_timeout_total") == 0


def test_an_answer_that_never_comes_after_the_client_has_left(start_daemon, embedder, talker):
    daemon = start_daemon(merge(with_speakers(embedder, {"timeout": "5min"}), {"listen": {"drain": "500ms"}}))
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    embedder.on("hang")
    t = talker(daemon, "ann")
    t.utter(BEN, speaker=1)
    until(lambda: len(embedder.asked) == 2, what="the question")
    t.hang_up()
    until(lambda: not rows_of(daemon), 10, lambda: "the session's end: %s" % rows_of(daemon))
    assert daemon.metric("async_drain_timeout_total") == 1 and daemon.metric("omid_supervisor_stuck_total") == 0
    assert daemon.logged("drain timed out, the task is cancelled.*voice:1")


def test_memory_is_bounded_and_given_back(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder, {"memory": "5MiB", "ring": "60s"}))
    bytes_ = lambda: daemon.metric("omid_memory_voices_bytes")
    eve = talker(daemon, "eve")
    eve.play(constant(BEN, 3), speed=1000)
    holds(lambda: bytes_() == 0, 1.5, "nobody to compare with, no speaker without a name: nothing is kept")
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"))
    until(lambda: bytes_() == 0, what="the session's audio is given back")
    many = [talker(daemon, "ann", source="number%d" % n) for n in range(4)]
    for t in many:
        for _ in range(7):
            t.utter(constant(STRANGER, 1.0), speaker=1)
    assert 4 << 20 <= bytes_() <= 5 << 20
    assert daemon.metric("omid_speaker_no_room_total") >= 1
    many[0].utter(BEN, speaker=2)
    many[0].suggested()
    for t in many + [eve]:
        t.close()
    until(lambda: bytes_() == 0, what=lambda: "all is given back: %s" % bytes_())


# ----------------------------------------------------------------------- people


def test_people(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder))
    assert request(daemon, "GET", "/v1/people", "ann") == (200, [])
    status, cid = request(daemon, "POST", "/v1/people", "ann", json.dumps({"name": "Cid"}))
    assert status == 201 and cid["name"] == "Cid" and cid["voices"] == 0
    introduce(daemon, talker, "ann", (BEN, "p-ben", "Ben"), (CID, cid["id"], ""))
    status, people = request(daemon, "GET", "/v1/people", "ann")
    assert [(p["id"], p["name"], p["voices"]) for p in people] == [(cid["id"], "Cid", 1), ("p-ben", "Ben", 1)]
    assert request(daemon, "GET", "/v1/people", "eve") == (200, [])

    t = talker(daemon, "ann", speaker_auto_assign="enabled")
    t.utter(CID, speaker=1)
    assert t.suggested()["person_id"] == cid["id"]
    path = "/v1/people/" + cid["id"]
    assert request(daemon, "PATCH", path, "eve", json.dumps({"name": "X"}))[0] == 404
    assert request(daemon, "PATCH", path, "ann", json.dumps({"name": "Cyd"})) == (200, {"id": cid["id"], "name": "Cyd"})
    spoken = itertools.count(2)  # another speaker each time: one is suggested once

    def renamed():
        n = next(spoken)
        t.utter(CID, speaker=n)
        return t.suggested(n)["person_name"] == "Cyd"
    until(renamed, what="the new name to be known")
    # Deleted, a person is not recognised any more, nor named.
    assert request(daemon, "DELETE", path, "eve")[0] == 404
    assert request(daemon, "DELETE", path, "ann") == (204, None)
    assert request(daemon, "DELETE", path, "ann")[0] == 404
    nobody = questions(daemon, "nobody")
    until(lambda: t.utter(CID, speaker=2)["person_id"] is None, what="the name is not given any more")
    until(lambda: questions(daemon, "nobody") > nobody, what="a voice that is nobody's now")
    assert voices(daemon, "ann") == [("p-ben", 0)]

    for body in ("", "[]", "{", json.dumps({"name": ""}), json.dumps({"name": 5}), json.dumps({"name": "n" * 257}),
                 '{"name":"\xff"}'.encode("latin-1"), "[" * 5000):
        for method, where in (("POST", "/v1/people"), ("PATCH", "/v1/people/p-ben")):
            status, said = request(daemon, method, where, "ann", body)
            assert status == 400 and ("name:" in said["error"] or "body:" in said["error"]), (body, said)
    assert request(daemon, "PATCH", "/v1/people/" + "x" * 200, "ann", json.dumps({"name": "X"}))[0] == 404
    assert request(daemon, "DELETE", "/v1/people/..%2f..%00", "ann")[0] in (400, 404)
    host, port = daemon.address.rsplit(":", 1)
    assert daemon.get("/v1/people")[0] == 401 and daemon.get("/v1/speech-profile")[0] == 401


# ---------------------------------------------------------------- samples of voices


def waiting(daemon):
    return rows(daemon, "SELECT attempts, error FROM speaker_sample WHERE status = 0 ORDER BY n")


def name_somebody(daemon, t, voice=BEN, person="p-ben"):
    """The sample's queueing is on disk."""
    before = rows(daemon, "SELECT count(*) FROM speaker_sample")[0][0]
    t.utter(0, 0.5, speaker=99)
    said = t.utter(voice, speaker=1)
    t.assign(said, person, "Somebody")
    until(lambda: rows(daemon, "SELECT count(*) FROM speaker_sample")[0][0] == before + 1, what="the sample waits")
    return said


def test_sample_is_retried(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder))
    t = talker(daemon, "ann")
    embedder.on(500, 401, b"<html>", 429, "ok")
    name_somebody(daemon, t)
    until(lambda: voices(daemon, "ann") == [("p-ben", 0)], what=lambda: "the voice; %s" % waiting(daemon))
    assert len(embedder.asked) == 5 and (samples(daemon, "again"), samples(daemon, "kept")) == (4, 1)
    assert abs(embedder.asked[-1].seconds - 3) < 0.01
    until(lambda: daemon.metric("omid_speaker_samples_waiting") == 0, what="none waits")
    assert daemon.status()["sessions"]["speaker_samples"] == {"waiting": 0, "kept": 1, "given_up": 0}


def test_sample_is_of_the_session_that_heard_it(start_daemon, embedder, talker):
    """Two of one user speak into one conversation at the same time; in one they name whom the other has heard."""
    daemon = start_daemon(with_speakers(embedder))
    desk = talker(daemon, "ann", source="desk")
    phone_ = talker(daemon, "ann", source="phone")
    desk.words = 100
    desk.utter(0, 0.5, speaker=98)  # from now on audio is kept
    phone_.utter(0, 0.5, speaker=99)
    far = phone_.utter(CID, speaker=2)
    near = desk.utter(BEN, speaker=1)
    phone_.assign(near, "p-ben", "Ben")
    until(lambda: voices(daemon, "ann") == [("p-ben", 0)], what="Ben's voice")
    assert embedder.asked[-1].vector == embedding([BEN] * RATE), "it is what the desk has heard"
    desk.assign(far, "p-cid", "Cid")
    until(lambda: len(voices(daemon, "ann")) == 2, what="Cid's voice")
    assert embedder.asked[-1].vector == embedding([CID] * RATE)


def test_sample_waits_its_age_and_the_last_word_counts(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder, {"sample_age": "1500ms"}))
    t = talker(daemon, "ann")
    said = name_somebody(daemon, t)
    t.assign(said, "user")
    until(lambda: len(waiting(daemon)) == 2, what="two samples")
    holds(lambda: not embedder.asked, 0.5, "before its age")
    until(lambda: voices(daemon, "ann"), what="a voice")
    until(lambda: samples(daemon, "superseded") == 1, what="the first word")
    assert voices(daemon, "ann") == [("user", 0)]
    assert rows(daemon, "SELECT status, error FROM speaker_sample ORDER BY n") == [
        (2, "the speaker was named otherwise since"), (1, None)]


def test_sample_is_taken_when_the_daemon_stops(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder, {"sample_age": "1h"}))
    name_somebody(daemon, talker(daemon, "ann"))
    name_somebody(daemon, talker(daemon, "eve"), CID, "p-cid")
    holds(lambda: not embedder.asked, 0.3)
    daemon.stop()
    assert voices(daemon, "ann") == [("p-ben", 0)] and voices(daemon, "eve") == [("p-cid", 0)]
    assert len(embedder.asked) == 2


def test_a_stop_is_not_held_by_a_service_that_hangs(start_daemon, embedder, talker):
    daemon = start_daemon(with_speakers(embedder, {"sample_age": "1h", "sample_drain": "300ms"}))
    name_somebody(daemon, talker(daemon, "ann"))
    embedder.on("hang")
    daemon.stop(5)
    assert len(embedder.asked) == 1 and waiting(daemon) == [(0, None)]


def test_samples_survive_a_crash(start_daemon, embedder, talker):
    """Without its audio there is nothing to take it from: it is tried for as long as it may be, and given up visibly."""
    settings = with_speakers(embedder, {"sample_age": "1h", "sample_attempts": 3, "sample_retry": "300ms"})
    daemon = start_daemon(settings)
    name_somebody(daemon, talker(daemon, "ann"))
    daemon.kill()
    assert waiting(daemon) == [(0, None)]
    settings["speakers"]["sample_age"] = "0s"
    daemon.rewrite(settings)
    daemon.start()
    until(lambda: (waiting(daemon) or [(9,)])[0][0] >= 1, what="an attempt")
    daemon.kill()  # what has failed is remembered, too
    failed = waiting(daemon)
    assert failed and failed[0][0] >= 1 and "no plugin stores audio" in failed[0][1]
    daemon.start()
    until(lambda: samples(daemon, "given_up") == 1, what="it is given up")
    assert samples(daemon, "again") == 2 - failed[0][0] and not embedder.asked
    assert daemon.status()["sessions"]["speaker_samples"]["given_up"] == 1
    assert daemon.logged("a sample of a voice is given up.*attempts=3")
    until(lambda: rows(daemon, "SELECT status, attempts FROM speaker_sample") == [(2, 3)], what="that to be stored")


def test_sample_from_stored_audio(start_daemon, embedder, talker):
    """The audio is not in memory: nothing was kept before the first speaker, and the daemon has crashed meanwhile."""
    settings = with_speakers(embedder, {"sample_age": "1h", "sample_attempts": 100})
    settings["plugin storage"] = {"append": "100ms"}
    daemon = start_daemon(settings)
    t = talker(daemon, "ann")
    t.utter(CID, 4.0, speaker=2)
    t.assign(t.utter(constant(CID, 5) + constant(BEN, 10) + constant(CID, 5), speaker=1), "p-ben", "Ben")
    until(lambda: len(waiting(daemon)) == 1, what="the sample waits")
    t.assign([s for s in t.segments.values() if s["speaker_id"] == 2][0], "p-cid", "Cid")
    until(lambda: len(waiting(daemon)) == 2, what="both samples wait")
    spool = daemon.dir / "state" / "plugins" / "storage"
    until(lambda: sum(f.stat().st_size for f in spool.rglob("*") if f.is_file()) >= 2 * RATE * (4 + 10 + 20),
          what="the audio is on disk")
    daemon.kill()
    settings["speakers"]["sample_age"] = "0s"
    daemon.rewrite(settings)
    daemon.start()
    until(lambda: sorted(voices(daemon, "ann")) == [("p-ben", 0), ("p-cid", 0)], what=lambda: "the voices; %s %s" % (
        waiting(daemon), [a.fault for a in embedder.asked]))
    assert sorted(round(a.seconds) for a in embedder.asked) == [4, 10]
    t = talker(daemon, "ann")
    for number, voice in enumerate((BEN, CID)):
        t.utter(voice, speaker=50 + number)
        assert t.suggested(number + 1)["person_name"] == ("Ben", "Cid")[number]


def test_sample_from_stored_audio_is_of_the_session_that_heard_it(start_daemon, embedder, talker):
    """Two sessions of one user speak at the same time into one conversation, and the daemon has crashed meanwhile: once
    while their audio is spooled, once more when it is stored."""
    settings = with_speakers(embedder, {"sample_age": "1h", "sample_attempts": 100})
    settings["plugin storage"] = {"append": "100ms"}
    daemon = start_daemon(settings)
    desk, phone_ = talker(daemon, "ann", source="desk"), talker(daemon, "ann", source="phone")
    desk.words = 100
    near, far = desk.utter(BEN, 6.0, speaker=1), phone_.utter(CID, 6.0, speaker=2)
    phone_.assign(near, "p-ben", "Ben")
    desk.assign(far, "p-cid", "Cid")
    until(lambda: len(waiting(daemon)) == 2, what="both samples wait")
    spool = daemon.dir / "state" / "plugins" / "storage" / "spool"
    until(lambda: sum(f.stat().st_size for f in spool.glob("*")) >= 2 * 2 * RATE * 16, what="the audio is on disk")
    daemon.kill()
    index = lambda: [line.split() for f in (spool.parent / "index").glob("*/*") for line in f.read_text().splitlines()]
    daemon.rewrite(settings)
    daemon.start()
    until(lambda: len(index()) >= 2 and not list(spool.glob("*")), what="it is stored")
    assert len({line[-2] for line in index()}) == 2, "each session's is told apart"
    assert len(waiting(daemon)) == 2
    daemon.kill()
    settings["speakers"]["sample_age"] = "0s"
    daemon.rewrite(settings)
    daemon.start()
    until(lambda: sorted(voices(daemon, "ann")) == [("p-ben", 0), ("p-cid", 0)], what=lambda: "the voices; %s" % (
        waiting(daemon),))
    heard = [a.vector for a in embedder.asked]
    assert len(heard) == 2 and all(embedding([v] * RATE) in heard for v in (BEN, CID)), "not a mix of both"


def test_peers_that_are_not_there(start_daemon, embedder, talker, authority):
    """Nobody listens; then it does, over TLS, with a certificate that is not trusted, and then is."""
    secure = Embedder(authority.server_context())
    settings = with_speakers(embedder)
    settings["plugin diarizer"]["url"] = "http://127.0.0.1:1/base"
    try:
        daemon = start_daemon(settings)
        until(lambda: daemon.metric("omid_plugin_diarizer_health_total", result="failed") == 1, what="no health")
        t = talker(daemon, "ann")
        name_somebody(daemon, t)
        until(lambda: samples(daemon, "again") >= 2, what="attempts in vain")
        settings["plugin diarizer"]["url"] = secure.url + "/base"
        daemon.rewrite(settings)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.metric("omid_plugin_diarizer_requests_total", outcome="unreached") and daemon.logged(
            "self.signed|certificate"), what="it is not trusted")
        assert not secure.asked
        settings["plugin diarizer"]["tls"] = {"ca": authority.ca}
        daemon.rewrite(settings)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: voices(daemon, "ann") == [("p-ben", 0)], what=lambda: "the voice; %s" % waiting(daemon))
        assert secure.asked and not secure.asked[-1].fault and not t.closed
    finally:
        secure.stop()


# ----------------------------------------------------------------- the owner's profile


def wav(pcm, rate=RATE, channels=1, bits=16, kind=1, said=None):
    """A WAV file; said: the length that its header claims."""
    said = len(pcm) if said is None else said
    return b"RIFF" + struct.pack("<I", min(said + 36, 0xffffffff)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits) + b"data" + \
        struct.pack("<I", said) + pcm


def form(data, name="file", filename="voice.wav", boundary="xyz", end=True):
    return (b"--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\nContent-Type: audio/wav\r\n\r\n"
            % (boundary.encode(), name.encode(), filename.encode()) + data +
            (b"\r\n--%s--\r\n" % boundary.encode() if end else b""))


def upload(daemon, body, content_type="audio/wav", uid="ann"):
    return request(daemon, "POST", "/v1/speech-profile", uid, body, content_type)


def owner_words():
    """Six seconds of one man."""
    return recording("goforward.raw") + recording("numbers.raw")


def with_profile(peer, **speakers):
    return merge(with_speakers(peer, dict({"profile_min": "5s"}, **speakers)), {
        "plugin vad": {}, "ingress": {"max_body": "8MiB"}})


def test_profile(start_daemon, embedder, talker):
    daemon = start_daemon(with_profile(embedder))
    assert request(daemon, "GET", "/v1/speech-profile", "ann") == (200, {"has_profile": False, "samples": 0})
    assert request(daemon, "DELETE", "/v1/speech-profile", "ann")[0] == 404
    words = owner_words()
    status, said = upload(daemon, wav(words))
    assert status == 200 and said["has_profile"] and abs(said["seconds"] - len(words) / 32000) < 0.01, said
    assert 3 < said["speech_seconds"] <= said["seconds"]
    status, got = request(daemon, "GET", "/v1/speech-profile", "ann")
    assert got == {"has_profile": True, "created_at": said["created_at"], "samples": 0,
                   "speech_seconds": said["speech_seconds"]}
    assert request(daemon, "GET", "/v1/speech-profile", "eve")[1]["has_profile"] is False

    # The owner is recognised; a session that was there before the profile knows it, too.
    t = talker(daemon, "ann")
    mine = t.utter(recording("something.raw"), speaker=1)
    t.suggested()
    until(lambda: t.current(mine)["is_user"], what="the owner")
    t.utter(recording("-0930.wav"), speaker=2)
    until(lambda: questions(daemon, "nobody") == 1, what="somebody else")
    # Other formats, and a form, take the place of the former.
    stereo = b"".join(words[i:i + 2] * 2 for i in range(0, len(words), 2))
    samples_ = struct.unpack("<%dh" % (len(words) // 2), words)
    floats = struct.pack("<%df" % len(samples_), *(s / 32768 for s in samples_))
    repeated = b"".join(words[i:i + 2] * 12 for i in range(0, len(words), 2))  # 192 kHz
    for body, kind in ((wav(stereo, channels=2), "audio/x-wav"), (wav(floats, bits=32, kind=3), "audio/wave"),
                       (wav(repeated, rate=192000), "audio/wav"), (wav(words, said=0xffffffff), "audio/wav"),
                       (form(wav(words), filename="../../etc/passwd"), 'multipart/form-data; boundary="xyz"')):
        status, said = upload(daemon, body, kind)
        assert status == 200 and abs(said["seconds"] - len(words) / 32000) < 0.05, (kind, said)
    assert voices(daemon, "ann") == [("user", 1)]
    t.utter(recording("something.raw"), speaker=3)
    t.suggested(2)
    assert request(daemon, "DELETE", "/v1/speech-profile", "ann") == (204, None)
    nobody = questions(daemon, "nobody")
    failed = questions(daemon, "owner")
    holds(lambda: not t.utter(recording("something.raw"), speaker=3)["is_user"], 0.3)
    assert questions(daemon, "owner") == failed and questions(daemon, "nobody") == nobody  # there is nobody to compare with


def test_recordings_that_are_none(start_daemon, embedder):
    daemon = start_daemon(with_profile(embedder))
    words = owner_words()
    noise = bytes(range(256)) * 2000
    cases = [
        (b"", "audio/wav", 400, "file: it is empty"),
        (b"<html>", "audio/wav", 400, "file: not a RIFF file"),
        (wav(words), "text/plain", 415, "Content-Type: expected audio/wav"),
        (wav(words), "", 415, "Content-Type: expected audio/wav"),
        (wav(b""), "audio/wav", 400, "file: it holds no audio"),
        (wav(b"ab"), "audio/wav", 400, "file: 0.0 s of audio, at least 5 s"),
        (wav(words[:32000]), "audio/wav", 400, "file: 1.0 s of audio, at least 5 s"),
        (wav(words * 20, rate=8000), "audio/wav", 400, "at most 120 s"),
        (wav(words, said=len(words) * 2), "audio/wav", 400, "file: its header promises"),
        (wav(words, said=len(words) // 2), "audio/wav", 400, "file: its header promises"),
        (wav(words, channels=6), "audio/wav", 400, "file: 6 channels"),
        (wav(words, rate=4000), "audio/wav", 400, "file: a sample rate of 4000 Hz"),
        (wav(words, kind=85), "audio/wav", 400, "file: format 85"),
        (wav(b"\0\0\xc0\x7f" * RATE * 6, bits=32, kind=3), "audio/wav", 400, "file: sample 0 is not a number"),
        (wav(bytes(RATE * 12)), "audio/wav", 400, "file: it is silent"),
        (wav(struct.pack("<h", 32767) * RATE * 6), "audio/wav", 400, "file: it is clipped"),
        (wav(constant(1000, 6)), "audio/wav", 400, "s of speech"),
        (noise, "multipart/form-data; boundary=xyz", 400, "body: "),
        (form(wav(words)), "multipart/form-data", 400, "body: "),
        (form(wav(words), end=False), "multipart/form-data; boundary=xyz", 400, "body: "),
        (form(wav(words), name="other"), "multipart/form-data; boundary=xyz", 400, "file: none of the body's 1 parts"),
        (form(b""), "multipart/form-data; boundary=xyz", 400, "file: not a RIFF file"),
        (b"".join(form(b"x", end=False) + b"\r\n" for _ in range(10000)) + b"--xyz--\r\n",
         "multipart/form-data; boundary=xyz", 400, "body: "),
        (bytes(9 << 20), "audio/wav", 413, None),
    ]
    for body, kind, wanted, why in cases:
        try:
            status, said = upload(daemon, body, kind)
        except (ConnectionError, http.client.HTTPException):
            assert wanted == 413
            continue
        assert status == wanted and (why is None or why in said["error"]), (kind, status, said, why)
    assert not embedder.asked and daemon.healthz() == 200
    for answer, wanted in ((500, 503), (b"<html>", 503), (b"[0,0]", 503), (b"[1, NaN, 2]", 503), (b"[1e99, 1]", 503),
                           (b"[" + b"1," * 999999 + b"1]", 503), (422, 400), (429, 503)):
        embedder.on(answer)
        status, said = upload(daemon, wav(words))
        assert status == wanted and "voice" in said["error"], said
    assert voices(daemon, "ann") == []
    until(lambda: daemon.status()["sessions"]["memory_bytes"] == 0, what="all memory is given back")


def test_profile_while_the_hosted_vad_hangs(start_daemon, embedder, receiver):
    """Speech is looked for here when the service does not answer in time."""
    receiver.on("/detect", Answer(hang=True))
    settings = with_profile(embedder, profile_scan="300ms")
    settings["plugin vad"] = {"url": receiver.url("/detect")}
    daemon = start_daemon(settings)
    status, said = upload(daemon, wav(owner_words()))
    assert status == 200 and said["speech_seconds"] > 3, said
    assert len(receiver.at("/detect")) == 1 and voices(daemon, "ann") == [("user", 1)]
    status, said = upload(daemon, wav(constant(1000, 6)))
    assert status == 400 and "s of speech" in said["error"]


def test_profile_without_plugins(start_daemon, embedder):
    daemon = start_daemon({"listen": {"ping": "200ms"}})
    status, said = upload(daemon, b"x")
    assert status == 503 and "role embed" in said["error"]
    daemon.rewrite(with_speakers(embedder))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "role vad" in upload(daemon, b"x")[1]["error"], what="that speech can't be looked for")
