"""Speech-to-text with Deepgram: what the peer is asked and sent, and everything it can do wrong."""
import json
import re

import pytest

from support.daemon import merge
from support.deepgram import Mode, result
from support.settings import KEY, with_deepgram, with_sphinx
from support.wait import holds, until

VALUE = 1000


def numbers(phone, value=VALUE):
    """The numbers of the results in the transcript, in the order of their time; each follows its speaker's value."""
    assert re.fullmatch(r"(v%d n\d+\. ?)*" % value, phone.text()), phone.text()
    return [int(n) for n in re.findall(r"n(\d+)\.", phone.text())]


def heard(phone, count, value=VALUE):
    until(lambda: len(numbers(phone, value)) >= count, what=lambda: "%d results, not %r" % (count, phone.text()))


def keeps_connection(daemon, phone):
    """omid answers, and the client is alive: it is pinged and takes audio."""
    assert daemon.healthz() == 200
    pings = phone.pings
    until(lambda: phone.pings > pings or phone.closed, what="another ping")
    assert not phone.closed, (phone.close_code, phone.close_reason)
    phone.speak(0.1)


def leaves_nothing(daemon, peer):
    until(lambda: daemon.sessions() == 0, what=lambda: "sessions to end: %s" % daemon.sessions())
    until(lambda: not peer.live(), what="the peer's streams to end")


# ------------------------------------------------------------------- the normal way


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_stream(start_daemon, phone, request, authority, secure):
    peer = request.getfixturevalue("deepgram_tls" if secure else "deepgram")
    peer.key = KEY
    daemon = start_daemon(with_deepgram(peer, keyterms=["omid", "two words"]),
                          {"SSL_CERT_FILE": str(authority.ca)} if secure else None)
    p = phone(daemon, language="en", sample_rate=16000).wait_ready()
    p.speak(2.0, VALUE)
    heard(p, 4)
    p.close()
    leaves_nothing(daemon, peer)

    stream, = peer.streams
    assert stream.attempt.path.split("?")[0] == "/v1/listen"
    assert stream.attempt.query == {
        "punctuate": ["true"], "no_delay": ["true"], "endpointing": ["300"], "language": ["multi"],
        "interim_results": ["false"], "smart_format": ["true"], "profanity_filter": ["false"], "diarize": ["true"],
        "filler_words": ["false"], "channels": ["1"], "multichannel": ["false"], "model": ["nova-3"],
        "sample_rate": ["16000"], "encoding": ["linear16"], "keyterm": ["omid", "two words"]}
    assert stream.attempt.headers["authorization"] == "Token " + KEY
    assert stream.audio == 2 * 32000 and set(stream.values) == {VALUE}
    assert stream.empty_frames == 0
    assert stream.kinds() == ["CloseStream"] and stream.close_code == 1000
    assert numbers(p) == [1, 2, 3, 4]
    assert {s["stt_provider"] for s in p.segments.values()} == {"dg-nova-3"}
    assert KEY not in daemon.log()


def test_certificate_of_a_stranger_is_refused(start_daemon, deepgram_tls, phone):
    daemon = start_daemon(with_deepgram(deepgram_tls, connect_attempts=1))
    p = phone(daemon)
    until(lambda: p.closed, what="the end")
    assert p.close_code == 1011
    assert not deepgram_tls.attempts


def test_language_that_is_not_served(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon, language="tlh")
    until(lambda: p.closed, what="the refusal")
    assert (p.close_code, p.close_reason) == (1008, "The language is not supported, tlh")
    assert not deepgram.attempts


def test_second_model_serves_what_the_first_does_not(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram, models=("dg-nova-3", "dg-nova-2"), keyterms=["omid"]))
    phone(daemon, language="zh").wait_ready()
    query = deepgram.streams[0].attempt.query
    assert (query["model"], query["language"], query["keywords"]) == (["nova-2"], ["zh"], ["omid"])
    assert query["filler_words"] == ["true"] and "keyterm" not in query


def test_speakers(start_daemon, deepgram, phone):
    deepgram.default = Mode(every=1.0, words=lambda value, n: [("Hello", 0), ("there.", 0), ("Yes?", 1), ("No.", 0)])
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    until(lambda: len(p.segments) == 3, what=lambda: "three segments: %s" % p.segments)
    assert [(s["speaker"], s["text"]) for s in sorted(p.segments.values(), key=lambda s: s["start"])] == [
        ("SPEAKER_00", "Hello there."), ("SPEAKER_01", "Yes?"), ("SPEAKER_00", "No.")]


def test_keepalive_only_while_no_audio_is_sent(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram, keepalive="400ms"))
    p = phone(daemon).wait_ready()
    stream, = deepgram.streams
    until(lambda: stream.kinds().count("KeepAlive") >= 2, what="KeepAlives")
    p.speak(1.0)
    heard(p, 2)
    until(lambda: stream.texts[-1][0] > stream.audio_times[-1], what="KeepAlive after the audio")
    for at, kind in stream.texts:
        before = [t for t in stream.audio_times if t < at]
        assert kind == "KeepAlive" and (not before or at - before[-1] >= 0.35)
    assert stream.empty_frames == 0


# -------------------------------------------------------------- faults of the handshake

REFUSALS = {
    "400": (Mode(status=400), 1), "401": (Mode(status=401), 1), "403": (Mode(status=403), 1),
    "429": (Mode(status=429), 3), "500": (Mode(status=500), 3), "hang": (Mode(hang=True), 3),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_refused_and_the_next_provider_takes_over(start_daemon, deepgram, phone, fault):
    mode, attempts = REFUSALS[fault]
    deepgram.default = mode
    daemon = start_daemon(with_sphinx(with_deepgram(deepgram, connect_timeout="500ms")))
    p = phone(daemon)
    until(lambda: deepgram.attempts, what="the first attempt")
    keeps_connection(daemon, p)
    p.wait_ready(60)
    keeps_connection(daemon, p)
    assert len(deepgram.attempts) == attempts
    configuration = daemon.logged("configuration: Deepgram")
    assert bool(configuration) == (fault in ("400", "401", "403"))
    assert KEY not in daemon.log()
    p.close()
    leaves_nothing(daemon, deepgram)


def test_next_provider_hears_everything(start_daemon, deepgram, phone, speech):
    deepgram.default = Mode(status=500)
    daemon = start_daemon(with_sphinx(with_deepgram(deepgram)))
    p = phone(daemon, sample_rate=16000)
    p.play(speech + bytes(2 * 16000), speed=2.0)
    until(lambda: "forward" in p.text().lower(), 60, what=lambda: "the words of the recording: %r" % p.text())
    assert {s["stt_provider"] for s in p.segments.values()} == {"sphinx"}
    assert not p.closed


@pytest.mark.parametrize("modes", [[Mode(status=500), Mode(status=429)], [Mode(hang=True)]], ids=["500-429", "hang"])
def test_recovers_within_the_sequence(start_daemon, deepgram, phone, modes):
    deepgram.script(*modes)
    daemon = start_daemon(with_deepgram(deepgram, connect_timeout="500ms"))
    p = phone(daemon)
    p.speak(1.0)  # said before anybody listens
    p.wait_ready()
    heard(p, 2)
    assert len(deepgram.attempts) == len(modes) + 1
    assert deepgram.streams[0].audio == 16000


def test_nobody_is_left(start_daemon, deepgram, phone):
    deepgram.default = Mode(status=500)
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon)
    until(lambda: p.closed, what="the end")
    assert p.close_code == 1011
    failed = p.of_type("service_status")[-1]
    assert failed["status"] == "stt_failed" and failed["provider"] == "dg-nova-3"
    assert set(failed) >= {"outcome", "provider", "retryable", "reason"} and failed["retryable"] is True
    assert len(deepgram.attempts) == 3
    assert daemon.healthz() == 200
    leaves_nothing(daemon, deepgram)


def test_a_wrong_key_is_not_retryable(start_daemon, deepgram, phone):
    deepgram.key = "another"
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon)
    until(lambda: p.closed, what="the end")
    assert p.close_code == 1011 and p.of_type("service_status")[-1]["retryable"] is False
    assert len(deepgram.attempts) == 1
    line, = daemon.logged("configuration: Deepgram")
    assert "401" in line and KEY not in daemon.log()


# ----------------------------------------------------------------- the client leaves


def test_client_leaves_between_two_attempts(start_daemon, deepgram, phone):
    deepgram.default = Mode(status=500)
    # The pause is 1 s to 2 s: a retry that goes on would be seen.
    daemon = start_daemon(with_deepgram(deepgram, backoff="1s", backoff_max="2s"))
    p = phone(daemon)
    until(lambda: deepgram.attempts, what="the first attempt")
    p.hang_up()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    holds(lambda: len(deepgram.attempts) == 1, 3.0, "an attempt for a client that has left")


def test_client_leaves_during_an_attempt(start_daemon, deepgram, phone):
    deepgram.default = Mode(hang=True)
    daemon = start_daemon(with_deepgram(deepgram, connect_timeout="120s", timeout="300s"))
    p = phone(daemon)
    until(lambda: deepgram.attempts, what="the first attempt")
    p.hang_up()
    # Long before the attempt's own limit.
    until(lambda: deepgram.attempts[0].gone, what="the attempt's end")
    until(lambda: daemon.sessions() == 0, what="the session's end")
    holds(lambda: len(deepgram.attempts) == 1, 1.0, "an attempt for a client that has left")


# ------------------------------------------------------------------ faults in mid-stream

LOSSES = {"reset": Mode(drop_after=1.2), "close-1011": Mode(close_after=(1.2, 1011)),
          "close-1000": Mode(close_after=(1.2, 1000))}


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_in_mid_stream(start_daemon, deepgram, phone, loss):
    deepgram.script(LOSSES[loss])
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(3.0)
    # Whatever the first stream made final is not said again, and everything else is: six results of half a second.
    heard(p, 6)
    keeps_connection(daemon, p)
    p.close()
    leaves_nothing(daemon, deepgram)
    assert len(deepgram.streams) == 2
    found = numbers(p)
    assert any(found == [*range(1, kept + 1), *range(1, 6 - kept + 1)] for kept in (0, 1, 2)), found
    ends = max(s["end"] for s in p.segments.values())
    assert 2.9 <= ends <= 3.3, "the clock of the transcript goes on: %s" % ends


ERROR = '{"type":"Error","description":"scripted","message":"scripted","variant":"NET"}'
# What the attempts of a session meet in turn, after which everything is well.
FAILOVERS = {
    "reset": [Mode(drop_after=1.2)],
    "reset-at-a-result": [Mode(drop_after=1.0)],
    "close-1000": [Mode(close_after=(1.2, 1000))],
    "close-1011": [Mode(close_after=(1.2, 1011))],
    "error-and-close": [Mode(inject=[(1.2, ERROR)], close_after=(1.2, 1011))],
    "error-alone": [Mode(inject=[(1.2, ERROR)])],
    "reset-in-the-replay": [Mode(drop_after=1.2), Mode(drop_after=0.3)],
    "reset-late-in-the-replay": [Mode(drop_after=1.2), Mode(drop_after=0.7)],
    "close-in-the-replay": [Mode(close_after=(1.2, 1011)), Mode(close_after=(0.7, 1011))],
    "500-429-after-it": [Mode(drop_after=1.2), Mode(status=500), Mode(status=429)],
    "hang-after-it": [Mode(drop_after=1.2), Mode(hang=True)],
    "401-after-it": [Mode(drop_after=1.2), Mode(status=401)],
    "500-for-good-after-it": [Mode(drop_after=1.2), *[Mode(status=500)] * 3],
    "never-a-result": [Mode(drop_after=0.3)] * 3,
    "tls-refused-after-it": [Mode(drop_after=1.2), Mode(tls="refused"), Mode(tls="stranger")],
    "tls-refused-for-good-after-it": [Mode(drop_after=1.2), *[Mode(tls="refused")] * 3],
    "tls-stranger-for-good-after-it": [Mode(drop_after=1.2), *[Mode(tls="stranger")] * 3],
}


@pytest.mark.parametrize("fault", FAILOVERS)
def test_nothing_is_lost_nor_doubled(start_daemon, request, authority, phone, fault):
    """However a stream ends, and whatever the next ones meet: each half second is heard once, at its time."""
    modes = FAILOVERS[fault]
    deepgram = request.getfixturevalue("deepgram_tls" if any(m.tls for m in modes) else "deepgram")
    deepgram.script(*modes)
    daemon = start_daemon(with_deepgram(deepgram, models=("dg-nova-3", "dg-nova-2"), connect_timeout="500ms"),
                          {"SSL_CERT_FILE": str(authority.ca)})
    p = phone(daemon, sample_rate=16000)
    for i in range(10):
        p.speak(0.5, 1000 + i, speed=10)

    def said():
        return sorted(p.segments.values(), key=lambda s: s["start"])

    def values():
        return [int(v) for s in said() for v in re.findall(r"v(\d+)", s["text"])]

    until(lambda: len(values()) >= 10, 40, what=lambda: "all of it: %s\n%s" % (said(), daemon.log_tail(30)))
    p.close()
    leaves_nothing(daemon, deepgram)
    assert values() == [1000 + i for i in range(10)], said()
    assert said()[0]["start"] < 0.01 and abs(said()[-1]["end"] - 5.0) < 0.01, said()
    # The providers' results lie end to end, and so do the segments.
    assert all(abs(a["end"] - b["start"]) < 0.01 for a, b in zip(said(), said()[1:])), said()
    last = "dg-nova-2" if fault in ("401-after-it", "never-a-result") or "for-good" in fault else "dg-nova-3"
    assert said()[-1]["stt_provider"] == last
    assert len(deepgram.attempts) == len(modes) + (fault != "error-alone")
    assert "stt_failed" not in p.statuses()


def test_deaf_provider(start_daemon, deepgram, phone):
    """It holds its connection and reads no more: no longer than stt.stall, and what it has not transcribed is said again."""
    deepgram.script(*[Mode(deaf_after=1.2)] * 3)
    deepgram.narrow()
    # What is on its way is more than 15 s, faster than real time as it is here.
    daemon = start_daemon(merge(with_deepgram(deepgram, send_buffer="64KiB"),
                                {"stt": {"stall": "1s", "catch_up": 100, "replay": "5min"}}))
    p = phone(daemon, sample_rate=16000)
    for i in range(80):
        p.speak(0.5, 1000 + i, speed=50)

    def values():
        said = sorted(p.segments.values(), key=lambda s: s["start"])
        return [int(v) for s in said for v in re.findall(r"v(\d+)", s["text"])]

    until(lambda: len(values()) >= 80, 30, what=lambda: "all of it: %s\n%s" % (values(), daemon.log_tail(30)))
    assert len(daemon.logged("the provider does not keep up")) >= 3 and len(deepgram.attempts) >= 4
    keeps_connection(daemon, p)
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    assert values() == [1000 + i for i in range(80)]


def test_slow_provider(start_daemon, deepgram, phone):
    """It reads all the time and answers, but less than comes: when three streams fell behind by stt.stall the next
    provider is asked."""
    deepgram.script(*[Mode(every=0.1, pace=0.4)] * 3)
    deepgram.default = Mode(every=0.1)
    deepgram.narrow()
    daemon = start_daemon(merge(with_deepgram(deepgram, models=("dg-nova-3", "dg-nova-2"), send_buffer="64KiB"),
                                {"stt": {"stall": "500ms", "catch_up": 100, "replay": "5min"}}))
    p = phone(daemon, sample_rate=48000)
    for i in range(40):
        p.speak(0.5, 1000 + i, speed=20)

    def values():
        said = sorted(p.segments.values(), key=lambda s: s["start"])
        return [int(v) for s in said for v in re.findall(r"v(\d+)", s["text"])]

    until(lambda: len(values()) >= 200, what=lambda: "all of it: %s\n%s" % (values(), daemon.log_tail(30)))
    daemon.metric_is("omi_fallback_total", 1, from_mode="dg-nova-3", to_mode="dg-nova-2", reason="lost")
    assert values() == sorted(5 * [1000 + i for i in range(40)])
    keeps_connection(daemon, p)
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    assert daemon.metric("omid_stt_lost_audio_bytes_total") == 0


def test_more_is_lost_than_is_kept(start_daemon, deepgram, phone):
    """A stream says nothing more and breaks: what is older than stt.replay is gone and counted, the rest has its time."""
    numbered = dict(words=lambda value, n: [("v%d." % value, n % 2)])  # by turns, so that segments stay as they come
    deepgram.script(Mode(mute_after=1.0, drop_after=5.0, **numbered))
    deepgram.default = Mode(**numbered)
    daemon = start_daemon(merge(with_deepgram(deepgram), {"stt": {"replay": "2s", "catch_up": 100}}))
    assert daemon.metric("omid_stt_lost_audio_bytes_total") == 0
    p = phone(daemon, sample_rate=16000).wait_ready()
    for i in range(20):
        p.speak(0.5, 1000 + i, speed=10)

    def said():
        return sorted(p.segments.values(), key=lambda s: s["start"])

    until(lambda: said() and said()[-1]["end"] > 9.0, what=lambda: "the end of it: %s" % said())
    p.close()
    leaves_nothing(daemon, deepgram)
    assert all(s["text"] == "v%d." % (1000 + int(s["start"] / 0.5 + 0.01)) for s in said()), said()
    gaps = [b["start"] - a["end"] for a, b in zip(said(), said()[1:])]
    assert [round(s["start"], 2) for s in said()[:2]] == [0.0, 0.5] and gaps[1] > 1.9, said()
    assert all(abs(gap) < 0.01 for gap in gaps[:1] + gaps[2:]), said()
    assert daemon.metric("omid_stt_lost_audio_bytes_total") == pytest.approx(gaps[1] * 32000, abs=32 * 10)
    assert len(deepgram.streams) == 2


def test_lost_for_good(start_daemon, deepgram, phone):
    deepgram.script(Mode(drop_after=0.6))
    deepgram.default = Mode(status=500)
    daemon = start_daemon(with_sphinx(with_deepgram(deepgram)))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    until(lambda: len(deepgram.attempts) == 4, what="the sequence after the loss")
    keeps_connection(daemon, p)
    until(lambda: daemon.metric("omi_fallback_total", to_mode="sphinx"), what="the next provider")
    keeps_connection(daemon, p)
    assert "stt_failed" not in p.statuses()


def test_silence(start_daemon, deepgram, phone):
    deepgram.default = Mode(silent=True)
    daemon = start_daemon(with_deepgram(deepgram, close_timeout="500ms"))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    keeps_connection(daemon, p)
    assert not p.segments
    p.hang_up()
    leaves_nothing(daemon, deepgram)  # although the peer never answers CloseStream
    assert deepgram.streams[0].kinds() == ["CloseStream"]


GARBAGE = [
    "{", "[]", "null", "7", '"Results"', "", "\ufffd", "{} {}", "[" * 100000, '{"a":' * 5000,
    '{"type":"Results"}', '{"type":"Results","channel":[]}', '{"type":"Results","channel":{"alternatives":{}}}',
    '{"type":"Results","channel":{"alternatives":[null]}}', '{"type":7}', '{"type":"Novelty"}',
    '{"type":"Error","description":"scripted","message":"\\u0000\\n"}',
    '{"type":"Metadata"}', '{"type":"SpeechStarted","timestamp":"x"}', '{"type":"UtteranceEnd"}',
    '{"type":"Results","start":-1,"duration":1e999,"channel":{"alternatives":[{"transcript":"bad",'
    '"words":[{"word":"bad","start":1e999,"end":-1},{"word":7},null,{"word":"bad","start":"1","end":[]}]}]}}',
    result(0.0, 0.5, [("interim", 0)], final=False),
    result(0.0, 0.5, []),
    '{"type":"Novelty","x":"' + "x" * 1500000 + '"}',
]


def test_garbage_between_results(start_daemon, deepgram, phone):
    deepgram.default = Mode(inject=[(0.1 * (i + 1), text) for i, text in enumerate(GARBAGE)])
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(3.0)
    heard(p, 6)
    keeps_connection(daemon, p)
    assert numbers(p) == [1, 2, 3, 4, 5, 6]
    assert len(deepgram.streams) == 1
    daemon.metric_reaches("omid_plugin_deepgram_messages_total", 10, kind="malformed")
    daemon.metric_is("omid_plugin_deepgram_messages_total", 1, kind="too_big")
    daemon.metric_reaches("omid_plugin_deepgram_messages_total", 2, kind="unknown")
    daemon.metric_is("omid_plugin_deepgram_messages_total", 1, kind="interim")
    daemon.metric_reaches("omid_plugin_deepgram_bad_values_total", 4)


def test_message_without_measure(start_daemon, deepgram, phone):
    """Beyond what is read from the wire at all: the stream is lost, the session is not."""
    deepgram.script(Mode(inject=[(0.6, '{"x":"' + "x" * (6 << 20) + '"}')]))
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(2.0)
    heard(p, 4)
    keeps_connection(daemon, p)
    assert len(deepgram.streams) == 2


def test_results_out_of_order(start_daemon, deepgram, phone):
    deepgram.default = Mode(swap=True)
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(3.0)
    until(lambda: sorted(int(n) for n in re.findall(r"n(\d+)\.", p.text())) == [1, 2, 3, 4, 5, 6],
          what=lambda: "all six results: %r" % p.text())
    keeps_connection(daemon, p)


def test_peer_that_stops_reading(start_daemon, deepgram, phone):
    """Its session is slowed down and ended with a reason; nobody else notices."""
    deepgram.script(Mode(deaf_after=0.2))
    settings = with_deepgram(deepgram)
    settings["listen"].update(audio_buffer="64KiB", up_buffer="64KiB", up_stall="1s")
    daemon = start_daemon(settings)
    deaf = phone(daemon, sample_rate=48000).wait_ready()
    flood = deaf.speaking(400, speed=1000)
    other = phone(daemon).wait_ready()
    other.speak(1.0)
    heard(other, 2)
    keeps_connection(daemon, other)
    until(lambda: deaf.closed, 60, what="the end of the session that gets nothing through")
    assert deaf.close_code == 1013
    flood.exception(30)  # it met the end, or got all of itself into the buffers before: both are fine
    keeps_connection(daemon, other)


# ------------------------------------------------------------------------- the breaker


def test_breaker_opens_after_three_sequences(start_daemon, deepgram, phone):
    deepgram.default = Mode(status=500)
    daemon = start_daemon(with_deepgram(deepgram, breaker={"failures": 3, "open": "10min", "open_max": "20min"}))
    for sequence in (1, 2, 3):
        p = phone(daemon)
        until(lambda: p.closed, what="the end")
        assert len(deepgram.attempts) == 3 * sequence
    deepgram.default = Mode()  # too late: nobody asks
    p = phone(daemon)
    until(lambda: p.closed, what="the end without an attempt")
    assert p.close_code == 1011 and len(deepgram.attempts) == 9
    assert daemon.healthz() == 200


def test_configuration_faults_do_not_open_the_breaker(start_daemon, deepgram, phone):
    deepgram.default = Mode(status=401)
    daemon = start_daemon(with_deepgram(deepgram, breaker={"failures": 3, "open": "10min", "open_max": "20min"}))
    for n in range(1, 6):
        p = phone(daemon)
        until(lambda: p.closed, what="the end")
        assert len(deepgram.attempts) == n
    deepgram.default = Mode()
    phone(daemon).wait_ready()


def test_breaker_lets_a_probe_through(start_daemon, deepgram, phone):
    deepgram.default = Mode(status=500)
    daemon = start_daemon(with_deepgram(deepgram, breaker={"failures": 3, "open": "500ms", "open_max": "1s"}))
    for _ in range(3):
        p = phone(daemon)
        until(lambda: p.closed, what="the end")
    deepgram.default = Mode()

    def served():
        p = phone(daemon)
        until(lambda: p.closed or p.ready(), what="an answer")
        return p.ready()

    until(served, what="a stream after the breaker's time")
    phone(daemon).wait_ready()


# ------------------------------------------------------------------------------ the end


def test_results_after_the_hang_up_are_kept(start_daemon, deepgram, receiver, phone):
    """What comes after CloseStream is stored, and is in the conversation that the webhook gets."""
    deepgram.default = Mode(tail=[("Goodbye", 0), ("omid.", 0)], tail_delay=0.5)
    settings = with_deepgram(deepgram)
    settings["listen"].update(conversation_timeout="2s", conversation_timeout_floor="2s")
    settings["plugin webhooks"] = {"memory_created": [receiver.url("/memory")]}
    daemon = start_daemon(settings)
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(1.0)
    p.hang_up()
    until(lambda: receiver.at("/memory"), 30, what=lambda: "the conversation:\n" + daemon.log_tail())
    text = json.dumps(receiver.at("/memory")[0].json)
    assert "Goodbye omid." in text and "n1." in text and "n2." in text
    leaves_nothing(daemon, deepgram)


def test_stop_while_a_stream_lives(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram))
    p = phone(daemon).wait_ready()
    p.speak(0.5)
    daemon.stop()
    until(lambda: p.closed, what="the close")
    assert p.close_code == 1001
    until(lambda: not deepgram.live(), what="the stream's end")


def test_stop_during_a_connect(start_daemon, deepgram, phone):
    deepgram.default = Mode(hang=True)
    daemon = start_daemon(with_deepgram(deepgram, connect_timeout="120s", timeout="300s"))
    p = phone(daemon)
    until(lambda: deepgram.attempts, what="the attempt")
    daemon.stop()
    until(lambda: p.closed and deepgram.attempts[0].gone, what="both ends")
