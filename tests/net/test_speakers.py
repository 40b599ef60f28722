"""Who speaks, by the voice: recognised live, with an embedding service that may misbehave, and the people whom users name."""
import itertools
import json
import shutil
import struct
import subprocess
import wave

import pytest

from support.daemon import merge
from support.embedder import angle, apart, constant, distance
from support.speakers import (  # noqa: F401
    BEN, CID, OWNER, RATE, STRANGER, embedder, introduce, leave, partner, questions, recording, request, talker,
    voices, waiting, with_speakers)
from support.store import rows
from support.wait import SLOW, holds, until


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
    daemon.metric_is("async_drain_timeout_total", 1)
    assert daemon.metric("omid_supervisor_stuck_total") == 0
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
    daemon.metric_reaches("omid_speaker_no_room_total", 1)
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
