"""Id tokens: what lets a client in, everything that does not, and an issuer that rotates, stalls, lies or is away."""
import http.client
import json
import os
import signal
import threading
import time

import pytest
from support.daemon import merge
from support.issuer import Issuer, PATH, b64, hmac_token, jwk, key, pem, token
from support.receiver import Answer
from support.wait import SLOW, until
from support.web import Web

UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


@pytest.fixture
def issuer():
    peer = Issuer()
    yield peer
    peer.stop()


@pytest.fixture
def web():
    made = []

    def connect(daemon, **query):
        made.append(Web(daemon, **query).connect())
        return made[-1]

    yield connect
    for w in made:
        w.hang_up()


def upgrade(daemon, bearer=None, path="/v4/listen?custom_stt=enabled", **headers):
    """(status, headers, JSON body or None) of an upgrade; the connection is dropped at once."""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=20 * SLOW)
    try:
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if bearer is not None:
            headers["Authorization"] = "Bearer " + bearer
        c.request("GET", path, headers=dict(UPGRADE, **headers))
        response = c.getresponse()
        body = None if response.status == 101 else response.read()
        return response.status, dict((k.lower(), v) for k, v in response.getheaders()), body and json.loads(body)
    finally:
        c.close()


def status(daemon, bearer):
    return upgrade(daemon, bearer)[0]


def has_keys(daemon, n=1):
    until(lambda: daemon.metric("omid_auth_keys") == n, what="the keys")


def ready(start_daemon, issuer, settings=None, **jwt):
    daemon = start_daemon(merge(issuer.settings(**jwt), settings or {}))
    has_keys(daemon)
    return daemon


# ---------------------------------------------------------------------------- tokens


def test_a_conversation_with_an_id_token(start_daemon, issuer, phone):
    daemon = ready(start_daemon, issuer)
    p = phone(daemon, uid="alice", token=issuer.token("alice"), custom_stt="enabled").wait_ready()
    p.send({"type": "suggested_transcript", "segments": [{"text": "Hello there.", "speaker": "SPEAKER_00", "start": 0,
                                                          "end": 1}]})
    until(lambda: "Hello there." in p.text(), what="the text")
    # The same uid, whoever vouches for it.
    again = phone(daemon, uid="alice", custom_stt="enabled").wait_ready()
    until(lambda: p.of_type("conversation_session") and again.of_type("conversation_session"), what="conversations")
    ids = {x.of_type("conversation_session")[0]["conversation_id"] for x in (p, again)}
    assert len(ids) == 1
    daemon.metric_is("omid_auth_tokens_total", 1, result="ok")
    daemon.metric_is("omid_auth_tokens_total", 1, result="admin_key")


def bad_tokens(issuer):
    now = int(time.time())
    claims, head = issuer.claims("eve"), {"alg": "RS256", "kid": "one", "typ": "JWT"}
    k = key("one")
    good = issuer.token("eve")
    a, b, c = good.split(".")
    weak = key("weak", 1024)
    yield "expired", issuer.token("eve", exp=now - 61), "expired"
    yield "future iat", issuer.token("eve", iat=now + 400), "not_yet"
    yield "future auth_time", issuer.token("eve", auth_time=now + 400), "not_yet"
    yield "another audience", issuer.token("eve", aud="another"), "audience"
    yield "audiences", issuer.token("eve", aud=["scenario-project"]), "malformed"
    yield "another issuer", issuer.token("eve", iss="https://securetoken.google.com/another"), "issuer"
    yield "no subject", issuer.token("eve", sub=None), "malformed"
    yield "empty subject", issuer.token("eve", sub=""), "subject"
    yield "a subject of another form", issuer.token("eve", sub="../eve"), "subject"
    yield "a long subject", issuer.token("eve", sub="e" * 129), "subject"
    yield "a number as subject", issuer.token("eve", sub=7), "malformed"
    yield "no exp", issuer.token("eve", exp=None), "malformed"
    yield "exp as text", issuer.token("eve", exp=str(now + 100)), "malformed"
    yield "exp infinite", token(json.dumps(claims).encode().replace(str(claims["exp"]).encode(), b"1e999"), head, k), \
        "malformed"
    yield "no iat", issuer.token("eve", iat=None), "malformed"
    yield "alg none", token(claims, dict(head, alg="none"), signature=b""), "algorithm"
    yield "alg none, signed", token(claims, dict(head, alg="none"), k), "algorithm"
    yield "HS256 with the public key (PEM)", hmac_token(claims, dict(head, alg="HS256"), pem(k)), "algorithm"
    yield "HS256 with the public key (JWK)", hmac_token(claims, dict(head, alg="HS256"),
                                                        json.dumps(jwk("one", k)).encode()), "algorithm"
    yield "an HMAC that says RS256", hmac_token(claims, head, pem(k)), "signature"
    yield "another key", token(claims, head, key("mallory")), "signature"
    yield "a weak key", token(claims, head, weak), "signature"
    yield "a key in the header", token(claims, dict(head, jwk=jwk("one", key("mallory"))), key("mallory")), "signature"
    yield "a URL in the header", token(claims, dict(head, jku="http://127.0.0.1:1/"), key("mallory")), "signature"
    yield "no kid", token(claims, {"alg": "RS256"}, k), "malformed"
    yield "a huge kid", token(claims, dict(head, kid="x" * 3000), k), "malformed"
    yield "a kid that is a number", token(claims, dict(head, kid=1), k), "malformed"
    yield "crit", token(claims, dict(head, crit=["exp"]), k), "algorithm"
    yield "claims twice", token(text_with(claims, b',"sub":"alice"}'), head, k), "malformed"
    yield "header twice", token(claims, text_with(head, b',"kid":"two"}'), k), "malformed"
    yield "not UTF-8", token(text_with(claims, b',"name":"\xff\xfe"}'), head, k), "malformed"
    yield "a NUL in the subject", token(json.dumps(claims).encode().replace(b'"sub": "eve"', b'"sub": "eve\\u0000x"'),
                                        head, k), "malformed"
    yield "nested", token(b'{"a":' * 900 + b"1" + b"}" * 900, head, k), "malformed"
    yield "brackets", token(b"[" * 5000, head, k), "malformed"
    yield "claims are a list", token([claims], head, k), "malformed"
    yield "no JSON", token(b"hello", head, k), "malformed"
    yield "too long", token(dict(claims, pad="x" * 8200), head, k), "too_long"
    yield "no signature", a + "." + b + ".", "signature"
    yield "two parts", a + "." + b, "malformed"
    yield "four parts", good + "." + c, "signature"
    yield "padded", a + "=." + b + "." + c, "malformed"
    yield "other claims", a + "." + b64(json.dumps(issuer.claims("alice")).encode()) + "." + c, "signature"
    yield "cut", good[:-4], "signature"
    yield "dots", "..", "malformed"
    yield "noise", b64(os.urandom(40)) + "." + b64(os.urandom(40)) + "." + b64(os.urandom(256)), "malformed"


def text_with(obj, tail):
    return json.dumps(obj).encode()[:-1] + tail


def test_bad_tokens(start_daemon, issuer, web):
    daemon = ready(start_daemon, issuer)
    for name, bad, result in bad_tokens(issuer):
        before = daemon.metric("omid_auth_tokens_total", result=result)
        code, _, body = upgrade(daemon, bad)
        assert code == 403 and body["error"].startswith("invalid token"), (name, code, body)
        daemon.metric_is("omid_auth_tokens_total", before + 1, result=result)
        w = web(daemon)
        w.say({"type": "auth", "token": bad})
        w.ended(1008, "Invalid token")
        assert not w.messages, name
    assert status(daemon, issuer.token("eve")) == 101
    assert issuer.fetches == 1  # none of these names a key that could be looked for
    assert daemon.sessions() in (0, None) or until(lambda: daemon.sessions() == 0)


def test_times_within_the_leeway(start_daemon, issuer):
    daemon = ready(start_daemon, issuer, leeway="10min")
    now = int(time.time())
    assert status(daemon, issuer.token("a", exp=now - 500, iat=now + 500, auth_time=now + 500)) == 101
    assert status(daemon, issuer.token("a", exp=now - 700)) == 403


def test_headers_of_any_size(start_daemon, issuer):
    daemon = ready(start_daemon, issuer)
    assert status(daemon, "x" * 8192) == 403
    assert status(daemon, "x" * 8193) == 403
    assert status(daemon, "x" * 20000) == 431
    assert upgrade(daemon, None)[0] == 403
    assert upgrade(daemon, None, Authorization="Basic " + issuer.token("a"))[0] == 403


def test_both_forms_or_either(start_daemon, issuer):
    settings = issuer.settings()
    settings["auth"]["admin_key"] = None
    daemon = start_daemon(settings)
    has_keys(daemon)
    assert status(daemon, daemon.admin_key + "alice") == 403
    assert status(daemon, issuer.token("alice")) == 101
    off = start_daemon({})
    assert status(off, issuer.token("alice")) == 403
    assert status(off, off.admin_key + "alice") == 101
    daemon.metric_is("omid_auth_tokens_total", 1, result="malformed")
    off.metric_is("omid_auth_tokens_total", 1, result="no_form")


def test_issuer_of_another_name(start_daemon, issuer):
    daemon = start_daemon(issuer.settings(issuer="https://login.example.com"))
    has_keys(daemon)
    assert status(daemon, issuer.token("a", iss="https://login.example.com")) == 101
    assert status(daemon, issuer.token("a")) == 403


# ---------------------------------------------------------------------------- keys


def test_rotation(start_daemon, issuer):
    daemon = ready(start_daemon, issuer)
    old = issuer.token("alice")
    assert status(daemon, old) == 101
    issuer.rotate("two")
    issuer.publish()
    assert status(daemon, issuer.token("alice")) == 101  # the unknown key is looked for at once
    assert issuer.fetches == 2
    assert status(daemon, old) == 403  # its key is gone
    for n in range(5):  # and no second time within a minute
        assert status(daemon, issuer.token("eve", kid="x%d" % n)) == 403
    assert issuer.fetches == 2
    daemon.metric_is("omid_auth_tokens_total", 6, result="unknown_key")
    daemon.metric_is("omid_auth_key_fetches_total", 2, result="ok")


def test_unknown_keys_are_looked_for_again_later(start_daemon, issuer):
    daemon = ready(start_daemon, issuer, refresh_min="1s")
    assert status(daemon, issuer.token("eve", kid="x")) == 403
    seen = issuer.fetches
    issuer.rotate("two")
    issuer.publish()
    until(lambda: status(daemon, issuer.token("alice")) == 101, what="the new key")
    assert issuer.fetches >= seen


def test_keys_are_fetched_ahead_of_their_end(start_daemon, issuer):
    issuer.publish(max_age=3)
    daemon = ready(start_daemon, issuer, refresh_min="100ms")
    until(lambda: issuer.fetches >= 3, what="fetches of their own accord")
    first, second, third = [d.time for d in issuer.http.at(PATH)][:3]
    assert 1.5 < second - first and 1.5 < third - second
    assert status(daemon, issuer.token("a")) == 101


def test_max_age_has_bounds(start_daemon, issuer):
    issuer.publish(max_age=0)
    daemon = ready(start_daemon, issuer, refresh_min="2s")
    until(lambda: issuer.fetches >= 2, what="another fetch")
    first, second = [d.time for d in issuer.http.at(PATH)][:2]
    assert second - first > 1.5
    assert status(daemon, issuer.token("a")) == 101


def test_stale_keys_serve_until_their_bound(start_daemon, issuer):
    issuer.publish(max_age=1)
    daemon = ready(start_daemon, issuer, refresh_min="500ms", stale="4s")
    issuer.misbehave(status=500)
    until(lambda: daemon.metric("omid_auth_key_fetches_total", result="failed") >= 1, what="a failure")
    assert status(daemon, issuer.token("a")) == 101
    until(lambda: status(daemon, issuer.token("a")) == 503, what="the end of what is stale")
    issuer.publish()
    until(lambda: status(daemon, issuer.token("a")) == 101, what="keys again")


FAULTS = {"500": dict(status=500), "404": dict(status=404), "204": dict(status=204, body=b""), "empty": dict(body=b""),
          "page": dict(body=b"<html>"), "list": dict(body=b"[]"), "object": dict(body=b"{}"),
          "types": dict(body=b'{"keys":{"one":1}}'), "none": dict(body=b'{"keys":[]}'),
          "items": dict(body=b'{"keys":[1,null,"x",[],{}]}'), "deep": dict(body=b"[" * 100000),
          "huge": dict(huge=50000000), "reset": dict(reset=True), "redirect": dict(status=302, headers={
              "Location": "http://127.0.0.1:1/"}),
          "weak": dict(body=json.dumps({"keys": [jwk("one", key("weak", 1024))]}).encode())}


def test_key_sets_that_are_none(start_daemon, issuer):
    issuer.misbehave(status=500)
    daemon = start_daemon(issuer.settings())
    for name, fault in FAULTS.items():
        seen = issuer.fetches
        issuer.misbehave(**fault)
        until(lambda: issuer.fetches > seen or _reload(daemon), what="another attempt: " + name)
        until(lambda: daemon.metric("omid_auth_key_fetches_total", result="failed") >= 1)
        code, headers, body = upgrade(daemon, issuer.token("a"))
        assert code == 503 and int(headers["retry-after"]) >= 1 and body["error"], (name, code)
        assert daemon.metric("omid_auth_keys") == 0, name
    assert daemon.healthz() == 200
    issuer.publish()
    until(lambda: status(daemon, issuer.token("a")) == 101 or _reload(daemon), what="keys at last")


def _reload(daemon):
    """A reload is also a new attempt, without the pause."""
    def reloads():
        return sum(daemon.metric("omid_reloads_total", result=r) for r in ("ok", "refused"))
    before = reloads()
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: reloads() > before, what="the reload")
    return False


def test_bad_sets_leave_good_keys(start_daemon, issuer):
    issuer.publish(max_age=1)
    daemon = ready(start_daemon, issuer, refresh_min="300ms")
    issuer.misbehave(body=b'{"keys":[]}')
    until(lambda: daemon.metric("omid_auth_key_fetches_total", result="failed") >= 2, what="failures")
    assert status(daemon, issuer.token("a")) == 101


def test_nobody_listens_there(start_daemon, issuer, web):
    settings = issuer.settings()
    issuer.stop()
    daemon = start_daemon(settings)
    until(lambda: daemon.metric("omid_auth_key_fetches_total", result="failed") >= 1, what="a failure")
    code, headers, _ = upgrade(daemon, issuer.token("a"))
    assert code == 503 and "retry-after" in headers
    w = web(daemon)
    w.say({"type": "auth", "token": issuer.token("a")})
    w.ended(1013)
    assert status(daemon, daemon.admin_key + "a") == 101  # needs no keys


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(drip=0.3, body=b"{}" * 1000)], ids=["silent", "dripping"])
def test_an_issuer_that_stalls(start_daemon, issuer, web, answer):
    issuer.http.on(PATH, answer)
    daemon = start_daemon(merge(issuer.settings(wait="1s"), {"auth": {"lane": {"timeout": "20s"}}}))
    begin = time.monotonic()
    w = web(daemon)
    w.say({"type": "auth", "token": issuer.token("b")})
    code, headers, body = upgrade(daemon, issuer.token("a"))
    took = time.monotonic() - begin
    assert code == 503 and "retry-after" in headers and 0.9 < took < 15 * SLOW
    w.ended(1013)
    daemon.metric_is("omid_auth_waiting", 0)
    assert status(daemon, daemon.admin_key + "a") == 101


def test_those_who_wait_are_let_in_when_the_keys_come(start_daemon, issuer, web):
    issuer.http.on(PATH, Answer(drip=0.001, body=issuer.key_set()))
    daemon = start_daemon(merge(issuer.settings(wait="30s"), {"auth": {"lane": {"timeout": "30s"}}}))
    w = web(daemon, custom_stt="enabled")
    w.say({"type": "auth", "token": issuer.token("b")})
    # What comes meanwhile waits in its order.
    for n in range(20):
        w.say({"type": "suggested_transcript", "segments": [{"text": "Number %d." % n, "speaker": "SPEAKER_00",
                                                             "start": 2.0 * n, "end": 2.0 * n + 1}]})
    assert status(daemon, issuer.token("a")) == 101
    until(lambda: "Number 19." in w.text(), what=lambda: "the texts, not %r" % w.text())
    assert w.text() == " ".join("Number %d." % n for n in range(20))
    assert w.messages[0] == {"type": "auth_response", "success": True}
    assert issuer.fetches == 1


def test_clients_leave_while_they_wait(start_daemon, issuer, web):
    issuer.misbehave(hang=True)
    daemon = start_daemon(merge(issuer.settings(wait="30s"), {"auth": {"lane": {"timeout": "30s"}}}))
    open_before = daemon.fds()
    sockets = []
    for n in range(20):
        host, port = daemon.address.rsplit(":", 1)
        c = http.client.HTTPConnection(host, int(port), timeout=20 * SLOW)
        c.request("GET", "/v4/listen", headers=dict(UPGRADE, Authorization="Bearer " + issuer.token("u%d" % n)))
        w = web(daemon)
        w.say({"type": "auth", "token": issuer.token("w%d" % n)})
        sockets.append((c, w))
    until(lambda: daemon.metric("omid_auth_waiting") == 40, what="all to wait")
    for c, w in sockets:
        c.sock.close()
        w.hang_up()
    until(lambda: daemon.metric("omid_auth_waiting") <= 20, what="the native ones to be gone")
    until(lambda: daemon.fds() <= open_before + 21, what="descriptors")
    daemon.stop()  # with those that are not read, and so not known to be gone


def test_the_end_comes_while_they_wait(start_daemon, issuer, web):
    issuer.misbehave(hang=True)
    daemon = start_daemon(merge(issuer.settings(wait="30s"), {"auth": {"lane": {"timeout": "30s"}}}))
    w = web(daemon)
    w.say({"type": "auth", "token": issuer.token("w")})
    until(lambda: daemon.metric("omid_auth_waiting") == 1, what="it to wait")
    daemon.stop()
    w.ended(1001)


def test_too_many_wait(start_daemon, issuer):
    """The list of those that wait is bounded; the next one is told at once."""
    issuer.misbehave(hang=True)
    daemon = start_daemon(merge(issuer.settings(wait="30s"), {"auth": {"lane": {"timeout": "60s"}}, "ingress": {
        "max_connections_per_address": 3000}}))
    bearer, waiting = issuer.token("a"), []
    host, port = daemon.address.rsplit(":", 1)
    try:
        for n in range(1024):
            c = http.client.HTTPConnection(host, int(port), timeout=20 * SLOW)
            c.request("GET", "/v4/listen", headers=dict(UPGRADE, Authorization="Bearer " + bearer))
            waiting.append(c)
        until(lambda: daemon.metric("omid_auth_waiting") == 1024, what="all to wait")
        code, _, body = upgrade(daemon, bearer)
        assert code == 503 and "too many" in body["error"]
        daemon.metric_is("omid_auth_tokens_total", 1, result="full")
        assert status(daemon, daemon.admin_key + "a") == 101
    finally:
        for c in waiting:
            c.close()


def test_keys_change_while_many_come(start_daemon, issuer):
    """Several ingress threads, keys fetched all the time, and rotated; whoever has a good token gets in."""
    issuer.keys["two"] = key("two")
    issuer.publish(max_age=0)
    daemon = start_daemon(merge(issuer.settings(refresh_min="100ms"), {"ingress": {"threads": 3}}))
    has_keys(daemon, 2)
    wrong = []

    def come(n):
        for i in range(25):
            got = status(daemon, issuer.token("u%d" % n, kid=("one", "two")[i % 2]))
            if got != 101:
                wrong.append(got)
            if status(daemon, issuer.token("u%d" % n, kid="three", private=key("three"))) != 403:
                wrong.append("in")

    threads = [threading.Thread(target=come, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and issuer.fetches >= 3
    daemon.metric_is("omid_auth_waiting", 0)
    daemon.metric_is("omid_auth_tokens_total", 150, result="ok")


# ---------------------------------------------------------------------------- reload


def test_reload_to_another_project(start_daemon, issuer):
    daemon = ready(start_daemon, issuer)
    other = Issuer()
    try:
        other.keys = {"one": key("other")}
        other.publish()
        assert status(daemon, other.token("a", aud="p2", iss="https://p2")) == 403
        daemon.rewrite(other.settings(project="p2", issuer="https://p2"))
        daemon.process.send_signal(1)
        until(lambda: other.fetches == 1, what="the other's keys")
        until(lambda: status(daemon, other.token("a", aud="p2", iss="https://p2")) == 101, what="the other's tokens")
        assert status(daemon, issuer.token("a")) == 403
        daemon.rewrite({})
        daemon.process.send_signal(1)
        until(lambda: status(daemon, other.token("a", aud="p2", iss="https://p2")) == 403, what="none at all")
        daemon.metric_is("omid_auth_keys", 0)
        daemon.rewrite(issuer.settings())
        daemon.process.send_signal(1)
        until(lambda: status(daemon, issuer.token("a")) == 101, what="the first again")
    finally:
        other.stop()


def test_nothing_is_logged_that_would_let_one_in(start_daemon, issuer, web):
    daemon = ready(start_daemon, issuer)
    bearer = issuer.token("alice")
    assert status(daemon, bearer) == 101
    w = web(daemon)
    w.say({"type": "auth", "token": bearer})
    until(lambda: w.messages, what="the answer")
    assert status(daemon, bearer[:-3]) == 403
    signature = bearer.rsplit(".", 1)[1]
    daemon.stop()
    assert signature[:20] not in daemon.log() and bearer[:60] not in daemon.log()
