"""
A scripted Deepgram. What it recognises is in the audio: every `every` seconds of it become one result, whose words name
the value of the samples and the running number, so that a test can tell whose audio was heard, and whether all of it was.
"""
import asyncio
import json
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Callable, Optional, Sequence, Tuple
from urllib.parse import parse_qs, urlsplit

import websockets

from .aio import background


@dataclass
class Mode:
    """What the peer does with one connection attempt."""

    status: int = 0  # refuses the upgrade with this HTTP status
    hang: bool = False  # never answers the upgrade
    tls: str = ""  # no upgrade: "refused" in the handshake, or the certificate of a "stranger"
    every: float = 0.5  # seconds of audio per result
    words: Optional[Callable] = None  # (value of the samples, number) -> [(word, speaker)]
    inject: Sequence[Tuple[float, str]] = ()  # after so many seconds of audio, this text as it is
    drop_after: Optional[float] = None  # seconds of audio, then the connection is reset
    close_after: Optional[Tuple[float, int]] = None  # seconds of audio, then a Close with this code
    silent: bool = False  # takes everything, says nothing, not even at CloseStream
    mute_after: Optional[float] = None  # seconds of audio, then it says nothing more
    deaf_after: Optional[float] = None  # seconds of audio, then it reads no more
    pace: Optional[float] = None  # reads no faster than so many times real time
    swap: bool = False  # each pair of results comes in the wrong order
    keep: bool = False  # of the audio, every sample
    tail: Sequence[Tuple[str, int]] = ()  # words of a result that comes only after CloseStream
    tail_delay: float = 0.0
    on_finalize: str = ""  # or "close", "drop": answers Finalize, and ends the stream right behind the answer
    on_close: str = "answer"  # or "ignore": CloseStream is left without an answer; "drop": reset instead


def default_words(value, number):
    return [("v%d" % value, 0), ("n%d." % number, 0)]


def result(start, duration, words, final=True, **more):
    """A Results message. Words: (text, speaker), spread evenly."""
    step = duration / max(1, len(words))
    out = []
    for i, (text, speaker) in enumerate(words):
        out.append({"word": text.lower().strip(".,?!"), "punctuated_word": text, "start": round(start + i * step, 3),
                    "end": round(start + (i + 1) * step, 3), "confidence": 0.9, "speaker": speaker})
    message = {"type": "Results", "channel_index": [0, 1], "duration": duration, "start": start, "is_final": final,
               "speech_final": final,
               "channel": {"alternatives": [{"transcript": " ".join(w for w, _ in words), "confidence": 0.9,
                                             "words": out}]},
               "metadata": {"request_id": "r", "model_uuid": "m", "model_info": {}}}
    message.update(more)
    return json.dumps(message)


@dataclass
class Attempt:
    """One upgrade request, or a TLS handshake that got no further."""

    time: float
    path: str
    headers: dict
    mode: Mode
    gone: bool = False  # the other side has ended it

    @property
    def query(self):
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)


@dataclass
class Stream:
    """One connection that was accepted."""

    attempt: Attempt
    audio: int = 0  # bytes
    pcm: bytearray = field(default_factory=bytearray)  # with Mode.keep
    values: list = field(default_factory=list)  # the first sample of each frame
    frames: int = 0
    empty_frames: int = 0
    texts: list = field(default_factory=list)  # (time, type)
    audio_times: list = field(default_factory=list)
    results: int = 0
    closed: bool = False
    close_code: Optional[int] = None
    ws: object = None

    def kinds(self):
        return [kind for _, kind in self.texts]


class Deepgram:
    def __init__(self, context=None, host="127.0.0.1", stranger=None):
        self._host = host
        self.default = Mode()
        self.attempts = []
        self.streams = []
        self.key = None  # when set, another key gets 401
        self._script = []
        self._context = context
        self._stranger = stranger  # the context of somebody else, for Mode.tls
        if context:
            context.sni_callback = self._greet
        self.stopped = asyncio.Event()
        self._server = background().run(self._serve())
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = "%s://localhost:%d" % ("https" if context else "http", self.port)

    def script(self, *modes):
        """The next attempts get these, one each; then the default."""
        self._script.extend(modes)

    def narrow(self):
        """Streams to come have little room for what is not read yet."""
        self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)

    def live(self):
        return [s for s in self.streams if not s.closed]

    def stop(self):
        background().run(self._stop())

    async def _stop(self):
        self.stopped.set()
        self._server.close()
        for stream in self.live():
            stream.ws.transport.abort()
        for task in [a for a in asyncio.all_tasks() if getattr(a, "_omid_hang", None) is self]:
            task.cancel()
        await asyncio.wait_for(self._server.wait_closed(), 10)

    async def _serve(self):
        peer = self

        class Protocol(websockets.WebSocketServerProtocol):
            async def process_request(self, path, headers):
                return await peer._upgrade(self, path, headers)

        return await websockets.serve(self._talk, self._host, 0, ssl=self._context, create_protocol=Protocol,
                                      compression=None, max_size=None, ping_interval=None,
                                      close_timeout=2)

    def _mode(self):
        return self._script[0] if self._script else self.default

    def _greet(self, sock, name, context):
        """A TLS handshake has begun."""
        mode = self._mode()
        if not mode.tls:
            return None
        self._script[:1] = []
        self.attempts.append(Attempt(time.monotonic(), "", {}, mode))
        if mode.tls == "refused":
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        sock.context = self._stranger
        return None

    async def _upgrade(self, ws, path, headers):
        mode = self._mode()
        self._script[:1] = []
        attempt = Attempt(time.monotonic(), path, {k.lower(): v for k, v in headers.items()}, mode)
        self.attempts.append(attempt)
        ws.attempt = attempt
        if mode.hang:
            asyncio.current_task()._omid_hang = self
            # The end of the other side is seen although nothing is read here.
            await ws.reader.read()
            attempt.gone = True
            return HTTPStatus.SERVICE_UNAVAILABLE, [], b""
        if self.key and attempt.headers.get("authorization") != "Token " + self.key:
            return HTTPStatus.UNAUTHORIZED, [], b'{"err_code":"INVALID_AUTH"}'
        if mode.status:
            return HTTPStatus(mode.status), [], b'{"err_code":"scripted"}'
        return None

    async def _talk(self, ws, path):
        stream = Stream(ws.attempt, ws=ws)
        self.streams.append(stream)
        try:
            await _Talk(self, ws, stream).run()
        except websockets.ConnectionClosed:
            pass
        finally:
            stream.closed = True
            stream.close_code = ws.close_code


class _Talk:
    def __init__(self, peer, ws, stream):
        self.peer = peer
        self.ws, self.stream, self.mode = ws, stream, stream.attempt.mode
        self.rate = int(stream.attempt.query["sample_rate"][0])
        self.block = bytearray()
        self.number = 0
        self.at = 0.0  # seconds that are final
        self.held = None
        self.inject = list(self.mode.inject)

    def seconds(self):
        return self.stream.audio / (2.0 * self.rate)

    async def run(self):
        while True:
            message = await self.ws.recv()
            if isinstance(message, bytes):
                if await self.audio(message):
                    return
            elif await self.text(message):
                return

    async def audio(self, data):
        s, m = self.stream, self.mode
        s.frames += 1
        s.audio_times.append(time.monotonic())
        if not data:
            s.empty_frames += 1
            return False
        if m.pace:
            await asyncio.sleep(len(data) / (2.0 * self.rate) / m.pace)
        s.audio += len(data)
        s.values.append(struct.unpack_from("<h", data)[0])
        self.block += data
        if m.keep:
            s.pcm += data
        while self.inject and self.seconds() >= self.inject[0][0]:
            await self.ws.send(self.inject.pop(0)[1])
        size = int(m.every * self.rate) * 2
        while len(self.block) >= size:
            await self.recognise(size)
        if m.drop_after is not None and self.seconds() >= m.drop_after:
            self.ws.transport.abort()
            return True
        if m.close_after is not None and self.seconds() >= m.close_after[0]:
            await self.ws.close(m.close_after[1])
            return True
        if m.deaf_after is not None and self.seconds() >= m.deaf_after:
            self.ws.transport.pause_reading()
            await self.peer.stopped.wait()
            self.ws.transport.abort()
            return True
        return False

    async def recognise(self, size):
        value = struct.unpack_from("<h", self.block)[0]
        duration = size / (2.0 * self.rate)
        del self.block[:size]
        self.number += 1
        words = (self.mode.words or default_words)(value, self.number)
        text = result(self.at, duration, words)
        self.at += duration
        if self.mode.silent or (self.mode.mute_after is not None and self.at > self.mode.mute_after):
            return
        if self.mode.swap and self.held is None:
            self.held = text
            return
        await self.send(text)
        await self.release()

    async def send(self, text):
        await self.ws.send(text)
        self.stream.results += 1

    async def release(self):
        held, self.held = self.held, None
        if held:
            await self.send(held)

    async def text(self, message):
        s, m = self.stream, self.mode
        try:
            kind = json.loads(message)["type"]
        except (ValueError, KeyError, TypeError):
            kind = "?" + message
        s.texts.append((time.monotonic(), kind))
        if kind == "Finalize" and m.on_finalize:
            if len(self.block) >= 2:
                await self.recognise(len(self.block) // 2 * 2)
            if m.on_finalize == "drop":
                self.ws.transport.abort()
            else:
                await self.ws.close(1000)
            return True
        if kind != "CloseStream" or m.silent or m.on_close == "ignore":
            return False
        if m.on_close == "drop":
            self.ws.transport.abort()
            return True
        if len(self.block) >= 2:
            await self.recognise(len(self.block) // 2 * 2)
        await self.release()
        if m.tail:
            await asyncio.sleep(m.tail_delay)
            await self.send(result(self.at, 1.0, m.tail))
        await self.ws.send(json.dumps({"type": "Metadata", "request_id": "r", "duration": self.seconds(),
                                       "channels": 1}))
        await self.ws.close(1000)
        return True
