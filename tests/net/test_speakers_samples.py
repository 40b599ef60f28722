"""Samples of voices, taken of those whom a user names: when, of what, and after what may come between."""
import signal

from support.embedder import Embedder, constant, embedding
from support.speakers import BEN, CID, RATE, embedder, samples, talker, voices, waiting, with_speakers  # noqa: F401
from support.store import rows
from support.wait import holds, until


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
