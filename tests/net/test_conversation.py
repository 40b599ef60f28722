"""
A conversation as people have them, on the local engine and in real time: recorded sentences with pauses between them, for a
minute. OMID_CONVERSATION names other seconds; tests/check --soak talks for five minutes.
"""
import json
import os
import sqlite3
import urllib.error
import urllib.request
import wave
from pathlib import Path

import pytest

from support.wait import until

SECONDS = int(os.environ.get("OMID_CONVERSATION", "60"))
RATE = 16000
PING_S = 2
PAUSES = (0.7, 1.5, 0.9, 3.0)
RECORDINGS = Path("/usr/share/pocketsphinx/test/data")
# What each recording says and the engine hears, with the daemon's settings of it; CERTAIN is heard each time.
CERTAIN = "go forward"
SENTENCES = (("goforward.raw", "go forward ten meters"), ("cards/001.wav", ""), ("cards/005.wav", ""),
             ("librivox/sense_and_sensibility_01_austen_64kb-0880.wav", ""),
             ("librivox/sense_and_sensibility_01_austen_64kb-0930.wav", ""))


def samples(path):
    if path.suffix == ".raw":
        return path.read_bytes()
    with wave.open(str(path)) as w:
        assert (w.getframerate(), w.getnchannels(), w.getsampwidth()) == (RATE, 1, 2)
        return w.readframes(w.getnframes())


def talk():
    """At least SECONDS of speech and pauses, and what must be heard of it: (from, until, words)."""
    pcm, certain, turn = bytearray(), [], 0
    while len(pcm) < 2 * RATE * SECONDS:
        name, words = SENTENCES[turn % len(SENTENCES)]
        began = len(pcm)
        pcm += samples(RECORDINGS / name)
        if words:
            certain.append((began / 2 / RATE, len(pcm) / 2 / RATE, words))
        pcm += bytes(2 * int(RATE * PAUSES[turn % len(PAUSES)]))
        turn += 1
    return bytes(pcm), certain


def stored(daemon, uid, conversation):
    """The conversation as REST gives it, or as the store has it where there is no such route."""
    request = urllib.request.Request("http://%s/v1/conversations/%s" % (daemon.address, conversation),
                                     headers={"Authorization": "Bearer " + daemon.admin_key + uid})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        assert e.code == 404, e
    db = sqlite3.connect("file:%s?mode=ro" % (daemon.dir / "state" / "store.db"), uri=True, timeout=30)
    try:
        row = db.execute("SELECT n, status FROM conversation WHERE id = ? AND uid = ?", (conversation, uid)).fetchone()
        rows = [] if row is None else db.execute(
            "SELECT id, text, start, \"end\" FROM segment WHERE conversation = ? ORDER BY start, n", (row[0],)).fetchall()
    finally:
        db.close()
    if row is None:
        return None
    return {"status": "completed" if row[1] == 2 else row[1],
            "transcript_segments": [dict(zip(("id", "text", "start", "end"), r)) for r in rows]}


@pytest.mark.timeout(300 + 3 * SECONDS)
def test_conversation_in_real_time(start_daemon, phone, receiver, have_sphinx):
    if not have_sphinx:
        pytest.skip("built without the sphinx plugin")
    daemon = start_daemon({
        "stt": {"models": ["sphinx"]}, "plugin sphinx": {}, "plugin webhooks": {"memory_created": receiver.url("/memory")},
        "listen": {"ping": "%ds" % PING_S, "conversation_timeout_floor": "2s"},
    })
    pcm, certain = talk()
    p = phone(daemon, sample_rate=RATE, codec="pcm16", conversation_timeout=30).wait_ready(60)
    heard_after = []
    for at in range(0, len(pcm), 2 * RATE * 10):  # ten seconds at a time, and what has come by then
        p.play(pcm[at:at + 2 * RATE * 10])
        assert not p.closed, (p.close_code, p.close_reason)
        heard_after.append(len(p.batches))
    # The connection is held and alive, and segments came while it was spoken, not at its end.
    assert p.pings >= len(pcm) / 2 / RATE / PING_S / 2, p.pings
    assert heard_after[len(heard_after) // 2] > heard_after[0] >= 0, heard_after
    assert len(set(heard_after)) > len(heard_after) // 3, heard_after

    def said():
        return " ".join(p.text().lower().replace(".", " ").split())
    # The engine adapts to what it hears: the same recording may lose a word the next time.
    until(lambda: said().count(CERTAIN) >= len(certain) and certain[0][2] in said(), 60,
          lambda: "%d times %r in %r" % (len(certain), CERTAIN, said()))
    spoken = sorted(p.segments.values(), key=lambda s: s["start"])
    assert all(0 <= s["start"] < s["end"] <= len(pcm) / 2 / RATE + 1 for s in spoken), spoken
    for began, ended, words in certain:  # at the moment when it was said
        assert any(s["start"] < ended and s["end"] > began for s in spoken), (began, ended, words)
    conversation, = [m["conversation_id"] for m in p.of_type("conversation_session")]
    count = -1
    while count != len(p.batches):  # what is still being decoded comes before the client leaves
        count = len(p.batches)
        p.play(bytes(2 * RATE * 5))
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session to end")

    # Without a session its timeout passes: it is processed, stored and told.
    until(lambda: receiver.at("/memory"), 120, what=lambda: "the webhook:\n" + daemon.log_tail())
    told, = receiver.at("/memory")
    assert told.query["uid"] == [p.uid] and told.json["id"] == conversation
    until(lambda: stored(daemon, p.uid, conversation)["status"] == "completed", what="its end in the store")
    kept = stored(daemon, p.uid, conversation)
    texts = {s["id"]: s["text"] for s in kept["transcript_segments"]}
    assert texts == {s["id"]: s["text"] for s in told.json["transcript_segments"]}, (kept, told.json)
    # A busy machine may decode the last words when the client has left: all that it was told is there.
    assert all(texts[s["id"]].startswith(s["text"]) for s in p.segments.values()), (texts, p.segments)
