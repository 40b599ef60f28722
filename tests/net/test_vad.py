"""Recordings searched for speech: POST /v1/vad, the hosted engine and what it may do, the local engine behind it."""
import email
import http.client
import io
import json
import struct
import wave

import pytest

from support.receiver import Answer, Receiver
from support.wait import SLOW, until

KEY = "scenario-vad-key"
RATE = 16000
FAST = {"connect_timeout": "500ms", "timeout": "800ms", "breaker": {"failures": 1000, "min_attempts": 1000}}
HTML = b"<html><body>Service</body></html>"
GOOD = json.dumps([{"start": 0.25, "end": 1.5, "duration": 1.25}, {"start": 2, "end": 2.5, "duration": 0.5}]).encode()

# What a partner may do, and what that is called.
BAD = [
    (Answer(hang=True), "timeout"), (Answer(body=GOOD, drip=0.3), "timeout"), (Answer(reset=True), "unreached"),
    (Answer(401), "refused"), (Answer(404), "refused"), (Answer(429), "busy"), (Answer(503), "busy"), (Answer(500), "server"),
    (Answer(body=HTML, headers={"Content-Type": "text/html"}), "bad_answer"), (Answer(body=b""), "bad_answer"),
    (Answer(body=b'{"segments":[]}'), "bad_answer"), (Answer(body=b'[{"start":"0","end":"1"}]'), "bad_answer"),
    (Answer(body=b'[{"start":NaN,"end":1}]'), "bad_answer"), (Answer(body=b'[{"start":0,"end":99}]'), "bad_answer"),
    (Answer(body=b'[{"start":2,"end":1}]'), "bad_answer"), (Answer(body=b"["), "bad_answer"),
    (Answer(body=b"[" * 5000), "bad_answer"), (Answer(huge=8 << 20), "bad_answer"),
]


def wav(pcm, rate=RATE, channels=1):
    out = io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setparams((channels, 2, rate, 0, "NONE", ""))
        w.writeframes(pcm)
    return out.getvalue()


def form(data, name="file", boundary="b0undary"):
    head = "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"../x.wav\"\r\n\r\n" % (boundary, name)
    return head.encode() + data + ("\r\n--%s--\r\n" % boundary).encode(), "multipart/form-data; boundary=" + boundary


def post(daemon, body, content_type="audio/wav", query="", token=None):
    """(status, JSON, the engine)"""
    host, port = daemon.address.rsplit(":", 1)
    c = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
    try:
        headers = {"Content-Type": content_type} if content_type else {}
        if token != "":
            headers["Authorization"] = "Bearer " + (token or daemon.admin_key + "ann")
        c.request("POST", "/v1/vad" + query, body, headers)
        response = c.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text.startswith((b"{", b"[")) else text, response.getheader("Omid-Engine")
    finally:
        c.close()


def fallbacks(daemon, reason=None):
    labels = {"component": "vad", "from_mode": "hosted", "to_mode": "local", "outcome": "degraded"}
    return daemon.metric("omi_fallback_total", **(dict(labels, reason=reason) if reason else labels))


def says(answer, status, text):
    assert answer[0] == status and text in answer[1]["error"], answer


@pytest.fixture(params=[False, True], ids=["http", "https"])
def partner(request, authority):
    peer = Receiver(authority.server_context() if request.param else None)
    peer.environment = {"SSL_CERT_FILE": str(authority.ca)} if request.param else None
    yield peer
    peer.stop()


def test_hosted(start_daemon, partner):
    """The request as it is specified, the answer, and every way in which there is none."""
    daemon = start_daemon({"plugin vad": dict(FAST, url=partner.url("/detect"), key=KEY)}, partner.environment)
    pcm = bytes(range(256)) * 125  # one second
    partner.on("/detect", Answer(body=b"[]"))
    assert post(daemon, wav(pcm)) == (200, [], "hosted")
    sent = partner.at("/detect")[0]
    assert sent.method == "POST" and sent.headers["authorization"] == "Bearer " + KEY
    message = email.message_from_bytes(b"Content-Type: " + sent.headers["content-type"].encode() + b"\r\n\r\n" + sent.body)
    part, = message.get_payload()
    assert message.get_content_type() == "multipart/form-data" and part.get_content_type() == "audio/wav"
    assert part.get_param("name", header="content-disposition") == "file" and part.get_filename().endswith(".wav")
    with wave.open(io.BytesIO(part.get_payload(decode=True))) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, RATE)
        assert w.readframes(w.getnframes()) == pcm

    silence = wav(bytes(3 * 2 * RATE))
    partner.on("/detect", Answer(body=GOOD))
    found = [{"start": 0.25, "end": 1.5, "duration": 1.25}, {"start": 2.0, "end": 2.5, "duration": 0.5}]
    assert post(daemon, silence) == (200, found, "hosted")
    assert post(daemon, silence, query="?engine=local") == (200, [], "local")
    assert not fallbacks(daemon)

    for answer, reason in BAD:
        before = fallbacks(daemon, reason)
        partner.on("/detect", answer)
        assert post(daemon, silence) == (200, [], "local"), (answer, reason)
        assert fallbacks(daemon, reason) == before + 1, (answer, reason)
    assert fallbacks(daemon) == len(BAD)
    partner.on("/detect", Answer(500))
    says(post(daemon, silence, query="?engine=hosted"), 502, "HTTP status 500")
    assert fallbacks(daemon) == len(BAD)
    partner.stop()
    before = fallbacks(daemon, "unreached")
    assert post(daemon, silence) == (200, [], "local")
    assert fallbacks(daemon, "unreached") == before + 1
    assert KEY not in daemon.log() and KEY not in daemon.get("/metrics")[1].decode()


def test_certificate_of_a_stranger(start_daemon, authority):
    peer = Receiver(authority.server_context())
    daemon = start_daemon({"plugin vad": dict(FAST, url=peer.url("/detect"), key=KEY)})
    assert post(daemon, wav(bytes(2 * RATE))) == (200, [], "local")
    until(lambda: fallbacks(daemon, "unreached") == 1, what="it to be counted")
    assert not peer.deliveries
    peer.stop()


def test_local(start_daemon, speech):
    daemon = start_daemon({"plugin vad": {}, "ingress": {"max_body": "4MiB"}})
    quiet = bytes(2 * 2 * RATE)
    loud = wav(quiet + speech + quiet)
    status, found, engine = post(daemon, loud)
    assert (status, engine) == (200, "local") and found
    end = 4 + len(speech) / 2 / RATE
    assert 1.5 < found[0]["start"] < 4 and 3 < found[-1]["end"] < end
    for f in found:
        assert abs(f["end"] - f["start"] - f["duration"]) < 0.002 and f["duration"] > 0
    assert all(a["end"] < b["start"] for a, b in zip(found, found[1:]))
    # The same, however it comes.
    assert post(daemon, *form(loud)) == (200, found, "local")
    both = b"".join(loud[44 + i:46 + i] * 2 for i in range(0, len(loud) - 44, 2))
    assert post(daemon, wav(both, channels=2)) == (200, found, "local")

    says(post(daemon, loud, query="?engine=hosted"), 400, "engine: there is no hosted one here")
    says(post(daemon, loud, query="?engine=x"), 400, "engine: expected hosted or local")
    says(post(daemon, loud, "text/plain"), 415, "expected audio/wav")
    says(post(daemon, loud, None), 415, "expected audio/wav")
    says(post(daemon, b""), 400, "WAV: not a RIFF file")
    says(post(daemon, b"RIFF" + bytes(100)), 400, "WAV: a RIFF file, but not WAVE")
    says(post(daemon, wav(b"")), 400, "no samples")
    assert post(daemon, wav(b"\0\0")) == (200, [], "local")
    says(post(daemon, loud[:-2]), 400, "promises more audio")
    says(post(daemon, wav(quiet, 7999)), 400, "7999 Hz, expected 8000 to 192000")
    says(post(daemon, wav(quiet, 192001)), 400, "192001 Hz")
    assert post(daemon, wav(quiet, 192000)) == (200, [], "local")
    # Floats, with some that are none; a length that lies, each way.
    values = [v / 32768 for v, in struct.iter_unpack("<h", loud[44:])]
    floats = struct.pack("<%df" % len(values), *values)
    head = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    assert post(daemon, head + b"data" + struct.pack("<I", len(floats)) + floats) == (200, found, "local")
    assert post(daemon, head + b"data\xff\xff\xff\xff" + floats) == (200, found, "local")  # it could not seek back
    odd = struct.pack("<6f", float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 0) * 1000
    assert post(daemon, head + b"data" + struct.pack("<I", len(odd)) + odd)[0] == 200
    says(post(daemon, head + b"data" + struct.pack("<I", len(odd) + 1) + odd), 400, "promises more audio")
    says(post(daemon, head + b"LIST\xf0\xff\xff\xff" + odd), 400, "no data chunk")
    assert post(daemon, wav(bytes(2 * RATE))[:44] + b"")[0] == 400
    says(post(daemon, form(loud, name="other")[0], form(b"")[1]), 400, "file: expected a part of this name")
    says(post(daemon, form(loud)[0][:-20], form(b"")[1]), 400, "it has no end")
    says(post(daemon, b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n" * 10000 + b"--b--",
              "multipart/form-data; boundary=b"), 400, "part 1001: there are more parts")
    assert post(daemon, loud, token="")[0] == 401
    assert post(daemon, wav(bytes(5 << 20)))[0] == 413
    daemon.metric_reaches("omid_plugin_vad_scans_total", 5, engine="local")
