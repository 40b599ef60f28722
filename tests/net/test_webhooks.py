"""Webhooks while their receiver misbehaves: the voice goes on, others are not delayed, memory_created comes once."""
import base64
import hashlib
import hmac
import os
import re
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from support.daemon import merge, program
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import holds, until

FAULTS = {"hang": Answer(hang=True), "drip": Answer(drip=0.2), "reset": Answer(reset=True), "500": Answer(500),
          "410": Answer(410), "redirect": Answer(302, headers={"Location": "/elsewhere"}),
          "huge": Answer(huge=50 << 20), "no-json": Answer(body=b"\xff{not json")}


def settings(deepgram, **webhooks):
    return merge(with_deepgram(deepgram), {
        "listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s"},
        "plugin webhooks": merge({"transcript_interval": "100ms", "timeout": "2s"}, webhooks)})


def words(deliveries):
    return " ".join(s["text"] for d in deliveries for s in d.json["segments"])


def heard(phone, n):
    until(lambda: len(re.findall(r"n\d+\.", phone.text())) >= n, what=lambda: "%d results: %r" % (n, phone.text()))


def test_realtime(start_daemon, deepgram, receiver, phone):
    daemon = start_daemon(settings(deepgram, realtime_transcript=[receiver.url("/transcript?app=1")],
                                   audio_bytes=[receiver.url("/audio") + ",1"]))
    p = phone(daemon, uid="a:uid@b.c").wait_ready()
    p.speak(3.0, 500)
    heard(p, 6)
    until(lambda: re.search(r"n6\.", words(receiver.at("/transcript"))), what="the transcript")
    p.close()
    until(lambda: sum(len(d.body) for d in receiver.at("/audio")) >= 48000, what="all the audio")
    for d in receiver.at("/transcript"):
        assert d.method == "POST" and d.query == {"app": ["1"], "uid": [p.uid]}
        assert d.json["session_id"] == p.uid and d.headers["content-type"].startswith("application/json")
    for d in receiver.at("/audio"):
        assert d.headers["content-type"] == "application/octet-stream"
        assert d.query == {"sample_rate": ["8000"], "uid": [p.uid]}
        assert set(d.body[i:i + 2] for i in range(0, len(d.body), 2)) == {b"\xf4\x01"}
    assert sum(len(d.body) for d in receiver.at("/audio")) == 48000


def test_message_in_an_answer_reaches_the_client(start_daemon, deepgram, receiver, phone):
    receiver.on("/transcript", Answer(body=b'{"message": "well said indeed"}'))
    daemon = start_daemon(settings(deepgram, realtime_transcript=[receiver.url("/transcript")]))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    until(lambda: p.of_type("app_message"), what="the message")
    assert p.of_type("app_message")[0]["message"] == "well said indeed"


def test_memory_created_once_with_everything(start_daemon, deepgram, receiver, phone):
    daemon = start_daemon(settings(deepgram, memory_created=[receiver.url("/memory")]))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(3.0)
    heard(p, 6)
    until(lambda: p.of_type("memory_created"), 30, what=lambda: "memory_created: %s" % p.messages)
    until(lambda: receiver.at("/memory"), what="the webhook")
    conversation = receiver.at("/memory")[0].json
    told = p.of_type("memory_created")[0]["memory"]
    assert conversation["id"] == told["id"] == p.of_type("conversation_session")[0]["conversation_id"]
    text = " ".join(s["text"] for s in conversation["transcript_segments"])
    assert re.findall(r"n(\d+)\.", text) == ["1", "2", "3", "4", "5", "6"]
    assert receiver.at("/memory")[0].query == {"uid": [p.uid]}
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end")
    holds(lambda: len(receiver.at("/memory")) == 1, 1.0, "delivered a second time")


def test_memory_created_after_the_client_has_left(start_daemon, deepgram, receiver, phone):
    """With no session at all: the sweeper finds the conversation."""
    daemon = start_daemon(settings(deepgram, memory_created=[receiver.url("/memory")]))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(1.0)
    heard(p, 2)
    p.hang_up()
    until(lambda: receiver.at("/memory"), 30, what=lambda: "the webhook:\n" + daemon.log_tail())
    text = " ".join(s["text"] for s in receiver.at("/memory")[0].json["transcript_segments"])
    assert re.findall(r"n(\d+)\.", text) == ["1", "2"]
    holds(lambda: len(receiver.at("/memory")) == 1, 1.0, "delivered a second time")


def test_memory_created_survives_a_crash(start_daemon, deepgram, receiver, phone):
    """Queued, not delivered, kill -9: the next start delivers it."""
    receiver.on("/memory", Answer(hang=True), Answer())
    daemon = start_daemon(merge(settings(deepgram, memory_created=[receiver.url("/memory")]),
                                {"queue": {"lease": "1s"}}))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(1.0)
    heard(p, 2)
    until(lambda: receiver.at("/memory"), 30, what="the first attempt")
    first = receiver.at("/memory")[0]
    daemon.kill()
    until(lambda: p.closed, what="the client's end")
    daemon.start()
    until(lambda: len(receiver.at("/memory")) >= 2, 90, what=lambda: "the second attempt:\n" + daemon.log_tail())
    second = receiver.at("/memory")[1]
    assert second.json["id"] == first.json["id"]


def test_memory_created_is_retried(start_daemon, deepgram, receiver, phone):
    receiver.on("/memory", Answer(500), Answer(503), Answer(200))
    daemon = start_daemon(merge(settings(deepgram, memory_created=[receiver.url("/memory")]),
                                {"queue": {"retry": ["1s", "1s", "1s"]}}))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(1.0)
    heard(p, 2)
    until(lambda: len(receiver.at("/memory")) == 3, 40, what=lambda: "three attempts:\n" + daemon.log_tail())
    assert len({d.json["id"] for d in receiver.at("/memory")}) == 1
    until(lambda: receiver.at("/memory")[2].answered)
    holds(lambda: len(receiver.at("/memory")) == 3, 2.0, "delivered after the success")


@pytest.mark.parametrize("fault", ["410", "redirect"])
def test_memory_created_is_not_retried_in_vain(start_daemon, deepgram, receiver, phone, fault):
    receiver.on("/memory", FAULTS[fault])
    daemon = start_daemon(merge(settings(deepgram, memory_created=[receiver.url("/memory")]),
                                {"queue": {"retry": ["1s", "1s", "1s"]}}))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(1.0)
    heard(p, 2)
    until(lambda: receiver.at("/memory"), 30, what="the attempt")
    if fault == "410":
        holds(lambda: len(receiver.at("/memory")) == 1, 2.5, "410 is no invitation")
    else:
        until(lambda: len(receiver.at("/memory")) == 2, 30, what="another attempt")
    assert not receiver.at("/elsewhere"), "a redirect was followed"


@pytest.mark.parametrize("fault", FAULTS)
def test_receiver_misbehaves(start_daemon, deepgram, receiver, phone, fault):
    """One bad receiver of everything beside a good one: the client, /healthz and the good one don't notice."""
    for path in ("/bad-transcript", "/bad-audio", "/bad-memory"):
        receiver.on(path, FAULTS[fault])
    daemon = start_daemon(settings(
        deepgram,
        realtime_transcript=[receiver.url("/bad-transcript"), receiver.url("/transcript")],
        audio_bytes=[receiver.url("/bad-audio") + ",1", receiver.url("/audio") + ",1"],
        memory_created=[receiver.url("/bad-memory"), receiver.url("/memory")]))
    p = phone(daemon, conversation_timeout=2).wait_ready()
    talk = p.speaking(4.0)
    until(lambda: receiver.at("/bad-transcript") and receiver.at("/bad-audio"), what="the bad receiver to be asked")
    assert daemon.healthz() == 200
    heard(p, 4)
    talk.result(60)
    heard(p, 8)
    assert daemon.healthz() == 200
    until(lambda: re.search(r"n8\.", words(receiver.at("/transcript"))), what="the good receiver's transcript")
    until(lambda: receiver.at("/memory"), 30, what=lambda: "the good receiver's memory:\n" + daemon.log_tail())
    assert not p.closed
    pings = p.pings
    until(lambda: p.pings > pings, what="another ping")
    p.close()
    until(lambda: daemon.sessions() == 0, what="the session's end, whatever the receiver does")
    until(lambda: sum(len(d.body) for d in receiver.at("/audio")) == 64000, what="all the audio at the good receiver")
    assert not receiver.at("/elsewhere"), "a redirect was followed"


def test_hung_receiver_does_not_delay_the_stop(start_daemon, deepgram, receiver, phone):
    receiver.on("/transcript", Answer(hang=True))
    daemon = start_daemon(merge(settings(deepgram, realtime_transcript=[receiver.url("/transcript")], timeout="300s"),
                                {"daemon": {"drain": "3s"}, "listen": {"drain": "1s", "drain_bound": "1s"}}))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    until(lambda: receiver.at("/transcript"), what="a request that hangs")
    daemon.stop(deadline=15)
    until(lambda: receiver.at("/transcript")[0].gone, what="the hung request's end")


def signed_by(delivery, secret):
    """By the standard's text and Python's own library."""
    key = base64.b64decode(secret[len("whsec_"):])
    head = "%s.%s." % (delivery.headers["webhook-id"], delivery.headers["webhook-timestamp"])
    mac = base64.b64encode(hmac.new(key, head.encode() + delivery.body, hashlib.sha256).digest()).decode()
    return "v1," + mac in delivery.headers.get("webhook-signature", "").split(" ")


def new_secret():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def test_signatures_and_their_rotation(start_daemon, deepgram, receiver, phone):
    """Receivers that know the old secret and such that know the new one: neither refuses a delivery."""
    old, new = new_secret(), new_secret()
    first = settings(deepgram, realtime_transcript=[receiver.url("/transcript")],
                     audio_bytes=[receiver.url("/audio") + ",1"], memory_created=[receiver.url("/memory")], secret=old)
    daemon = start_daemon(first)
    p = phone(daemon, conversation_timeout=2).wait_ready()
    p.speak(3.0, 500)
    heard(p, 6)
    until(lambda: receiver.at("/memory") and receiver.at("/audio") and receiver.at("/transcript"), 30,
          what="a delivery of each kind")
    for d in receiver.deliveries:
        assert signed_by(d, old) and not signed_by(d, new)
        assert abs(int(d.headers["webhook-timestamp"]) - time.time()) < 300
        assert "." not in d.headers["webhook-id"]
    assert len({d.headers["webhook-id"] for d in receiver.deliveries}) == len(receiver.deliveries)

    daemon.rewrite(merge(first, {"plugin webhooks": {"secret": new, "former_secret": old}}))
    reload = subprocess.run([program("omictl"), "reload"], env={**os.environ, "OMID_CONTROL": daemon.control},
                            capture_output=True, text=True)
    assert reload.returncode == 0, reload.stderr
    before = len(receiver.deliveries)
    q = phone(daemon, conversation_timeout=2).wait_ready()
    q.speak(3.0, 500)
    until(lambda: len(receiver.at("/memory")) == 2, 30, what=lambda: "the next conversation:\n" + daemon.log_tail())
    for d in receiver.deliveries[before:]:
        if d.query["uid"] == [q.uid]:
            assert signed_by(d, old) and signed_by(d, new)


def test_omictl_receive_checks_signatures(start_daemon, deepgram, phone, tmp_path):
    secret = new_secret()
    ready = tmp_path / "ready"
    out = open(tmp_path / "out", "w+")
    receive = subprocess.Popen([program("omictl"), "receive", "--port", "0", "--ready-file", ready, "--secret", secret],
                               stdout=out)
    try:
        until(lambda: ready.exists() and ready.read_text().strip(), what="the receiver")
        url = "http://%s" % ready.read_text().strip()
        daemon = start_daemon(settings(deepgram, memory_created=[url + "/memory"], secret=secret))
        p = phone(daemon, conversation_timeout=2).wait_ready()
        p.speak(1.0)

        def lines():
            return (tmp_path / "out").read_text().splitlines()[1:]
        until(lambda: lines(), 30, what=lambda: "a delivery:\n" + daemon.log_tail())
        assert lines()[0].startswith("signed webhook POST /memory?uid="), lines()
        for headers, why in (({}, "a header is missing"),
                             ({"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"},
                              "no signature is right")):
            request = urllib.request.Request(url + "/forged", b"{}", headers)
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(request)
            assert refusal.value.code == 401
            assert lines()[-1].startswith("refused (%s) webhook POST /forged" % why)
    finally:
        receive.terminate()
        receive.wait()
        out.close()
    bad = subprocess.run([program("omictl"), "receive", "--port", "0", "--secret", "hush"], capture_output=True,
                         text=True)
    assert bad.returncode == 2 and "--secret: expected whsec_" in bad.stderr and "hush" not in bad.stderr
