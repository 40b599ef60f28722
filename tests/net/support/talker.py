"""A voice client that does speech-to-text itself, and what became of its words."""
import asyncio
import os
import re
import socket

import pytest
import websockets

from .aio import background
from .phone import Phone
from .store import rows
from .wait import until

SHORT = 2  # seconds; the least that the floor of conversation_timeout allows
FLOOR = {"listen": {"conversation_timeout_floor": "2s", "ping": "200ms"}}
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Talker(Phone):
    """Keeps every text in its order, and does speech-to-text itself unless told otherwise."""

    def __init__(self, daemon, uid, raw_query=None, **query):
        query.setdefault("custom_stt", "enabled")
        self.raw = []
        super().__init__(daemon, uid, **query)
        if raw_query is not None:
            self.url = "ws://%s/v4/listen?%s" % (daemon.address, raw_query)

    def _take(self, text):
        self.raw.append(text)
        super()._take(text)

    def say(self, text, start=0.0, length=1.0, speaker=0, **more):
        segment = dict({"text": text, "speaker": "SPEAKER_%02d" % speaker, "start": start, "end": start + length}, **more)
        self.send({"type": "suggested_transcript", "segments": [segment]})

    def conversations(self):
        return [m["conversation_id"] for m in self.of_type("conversation_session")]

    def conversation(self, number=1):
        """The number-th conversation that it was told of."""
        until(lambda: len(self.conversations()) >= number or self.closed, what=lambda: "conversation %d; told: %s" % (
            number, self.messages[-5:]))
        return self.conversations()[number - 1]

    def heard(self, words):
        until(lambda: words in self.text() or self.closed, what=lambda: "%r, not %r" % (words, self.text()[-200:]))
        assert words in self.text(), (self.close_code, self.close_reason)

    def ended(self, code, reason=None):
        until(lambda: self.closed, what="the end")
        assert self.close_code == code and (reason is None or self.close_reason == reason), (
            self.close_code, self.close_reason)


class DeafTalker(Talker):
    """Has little room for what it does not read."""

    async def aconnect(self):
        host, port = re.match(r"ws://([^:/]+):(\d+)/", self.url).groups()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        self.ws = await websockets.connect(self.url, extra_headers={"Authorization": "Bearer " + self.token}, sock=sock,
                                           compression=None, max_size=None, ping_interval=None, close_timeout=5,
                                           max_queue=1, read_limit=4096)
        self._reader = asyncio.ensure_future(self._read())

    def stop_reading(self):
        def stop():  # for good: the stream reader above it pauses and resumes, too
            self.ws.transport.pause_reading()
            self.ws.transport.resume_reading = lambda: None
        background().loop.call_soon_threadsafe(stop)

    def read_on(self):
        def resume():
            del self.ws.transport.resume_reading
            self.ws.transport.resume_reading()
        background().loop.call_soon_threadsafe(resume)


@pytest.fixture
def talker():
    """talker(daemon, uid=None, **query) -> a connected Talker; gone after the test."""
    talkers = []

    def connect(daemon, uid=None, kind=Talker, **query):
        t = kind(daemon, uid or "talker%d-%d" % (os.getpid(), len(talkers)), **query)
        talkers.append(t)
        return t.connect()

    yield connect
    for t in talkers:
        if t.ws and not t.closed:
            t.hang_up()


def stored_text(daemon, conversation):
    return " ".join(r[0] for r in rows(daemon, "SELECT s.text FROM segment s JOIN conversation c ON s.conversation = c.n"
                                               " WHERE c.id = ? ORDER BY s.start, s.n", conversation))


def leaves_nothing(daemon):
    until(lambda: daemon.sessions() == 0, what=lambda: "sessions to end: %s" % daemon.sessions())
