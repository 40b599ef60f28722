"""The peers themselves, without omid: a scenario is worth what its peers are worth."""
import asyncio
import http.client
import json
import ssl
import struct

import pytest
import websockets

from support.aio import background
from support.deepgram import Mode
from support.receiver import Answer
from support.wait import until

LISTEN = "ws://localhost:%d/v1/listen?sample_rate=8000"


async def transcribe(url, seconds=1.0, context=None):
    ws = await websockets.connect(url, ssl=context)
    await ws.send(struct.pack("<h", 7) * int(8000 * seconds))
    await ws.send('{"type":"CloseStream"}')
    out = []
    try:
        while True:
            out.append(json.loads(await ws.recv()))
    except websockets.ConnectionClosed as e:
        return out, e.code


def test_deepgram_answers_with_what_it_heard(deepgram):
    out, code = background().run(transcribe(LISTEN % deepgram.port, 1.2))
    assert [m["type"] for m in out] == ["Results", "Results", "Results", "Metadata"]
    assert out[1]["channel"]["alternatives"][0]["transcript"] == "v7 n2."
    assert code == 1000 and deepgram.streams[0].audio == 19200


def test_deepgram_refuses_and_hangs_by_script(deepgram):
    deepgram.script(Mode(status=429), Mode(hang=True))
    with pytest.raises(websockets.InvalidStatusCode) as refused:
        background().run(transcribe(LISTEN % deepgram.port))
    assert refused.value.status_code == 429

    async def hang():
        await websockets.connect(LISTEN % deepgram.port, open_timeout=0.3)

    with pytest.raises(asyncio.TimeoutError):
        background().run(hang())
    until(lambda: deepgram.attempts[1].gone, what="the peer to see the end")


def test_deepgram_over_tls(deepgram_tls, authority):
    context = ssl.create_default_context(cafile=str(authority.ca))
    out, _ = background().run(transcribe((LISTEN % deepgram_tls.port).replace("ws:", "wss:"), context=context))
    assert out[-1]["type"] == "Metadata"


def test_receiver_records_and_misbehaves(receiver):
    receiver.on("/hook", Answer(500), Answer(reset=True), Answer())
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)

    def post():
        connection.request("POST", "/hook?uid=a", body=b'{"a":1}')
        response = connection.getresponse()
        response.read()
        return response.status

    assert post() == 500
    with pytest.raises(ConnectionError):
        post()
    connection.close()
    assert post() == 200
    connection.close()
    assert [d.json for d in receiver.at("/hook")] == [{"a": 1}] * 3
    assert receiver.deliveries[0].query == {"uid": ["a"]}
