#!/usr/bin/python3
"""
What omid replaces, at its best: a Python relay of the same shape as omid's listen endpoint and nothing else. uvicorn on
uvloop takes the clients, `websockets` speaks to the provider; each binary message goes on as it came, each result comes
back as segments. No store, no combining, no limits: less than omid does.

    relay.py PROVIDER_URL       prints its port
"""
import asyncio
import json
import socket
import sys
import uuid

import uvicorn
import websockets

PROVIDER = sys.argv[1] + "/v1/listen?model=nova-3&sample_rate=16000&encoding=linear16&channels=1"


def segments(message):
    """The words of one speaker become one segment."""
    out = []
    for word in message["channel"]["alternatives"][0]["words"]:
        speaker = "SPEAKER_%02d" % word["speaker"]
        if out and out[-1]["speaker"] == speaker:
            out[-1]["text"] += " " + word["punctuated_word"]
            out[-1]["end"] = word["end"]
        else:
            out.append({"id": str(uuid.uuid4()), "text": word["punctuated_word"], "speaker": speaker,
                        "speaker_id": word["speaker"], "is_user": False, "person_id": None, "start": word["start"],
                        "end": word["end"], "translations": [], "speech_profile_processed": True,
                        "stt_provider": "dg-nova-3"})
    return out


async def results(provider, send):
    async for text in provider:
        message = json.loads(text)
        if message["type"] == "Results" and message["channel"]["alternatives"][0]["transcript"]:
            await send({"type": "websocket.send", "text": json.dumps(segments(message))})


async def pings(send):
    while True:
        await send({"type": "websocket.send", "text": "ping"})
        await asyncio.sleep(10)


async def session(receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps({"type": "service_status", "status": "initiating",
                                                              "status_text": "Service Starting"})})
    async with websockets.connect(PROVIDER, compression=None, ping_interval=None, max_queue=64) as provider:
        tasks = [asyncio.create_task(results(provider, send)), asyncio.create_task(pings(send))]
        await send({"type": "websocket.send",
                    "text": json.dumps({"type": "service_status", "status": "ready", "status_text": None})})
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                break
            if event.get("bytes"):
                await provider.send(event["bytes"])
        await provider.send('{"type":"CloseStream"}')
        try:
            await asyncio.wait_for(provider.wait_closed(), 5)
        finally:
            for task in tasks:
                task.cancel()


async def app(scope, receive, send):
    assert scope["type"] == "websocket", scope["type"]
    event = await receive()
    assert event["type"] == "websocket.connect", event["type"]
    await session(receive, send)


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(1024)
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, loop="uvloop", ws="websockets", lifespan="off", log_level="warning", backlog=1024,
                              ws_ping_interval=None, ws_ping_timeout=None)).run(sockets=[listener])
