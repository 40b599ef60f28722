"""
In each step of an offline recording's life: killed, it goes on, nothing is lost and nothing is there twice; deleted,
nothing is left of it anywhere.
"""
import json
import time
from contextlib import contextmanager

import pytest

from support.daemon import merge
from support.model import SUMMARY, Model, says
from support.receiver import Answer
from support.s3 import S3
from support.store import rows, store_held
from support.wait import until
from test_storage import audio, bucket, folder, ramp, spool
from test_storage import wav as samples
from test_sync import NOON, ask, completed, conversations, finished, left, settings, transcript, upload, wav  # noqa: F401

HANG = Answer(hang=True)
SECONDS = 110
SOUND = b"".join(ramp(1, 16000, 10 * (i % 30)) for i in range(SECONDS))
# Two stretches that are asked for one by one, of one conversation.
SPEECH = (1.0, 100.0)
FIRST = Answer(body=transcript(("First.", 0.3, 0.9, 0)))
SECOND = Answer(body=transcript(("Second.", 0.3, 0.9, 1)))


def finds(delivery):
    """Where speech is, in what is sent of the recording."""
    at = delivery.body.index(b"data", delivery.body.index(b"WAVE")) + 8
    first = (int.from_bytes(delivery.body[at:at + 2], "little") / 100 - 1) / 10
    return Answer(body=json.dumps([{"start": s - first, "end": s - first + 1, "duration": 1}
                                   for s in SPEECH if s >= first]).encode())


def stretch(delivery):
    """Which of the two a request is about."""
    return 2 if int.from_bytes(delivery.body[44:46], "little") > 5000 else 1


def hears(delivery):
    return SECOND if stretch(delivery) == 2 else FIRST


class Life:
    """A recording, and all that it meets."""

    def __init__(self, start_daemon, phone, receiver, model, s3, base):
        self.receiver, self.model, self.s3, self.phone = receiver, model, s3, phone
        self.settings = merge(base, {
            "plugin vad": {"url": receiver.url("/vad"), "breaker": {"failures": 1000}},
            "plugin summary": {"url": model.base, "key": "k", "model": "m", "breaker": {"failures": 1000}},
            "plugin storage": bucket(s3, batch="60s", timeout="2s", breaker={"failures": 1000}),
            "plugin webhooks": {"memory_created": [receiver.url("/memory")], "timeout": "2s",
                                "breaker": {"failures": 1000}},
            "listen": {"conversation_timeout": "120s", "conversation_timeout_floor": "2s", "lifecycle_check": "50ms"},
            "processing": {"retry": "50ms", "retry_max": "100ms"}, "sync": {"running": 1}})
        self.well()
        self.start_at = NOON * 1000
        self.text = ["First.", "Second."]
        self.daemon = start_daemon(self.settings)

    def well(self):
        self.receiver.on("/vad", finds)
        self.receiver.on("/v1/listen", hears)
        self.receiver.on("/memory", Answer())
        self.model.script = lambda request: says(SUMMARY)
        self.s3.mode = "ok"

    def upload(self):
        self.job = upload(self.daemon, [("a.wav", wav(SOUND), self.start_at)])

    def row(self):
        found = rows(self.daemon, "SELECT status, stored, attempts, progress FROM recording WHERE hash = ?",
                     self.job["files"][0]["sha256"])
        return found[0] if found else None

    def asked(self):
        return len(self.receiver.at("/v1/listen"))

    def stretches(self):
        return [stretch(x) for x in self.receiver.at("/v1/listen")]


@contextmanager
def received(life):
    """Another one of the user's is worked on, too short for any speech in it."""
    life.receiver.on("/vad", HANG)
    other = upload(life.daemon, [("other.wav", wav(ramp(1, 16000)), NOON + 100000)])
    until(lambda: life.receiver.at("/vad"), what="the other one to be worked on")
    life.upload()
    assert life.row()[:2] == (0, 0)
    yield
    life.other = other


@contextmanager
def split(life):
    life.receiver.on("/vad", HANG)
    life.upload()
    until(lambda: life.receiver.at("/vad") and life.row()[0] == 1, what="the question where speech is")
    assert any(name.endswith(".pcm") for name in left(life.daemon))
    yield


@contextmanager
def transcribed(life):
    life.receiver.on("/v1/listen", HANG)
    life.upload()
    until(lambda: life.asked() == 1 and life.row()[0] == 1, what="the first question")
    yield


@contextmanager
def half_transcribed(life):
    life.receiver.on("/v1/listen", FIRST, HANG)
    life.upload()
    until(lambda: life.asked() == 2, what="the second question")
    assert life.row()[:2] == (1, 0)
    yield


@contextmanager
def transcribed_in_vain(life):
    """The second stretch fails, and it is to be tried again."""
    life.receiver.on("/v1/listen", FIRST, Answer(status=400))
    life.upload()
    until(lambda: life.row()[2] > 0, what="it to be put off")
    yield


@contextmanager
def waiting_for_a_conversation(life):
    """A live one that it belongs to."""
    p = life.phone(life.daemon, uid="ann", custom_stt="enabled", conversation_timeout=3).wait_ready()
    p.send({"type": "suggested_transcript", "segments": [
        {"text": "Live words.", "speaker": "SPEAKER_00", "speaker_id": 0, "is_user": True, "start": 0.0, "end": 1.0}]})
    until(lambda: rows(life.daemon, "SELECT 1 FROM segment"), what="the live transcript")
    life.start_at = int(time.time() * 1000) - 50000  # its middle is now
    life.text = ["First.", "Live words.", "Second."]
    life.upload()
    until(lambda: life.daemon.metric("omid_sync_waiting") == 1, what="it to wait")
    yield


@contextmanager
def merged(life):
    """All is said, and the store has nothing of it."""
    life.receiver.on("/v1/listen", FIRST, Answer(body=SECOND.body, drip=0.002))
    life.upload()
    until(lambda: life.asked() == 2, what="the second question")
    with store_held(life.daemon):
        until(lambda: life.receiver.at("/v1/listen")[1].answered, what="the answer")
        life.daemon.healthz()
        yield


@contextmanager
def audio_refused(life):
    """Its transcript is where it belongs, and nobody takes its audio."""
    life.daemon.stop()
    life.daemon.rewrite(merge(life.settings, {"plugin storage": {"spool_max": "1MiB"}}))
    life.daemon.start()
    life.upload()
    until(lambda: life.row()[:2] == (2, 0) and life.row()[2] > 0, what="it to be put off")
    life.daemon.rewrite(life.settings)
    yield


@contextmanager
def audio_on_its_way(life):
    life.s3.mode = "hang"
    life.upload()
    until(lambda: life.row()[:2] == (2, 1) and spool(life.daemon) and life.s3.seen, what="a request to the bucket")
    yield


@contextmanager
def audio_arrived(life):
    """And nobody was told."""
    life.s3.mode = "lost"
    life.upload()
    until(lambda: life.s3.objects, what="an object")
    yield


@contextmanager
def processed(life):
    life.model.script = lambda request: HANG
    life.upload()
    until(lambda: life.model.deliveries and life.row()[0] == 2, what="the question for a summary")
    assert [c["status"] for c in conversations(life.daemon)] == ["processing"]
    yield


@contextmanager
def delivered(life):
    life.receiver.on("/memory", HANG)
    life.upload()
    until(lambda: life.receiver.at("/memory"), what="the delivery")
    yield


@contextmanager
def over(life):
    life.upload()
    completed(life.daemon, 1)
    until(lambda: life.receiver.at("/memory") and not spool(life.daemon), what="all of it")
    yield


STEPS = [received, split, transcribed, half_transcribed, transcribed_in_vain, waiting_for_a_conversation, merged, audio_refused,
         audio_on_its_way, audio_arrived, processed, delivered, over]


@pytest.fixture
def life(start_daemon, phone, receiver, settings):  # noqa: F811
    model, s3 = Model(), S3()
    yield Life(start_daemon, phone, receiver, model, s3, settings)
    model.stop()
    s3.stop()


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.__name__)
def test_killed(life, step):
    d = life.daemon
    with step(life):
        d.kill()
    life.well()
    before = life.asked()
    d.start()
    f, = finished(d, life.job)["files"]
    assert f["status"] == "done" and f["seconds"] == SECONDS
    if step is received:
        assert finished(d, life.other)["files"][0]["status"] == "skipped"
    mine, = completed(d, 1)
    assert f["conversation_ids"] == [mine["id"]]
    whole = ask(d, "GET", "/v1/conversations/" + mine["id"])[1]
    said = [(s["text"], s["start"]) for s in sorted(whole["transcript_segments"], key=lambda s: s["start"])]
    assert [text for text, _ in said] == life.text, said
    assert whole["structured"]["title"] == SUMMARY["title"] and whole.get("error") is None
    # What was transcribed before is not asked, nor paid, for again.
    again = {received: [1, 2], split: [1, 2], transcribed: [1, 2], half_transcribed: [2], transcribed_in_vain: [2],
             merged: [2]}.get(step, [])
    assert life.stretches()[before:] == again
    # Its audio, each sample once, from a second before its first word to one behind its last.
    until(lambda: rows(d, "SELECT 1 FROM recording WHERE stored = 0") == [] and not spool(d), what="its audio")
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))
    assert finished(d, life.job)["files"][0]["error"] is None
    sound = samples(audio(d, mine["id"])[1])
    assert sound == SOUND[:len(sound)] if step is waiting_for_a_conversation else sound in SOUND, len(sound)
    assert 99 * 32000 < len(sound) < SECONDS * 32000
    # Nobody heard of it under two ids.
    told = lambda: [x for x in life.receiver.at("/memory") if x.json["id"] == mine["id"]]
    joined = step is waiting_for_a_conversation  # which was over, and told, before
    until(lambda: [x for x in told() if x.json["revision"] == joined], what="the delivery")
    by_revision = {x.json["revision"]: (x.headers["webhook-id"], len(x.json["transcript_segments"])) for x in told()}
    assert len({x.headers["webhook-id"] for x in told()}) == len(by_revision), by_revision
    assert {r: n for r, (_, n) in by_revision.items()} == ({0: 1, 1: 3} if joined else {0: 2})
    # Sent again, it is known.
    assert upload(d, [("b.wav", wav(SOUND), life.start_at)])["files"][0]["duplicate"] is True


@pytest.mark.parametrize("where", ["merged", "processed", "told"])
def test_killed_while_it_is_told_again(life, where):
    """Another recording has joined a conversation that was told: wherever that is cut off, it is told once, anew."""
    d = life.daemon
    with over(life):
        pass
    mine, = conversations(d)
    before = life.asked()
    life.receiver.on("/v1/listen", Answer(body=transcript(("Third.", 0.3, 0.9, 2)), drip=0.002))
    more = wav(ramp(2, 16000, 10))
    if where == "processed":
        life.model.script = lambda request: HANG
    if where == "told":
        life.receiver.on("/memory", HANG)
    job = upload(d, [("c.wav", more, NOON + 130)])
    if where == "merged":
        until(lambda: life.asked() > before and life.receiver.at("/v1/listen")[-1].answered and
              rows(d, "SELECT count(*) FROM recording WHERE status = 2") == [(2,)], what="the merge")
    elif where == "processed":
        asked = len(life.model.deliveries)
        until(lambda: len(life.model.deliveries) > 1 and rows(d, "SELECT 1 FROM conversation WHERE status = 1"),
              what="the question for a summary")
    else:
        until(lambda: len(life.receiver.at("/memory")) == 2, what="the delivery")
    d.kill()
    life.well()
    d.start()
    assert finished(d, job)["files"][0]["conversation_ids"] == [mine["id"]]
    completed(d, 1)
    told = lambda: [(x.json["revision"], x.headers["webhook-id"], len(x.json["transcript_segments"]))
                    for x in life.receiver.at("/memory") if x.answered]
    until(lambda: any(t[0] == 1 for t in told()), what="the delivery")
    assert sorted((revision, n) for revision, _, n in set(told())) == [(0, 2), (1, 3)], told()


@pytest.mark.parametrize("killed", [False, True], ids=["running", "killed"])
@pytest.mark.parametrize("step", [audio_refused, audio_on_its_way, audio_arrived, processed, delivered, over],
                         ids=lambda s: s.__name__)
def test_deleted(life, step, killed):
    """By its user, while its audio is stored or its end goes on: nothing of it comes late."""
    d = life.daemon
    with step(life):
        mine, = conversations(d)
        assert ask(d, "DELETE", "/v1/conversations/" + mine["id"])[0] == 204
        until(lambda: not rows(d, "SELECT 1 FROM deleted"), what="all to be told for good")
        until(lambda: audio(d, mine["id"])[0] == 404, what="its audio not to be told any more")
        if killed:
            d.kill()
    life.well()
    if killed:
        d.start()
    elif step is audio_refused:
        d.stop()
        d.start()
    until(lambda: rows(d, "SELECT 1 FROM recording WHERE stored = 0") == [] and not spool(d), what="the spool to be empty")
    until(lambda: not life.s3.objects and not list(folder(d, "index").glob("*/*")),
          what=lambda: "nothing to be left of it: %s" % sorted(life.s3.objects))
    until(lambda: sum(d.metric("omid_queue_jobs", state=s) for s in ("ready", "delayed", "leased")) == 0, what="no jobs")
    assert audio(d, mine["id"])[0] == 404 and conversations(d) == [] and not life.s3.objects and not spool(d)
    until(lambda: left(d) == [], what=lambda: "no files left: %s" % left(d))
    assert finished(d, life.job)["status"] == "completed"
