"""The local provider in the real daemon: what it hears, and what happens when its decoders are all taken."""
import pytest

from support.wait import until

SPHINX = {"stt": {"models": ["sphinx"]}}


@pytest.fixture(autouse=True)
def needs_sphinx(have_sphinx):
    if not have_sphinx:
        pytest.skip("built without the sphinx plugin")


def heard(phone):
    return phone.text().lower()


def test_recorded_voice(start_daemon, phone, speech):
    daemon = start_daemon({**SPHINX, "plugin sphinx": {}})
    p = phone(daemon, sample_rate=16000, codec="pcm16").wait_ready(60)
    p.play(speech + bytes(32000))
    until(lambda: "go forward ten meters" in heard(p), 60, lambda: "the words; heard %r" % heard(p))
    segment = next(iter(p.segments.values()))
    assert segment["speaker"] == "SPEAKER_00" and segment["stt_provider"] == "sphinx"
    assert 0 <= segment["start"] < segment["end"] <= len(speech) / 32000


def test_the_rest_is_heard_after_the_goodbye(start_daemon, phone, speech, receiver):
    """The client leaves with its last word: what it said still becomes a conversation."""
    daemon = start_daemon({
        **SPHINX, "plugin sphinx": {},
        "listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s", "lifecycle_check": "100ms"},
        "store": {"sweep": "100ms"},
        "plugin webhooks": {"memory_created": receiver.url("/memory")},
    })
    p = phone(daemon, sample_rate=16000, codec="pcm16").wait_ready(60)
    p.play(speech, speed=20)
    p.close()
    until(lambda: any(b"go forward ten meters" in d.body.lower() for d in receiver.at("/memory")), 60,
          what=lambda: "the conversation:\n" + daemon.log_tail())


def test_no_decoder_left(start_daemon, phone):
    """Beyond max_sessions: 1013, and room again when the first has left."""
    daemon = start_daemon({**SPHINX, "plugin sphinx": {"max_sessions": 1}})
    first = phone(daemon, sample_rate=16000).wait_ready(60)
    second = phone(daemon, sample_rate=16000)
    until(lambda: second.closed, 30, what="the second to be refused")
    assert second.close_code == 1013
    failed = [m for m in second.of_type("service_status") if m["status"] == "stt_failed"]
    assert failed and failed[0]["retryable"] is True and failed[0]["provider"] == "sphinx"
    assert not first.closed
    first.close()
    until(lambda: daemon.sessions() == 0, what="the first to end")

    def again():
        third = phone(daemon, sample_rate=16000)
        until(lambda: third.closed or third.ready(), 60, what="an answer")
        return third.ready()
    until(again, 60, what="room for another")
