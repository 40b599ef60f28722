"""How lanes reach the outside: proxies, client certificates, redirects, settings per target prefix."""
import json
import subprocess

import pytest

from support import caller
from support.caller import BLOCKED, LOCAL, OK, PROTOCOL, TIMEOUT, TLS, WS_CONNECT, call, lane, needs_caller
from support.daemon import merge, program
from support.peers import Peer, Proxy
from support.wait import until

pytestmark = needs_caller


@pytest.fixture
def start():
    """start(Peer, ...) -> it; stopped after the test."""
    made = []

    def make(kind, *args):
        made.append(kind(*args))
        return made[-1]
    yield make
    for peer in made:
        peer.stop()


def check(daemon):
    """omid -t on the daemon's file: (status, output)"""
    done = subprocess.run([program("omid"), "-t", "-f", daemon.conf], capture_output=True, text=True, timeout=60,
                          check=False)
    return done.returncode, done.stdout + done.stderr


def reload(daemon, status=0):
    done = subprocess.run([program("omictl"), "--socket", daemon.control, "reload"], capture_output=True, text=True,
                          timeout=60, check=False)
    assert (done.returncode == 0) == (status == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


# ---------------------------------------------------------------- proxies

CREDENTIALS = "me:p%w: d%41"


def test_proxy(start_daemon, start, authority, tmp_path):
    peer, secure, proxy = start(Peer), start(Peer, authority.server_context()), start(Proxy, CREDENTIALS)
    dead = {k: "http://127.0.0.1:1" for k in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")}
    (tmp_path / "auth").write_text(CREDENTIALS + "\n")
    (tmp_path / "auth").chmod(0o600)
    daemon = start_daemon(caller.settings(**{
        "proxy": proxy.url, "proxy_auth_file": tmp_path / "auth", "tls": {"ca": authority.ca},
        'target "%s"' % peer.url("/ok/direct"): {"proxy": "none"}}), {**dead, "no_proxy": "*"})
    results = call(daemon, "GET " + peer.url("/ok/a"), "GET " + secure.url("/ok/b", "https"),
                   "WS " + peer.url("/x", "ws"), "WS " + secure.url("/x", "wss"), "GET " + peer.url("/ok/direct"))
    assert [r["error"] for r in results] == [OK] * 5, results
    assert [r["body"] for r in results] == ["ok", "ok", "hello", "hello", "ok"]
    lines = sorted(line for line, _ in proxy.requests)
    assert lines == sorted(["GET %s HTTP/1.1" % peer.url("/ok/a"), "CONNECT 127.0.0.1:%d HTTP/1.1" % secure.port,
                            "CONNECT 127.0.0.1:%d HTTP/1.1" % peer.port,
                            "CONNECT 127.0.0.1:%d HTTP/1.1" % secure.port]), lines
    # The credentials are the proxy's business alone.
    assert not any("proxy-authorization" in headers for _, headers, _ in peer.requests + secure.requests)
    # They never show.
    assert "p%w" not in daemon.log()


def test_proxy_refuses(start_daemon, start):
    peer, proxy = start(Peer), start(Proxy, CREDENTIALS)
    daemon = start_daemon(caller.settings(proxy=proxy.url, proxy_auth="me:wrong", breaker={"failures": 1}))
    plain, ws = call(daemon, "GET " + peer.url("/ok/a"), "WS " + peer.url("/x", "ws"))
    assert plain["error"] == OK and plain["status"] == 407
    assert ws["error"] == WS_CONNECT and ws["body"] == "", ws
    secure = call(daemon, "GET " + peer.url("/ok/b", "https"))[0]
    assert secure["error"] == LOCAL and "407" in secure["text"], secure
    # Our own credentials: no breaker opens for it.
    assert call(daemon, "GET " + peer.url("/ok/b", "https"))[0]["error"] == LOCAL
    assert call(daemon, "WS " + peer.url("/x", "ws"))[0]["error"] == WS_CONNECT
    assert not peer.requests


def test_no_proxy_for_urls_of_users(start_daemon):
    daemon = start_daemon(caller.settings())
    daemon.rewrite(merge(caller.settings(), {"plugin webhooks": {"proxy": "http://127.0.0.1:3128"}}))
    status, said = check(daemon)
    assert status != 0 and "plugin webhooks: proxy: expected none" in said, said
    assert "plugin webhooks: proxy: expected none" in reload(daemon, 1)
    assert daemon.healthz() == 200


# ---------------------------------------------------------------- certificates

def test_client_certificate(start_daemon, start, authority):
    cert, key = authority.issue("client", usage="clientAuth")
    _, wrong = authority.issue("another", usage="clientAuth")
    peer = start(Peer, authority.asking_context())
    other = start(Peer, authority.asking_context("localhost", False))
    with_it = caller.settings(follow=2, tls={"certificate": cert, "key": key, "ca": authority.ca})
    daemon = start_daemon(with_it)
    lines = ["GET " + peer.url("/ok/a", "https"), "WS " + peer.url("/x", "wss")]
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]
    assert [cert for _, _, cert in peer.requests] == [{"commonName": "client"}] * 2

    # A redirect to another origin is followed without it.
    url = peer.url("/to/302/" + other.url("/ok/b", "https"), "https")
    assert call(daemon, "GET " + url)[0]["redirects"] == 1
    assert [cert for _, _, cert in other.requests] == [None]
    # The other origin itself is shown it: no connection of the redirect is taken for that.
    assert call(daemon, "GET " + other.url("/ok/c", "https"))[0]["error"] == OK
    assert [cert for _, _, cert in other.requests] == [None, {"commonName": "client"}]

    # Another's key: named, and all goes on as it was.
    daemon.rewrite(merge(with_it, {"plugin caller": {"tls": {"key": wrong}}}))
    line = daemon.conf.read_text().splitlines().index('        key = "%s"' % wrong) + 1
    want = "%s:%d: plugin caller: tls.key: expected the key of the certificate in" % (daemon.conf, line)
    assert want in check(daemon)[1] and want in reload(daemon, 1)
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]

    # Without one: new settings, though no target is new and no connection need be.
    daemon.rewrite(caller.settings(follow=2, tls={"ca": authority.ca}))
    reload(daemon)
    results = call(daemon, *lines)
    assert results[0]["error"] in (TLS, caller.RESET) and results[1]["error"] == WS_CONNECT, results

    # A block of the target's own brings it back, for both.
    block = {"certificate": cert, "key": key}
    daemon.rewrite(caller.settings(**{"follow": 2, "tls": {"ca": authority.ca},
                                      'target "%s"' % peer.url("/", "https"): {"tls": block},
                                      'target "%s"' % peer.url("/", "wss"): {"tls": block}}))
    reload(daemon)
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]


def test_client_certificate_renewed(start_daemon, start, authority, tmp_path):
    """Other bytes under the same names: taken with a reload, and no kept connection shows the former."""
    def issue(name):
        for source, to in zip(authority.issue(name, usage="clientAuth"), ("client.pem", "client.key")):
            (tmp_path / to).write_bytes(source.read_bytes())
            (tmp_path / to).chmod(0o600)
    issue("former")
    peer = start(Peer, authority.asking_context())
    daemon = start_daemon(caller.settings(tls={"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key",
                                               "ca": authority.ca}))
    lines = ["GET " + peer.url("/ok/a", "https"), "WS " + peer.url("/x", "wss")]
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]
    issue("renewed")
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]
    assert [cert for _, _, cert in peer.requests] == [{"commonName": "former"}] * 4
    assert "(1 with another lane)" in reload(daemon)
    assert [r["error"] for r in call(daemon, *lines)] == [OK, OK]
    assert [cert for _, _, cert in peer.requests[4:]] == [{"commonName": "renewed"}] * 2


# ---------------------------------------------------------------- redirects and blocks

def test_redirects(start_daemon, start, authority):
    peer, secure = start(Peer), start(Peer, authority.server_context())
    daemon = start_daemon(caller.settings(tls={"ca": authority.ca}))
    lines = ["GET " + peer.url("/to/302//ok/a"), "GET " + peer.url("/to/301/" + secure.url("/ok/b", "https")),
             "GET " + secure.url("/to/302/" + peer.url("/ok/c"), "https"), "GET " + peer.url("/loop/d")]
    assert [(r["error"], r["status"]) for r in call(daemon, *lines)] == [(OK, 302), (OK, 301), (OK, 302), (OK, 302)]
    daemon.rewrite(caller.settings(follow=3, tls={"ca": authority.ca}))
    reload(daemon)
    results = call(daemon, *lines)
    assert [r["error"] for r in results] == [OK, OK, BLOCKED, PROTOCOL], results
    assert "from https to http" in results[2]["text"]
    assert [r["status"] for r in results] == [200, 200, 0, 0]
    daemon.metric_is("omid_lane_redirects_total", 5, lane="caller")


def test_target_blocks(start_daemon, start):
    peer = start(Peer)
    never = 'target "http://never.example/secret-token/"'
    quick, base = 'target "%s"' % peer.url("/silent/"), {"timeout": "30s", never: {"timeout": "1s"}}
    daemon = start_daemon(caller.settings(**base))
    daemon.rewrite(caller.settings(**base, **{quick: {"timeout": "200ms", "breaker": {"failures": 1}}}))
    said = reload(daemon)
    r = call(daemon, "GET " + peer.url("/silent/a"))[0]
    assert r["error"] == TIMEOUT and r["elapsed_ms"] < 20000, (r, said)
    assert call(daemon, "GET " + peer.url("/silent/a"))[0]["error"] == caller.BREAKER
    blocks = {b["prefix"]: b for b in lane(daemon)["target_blocks"]}
    assert blocks[peer.url("/silent/")]["matched"] == 1 and blocks[peer.url("/silent/")]["targets"] == 1
    assert blocks["http://never.example:80/secret-token/"]["matched"] == 0
    table = subprocess.run([program("omictl"), "--socket", daemon.control, "lanes"], capture_output=True, text=True,
                           timeout=60, check=True).stdout
    assert "http://never.example:80/secret-token/" in table and "matched no target" in table, table
    # What has been there and never matched is warned about; its path may be a secret.
    warned = until(lambda: daemon.logged("a target block has matched no target so far"), what="the warning")
    assert "never.example" in warned[0] and not daemon.logged("secret-token")
    # An open breaker outlives the block that opened it.
    daemon.rewrite(caller.settings(timeout="30s"))
    reload(daemon)
    assert lane(daemon)["target_blocks"] == []
    assert call(daemon, "GET " + peer.url("/silent/a"))[0]["error"] == caller.BREAKER
    breakers = json.loads(daemon.get_control("/v1/admin/breakers")[1])["breakers"]
    assert [b["state"] for b in breakers if b["target"].endswith("/silent/a")] == ["open"]
