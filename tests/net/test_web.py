"""The web endpoint: accepted first, then told who it is by its first message."""
import asyncio
import json
import socket

import pytest
import websockets.frames as frames
from support.aio import background
from support.daemon import merge
from support.issuer import Issuer
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import holds, until
from support.web import Web
from test_auth import upgrade, web  # noqa: F401 (a fixture)
from test_ingress import frame

PATH = "/v4/web/listen"
SHORT = {"listen": {"auth_timeout": "500ms"}}


def suggested(text, start=0.0):
    return {"type": "suggested_transcript", "segments": [{"text": text, "speaker": "SPEAKER_00", "start": start,
                                                          "end": start + 1}]}


def nothing_left(daemon):
    until(lambda: daemon.metric("omid_ingress_websockets") == 0 and daemon.metric("omid_ingress_unauthenticated") == 0
          and not daemon.sessions(), what="the end of all of it")


def test_a_session(start_daemon, web):
    daemon = start_daemon({})
    w = web(daemon, custom_stt="enabled")
    holds(lambda: not w.raw, 0.3, "it is told something")  # not even a ping
    daemon.metric_is("omid_ingress_unauthenticated", 1)
    assert not daemon.sessions()
    w.auth(daemon.admin_key + "alice").say(suggested("Hello there."))
    until(lambda: "Hello there." in w.text(), what="the text")
    assert w.raw[0] == '{"type":"auth_response","success":true}' and w.raw[1] == "ping"
    assert w.statuses() == ["initiating", "in_progress_conversations_processing", "stt_initiating", "ready"]
    daemon.metric_is("omid_ingress_unauthenticated", 0)
    assert daemon.sessions() == 1
    # It is not asked again, and another token is one more message that says nothing.
    w.auth(daemon.admin_key + "bob").auth("nonsense").say(suggested("Still here.", 1.5))
    until(lambda: "Still here." in w.text(), what="the second text")
    w.close()
    nothing_left(daemon)
    daemon.metric_is("omid_ingress_greetings_total", 1, result="ok")


def test_the_same_user_by_both_endpoints(start_daemon, web, phone):
    daemon = start_daemon({})
    w = web(daemon, raw_query="custom_stt=enabled&uid=mallory").auth(daemon.admin_key + "alice")
    p = phone(daemon, uid="alice", custom_stt="enabled")
    until(lambda: w.of_type("conversation_session") and p.of_type("conversation_session"), what="conversations")
    assert w.of_type("conversation_session") == p.of_type("conversation_session")


BAD_FIRST = {
    "Expected JSON auth message": ["", "hello", "{", '{"type":"auth","token":"x"', b"\x00" * 320, b'{"type":"auth"}',
                                   '{"type":"auth"} x', "[" * 1000, "ping"],
    "First message must be auth": ["{}", "[]", "null", '"auth"', "7", '{"type":"Auth","token":"x"}', '{"type":1}',
                                   '{"token":"x"}', '{"type":"keepalive"}', '{"type":["auth"],"token":"x"}'],
    "Missing token": ['{"type":"auth"}', '{"type":"auth","token":""}', '{"type":"auth","token":null}'],
    "Invalid token": ['{"type":"auth","token":7}', '{"type":"auth","token":{}}', '{"type":"auth","token":"x"}',
                      '{"type":"auth","token":"a\\u0000"}', '{"type":"auth","token":"%s"}' % ("x" * 9000)],
}


def test_first_messages_that_do_not_do(start_daemon, web):
    daemon = start_daemon({})
    for reason, messages in BAD_FIRST.items():
        for message in messages:
            w = web(daemon)
            w.say(message)
            w.ended(1008, reason)
            assert not w.raw, (message, w.raw)
    w = web(daemon)
    w.auth("Bearer " + daemon.admin_key + "alice")
    w.ended(1008, "Invalid token")
    w = web(daemon)
    w.say('{"type":"auth","token":"%s"}' % ("x" * 20000))
    w.ended(1009)
    w = web(daemon)
    w.auth(daemon.admin_key)
    w.ended(1008, "Invalid token")
    nothing_left(daemon)
    bad = sum(len(BAD_FIRST[r]) for r in BAD_FIRST if r != "Invalid token") + 3  # a token of another type; the big one
    daemon.metric_is("omid_ingress_greetings_total", bad, result="bad_message")


def test_a_header_is_no_greeting(start_daemon, web):
    daemon = start_daemon(SHORT)
    w = Web(daemon, headers={"Authorization": "Bearer " + daemon.admin_key + "alice"}).connect()
    w.ended(1008, "Auth timeout")


def test_silence(start_daemon, web):
    daemon = start_daemon(SHORT)
    w = web(daemon)
    w.ended(1008, "Auth timeout")
    assert not w.raw
    nothing_left(daemon)
    daemon.metric_is("omid_ingress_greetings_total", 1, result="timeout")


@pytest.mark.parametrize("what", ["pings", "fragments"])
def test_noise_is_no_greeting_either(start_daemon, web, what):
    daemon = start_daemon(SHORT)
    w = web(daemon)

    async def noise():
        try:
            for n in range(200):
                if what == "pings":
                    await w.ws.ping(b"%d" % n)
                else:  # a message that never ends, a few bytes at a time
                    await w.ws.write_frame(False, frames.OP_TEXT if n == 0 else frames.OP_CONT, b" ")
                await asyncio.sleep(0.05)
        except Exception:
            pass

    future = background().start(noise())
    w.ended(1008, "Auth timeout")
    future.cancel()
    nothing_left(daemon)


def test_parameters_come_first(start_daemon):
    daemon = start_daemon({})
    for query, name in {"sample_rate=fast": "sample_rate", "channels=9": "channels", "language=%zz": "language",
                        "vad_gate=perhaps": "vad_gate", "speaker_auto_assign=2": "speaker_auto_assign"}.items():
        code, _, body = upgrade(daemon, path=PATH + "?" + query)
        assert code == 400 and name in body["error"], (query, code, body)
    assert upgrade(daemon, path=PATH)[0] == 101
    nothing_left(daemon)


def test_what_is_not_served_is_told_after_the_greeting(start_daemon, web):
    daemon = start_daemon({})
    for query, code, reason in (("codec=mp3", 1003, None), ("sample_rate=7999", 1003, None),
                                ("language=xx-nowhere", 1008, "The language is not supported, xx-nowhere")):
        w = web(daemon, raw_query=query)
        w.auth(daemon.admin_key + "alice")
        w.ended(code, reason)
        assert w.raw[:1] == ['{"type":"auth_response","success":true}']


def test_everything_in_one_packet(start_daemon):
    """A client that does not wait: handshake, greeting and messages at once, then byte by byte."""
    daemon = start_daemon({})
    host, port = daemon.address.rsplit(":", 1)
    head = ("GET %s?custom_stt=enabled HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % PATH).encode()
    tail = frame(1, json.dumps({"type": "auth", "token": daemon.admin_key + "alice"}).encode())
    tail += b"".join(frame(1, json.dumps(suggested("Number %d." % n, 2.0 * n)).encode()) for n in range(5))
    for step in (len(head + tail), 1):
        with socket.create_connection((host, int(port)), timeout=20) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(head + tail), step):
                s.sendall((head + tail)[at:at + step])
            got = b""
            while b"Number 4." not in got:
                got += s.recv(65536)
            assert b" 101 " in got[:20]
            assert got.index(b"auth_response") < got.index(b"service_status") < got.index(b"Number 0.")
    nothing_left(daemon)


def test_clients_vanish_before_they_say_anything(start_daemon, web):
    daemon = start_daemon({})
    some = [web(daemon) for _ in range(20)]
    until(lambda: daemon.metric("omid_ingress_unauthenticated") == 20, what="all of them")
    for n, w in enumerate(some):
        w.hang_up() if n % 2 else w.close()
    nothing_left(daemon)
    daemon.metric_is("omid_ingress_greetings_total", 20, result="left")


def test_the_daemon_ends_meanwhile(start_daemon, web):
    daemon = start_daemon({})
    w = web(daemon)
    until(lambda: daemon.metric("omid_ingress_unauthenticated") == 1, what="it")
    daemon.stop()
    w.ended(1001)


def test_audio_behind_the_greeting_is_heard_from_its_first_byte(start_daemon, deepgram, web):
    issuer = Issuer()
    try:
        # The keys come late: everything waits in the socket, nothing is lost.
        issuer.http.on("/keys", Answer(drip=0.001, body=issuer.key_set()))
        daemon = start_daemon(merge(merge(with_deepgram(deepgram), issuer.settings(wait="30s")), {
            "auth": {"lane": {"timeout": "30s"}}}))
        w = web(daemon, sample_rate=16000)
        w.auth(issuer.token("alice"))
        w.speak(2.0, speed=20)
        until(lambda: deepgram.streams and deepgram.streams[-1].audio == 64000, what="two seconds of audio")
        until(lambda: "n4." in w.text() or "n3." in w.text(), what=lambda: "all of the results: " + w.text())
    finally:
        issuer.stop()
