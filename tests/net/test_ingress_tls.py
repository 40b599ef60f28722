"""TLS of ingress; see test_ingress.py."""
import os
import ssl
import struct

import pytest

from support.raw import BINARY, CLOSE, Raw, dial, frame, read_head, serve  # noqa: F401
from support.wait import until


@pytest.fixture
def tls(serve, authority):
    cert, key = authority.issue()
    return serve({"tls": {"certificate": str(cert), "key": str(key)}, "request_timeout": "1500ms",
                  "max_connections_per_address": 2000})


def tls_dial(daemon, authority, **change):
    context = ssl.create_default_context(cafile=str(authority.ca))
    for name, value in change.items():
        if name == "alpn":
            context.set_alpn_protocols(value)
        elif name == "ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, value)
    return context.wrap_socket(dial(daemon), server_hostname="localhost")


def test_websocket_over_tls(tls, authority):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        s = tls_dial(tls, authority, minimum_version=version, maximum_version=version)
        ws = Raw(tls, s=s)
        for n in (1, 1000, 100000):
            payload = os.urandom(n)
            ws.send(frame(BINARY, payload))
            assert ws.read() == (BINARY, payload)
        ws.send(frame(CLOSE, struct.pack(">H", 1000)))
        assert ws.read() == (CLOSE, struct.pack(">H", 1000))
        s.close()


def test_tls_offers_http1_only(tls, authority):
    assert tls_dial(tls, authority, alpn=["h2", "http/1.1"]).selected_alpn_protocol() == "http/1.1"
    s = tls_dial(tls, authority, alpn=["h2"])
    assert s.selected_alpn_protocol() is None
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert read_head(s)[0] == 400
    s.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")  # what is offered is old on purpose
def test_old_tls_is_refused(tls, authority):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            tls_dial(tls, authority, minimum_version=version, maximum_version=version,
                     ciphers="ALL:@SECLEVEL=0").close()


def test_tls_handshakes_that_never_finish(tls, authority):
    start = tls.process and len(os.listdir("/proc/%d/fd" % tls.process.pid))
    held = [dial(tls) for _ in range(1000)]
    for i, s in enumerate(held):
        if i % 3 == 0:
            s.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        elif i % 3 == 1:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    s = tls_dial(tls, authority)
    s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_head(s)[0] == 200
    s.close()
    until(lambda: tls.fds() <= start + 5, what="the descriptors to come back")
    for s in held:
        s.close()
