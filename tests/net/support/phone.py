"""A voice client: streams s16le in frames of 100 ms and keeps everything it is told."""
import asyncio
import json
import struct
from urllib.parse import urlencode

import websockets

from .aio import background
from .wait import SLOW, until

FRAME = 0.1


class Phone:
    def __init__(self, daemon, uid, token=None, path="/v4/listen", **query):
        query.setdefault("sample_rate", 8000)
        query.setdefault("codec", "pcm16")
        query.setdefault("language", "en")
        self.rate = int(query["sample_rate"])
        self.uid = uid
        self.url = "ws://%s%s?%s" % (daemon.address, path, urlencode(query))
        self.token = daemon.admin_key + uid if token is None else token
        self.messages = []  # everything but segments and pings
        self.batches = []  # arrays of segments, as they came
        self.segments = {}  # by id, as the client sees them now
        self.pings = 0
        self.closed = False
        self.close_code = None
        self.close_reason = ""
        self.sent = 0.0  # seconds
        self.ws = None
        self._reader = None

    # ---- life

    def connect(self):
        background().run(self.aconnect())
        return self

    async def aconnect(self):
        headers = {"Authorization": "Bearer " + self.token} if self.token else {}
        self.ws = await websockets.connect(self.url, extra_headers=headers, compression=None, max_size=None,
                                           ping_interval=None, open_timeout=30 * SLOW, close_timeout=5)
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self):
        try:
            while True:
                self._take(await self.ws.recv())
        except websockets.ConnectionClosed:
            pass
        finally:
            self.close_code = self.ws.close_code
            self.close_reason = self.ws.close_reason
            self.closed = True

    def _take(self, text):
        if text == "ping":
            self.pings += 1
            return
        message = json.loads(text)
        if isinstance(message, list):
            self.batches.append(message)
            for segment in message:
                self.segments[segment["id"]] = segment
            return
        self.messages.append(message)
        if message.get("type") == "segments_deleted":
            for key in message["segment_ids"]:
                self.segments.pop(key, None)

    def close(self, code=1000):
        if not self.closed:
            background().run(self.ws.close(code))

    def hang_up(self):
        """Leaves without a word."""
        background().loop.call_soon_threadsafe(self.ws.transport.abort)
        until(lambda: self.closed, what="the client's own end")

    # ---- what it sends

    def send(self, text):
        background().run(self.ws.send(text if isinstance(text, (str, bytes)) else json.dumps(text)))

    def speak(self, seconds, value=1000, speed=1.0):
        """Streams a constant value for so many seconds of audio and waits until it is sent."""
        background().run(self.aspeak(seconds, value, speed), timeout=60 + seconds)

    def play(self, pcm, speed=1.0):
        """Streams s16le bytes."""
        background().run(self.aplay(pcm, speed), timeout=60 + len(pcm) / (2.0 * self.rate))

    def speaking(self, seconds, value=1000, speed=1.0):
        """The same in the background; the future's result() waits."""
        return background().start(self.aspeak(seconds, value, speed))

    async def aspeak(self, seconds, value=1000, speed=1.0):
        await self.aplay(struct.pack("<h", value) * int(seconds * self.rate), speed)

    async def aplay(self, pcm, speed=1.0):
        size = int(FRAME * self.rate) * 2
        loop = asyncio.get_running_loop()
        due = loop.time()
        for at in range(0, len(pcm), size):
            frame = pcm[at:at + size]
            await self.ws.send(frame)
            self.sent += len(frame) / (2.0 * self.rate)
            due += FRAME / speed
            await asyncio.sleep(max(0.0, due - loop.time()))

    # ---- what it was told

    def of_type(self, kind):
        return [m for m in self.messages if m.get("type") == kind]

    def statuses(self):
        return [m["status"] for m in self.of_type("service_status")]

    def ready(self):
        return "ready" in self.statuses()

    def wait_ready(self, deadline=20.0):
        until(lambda: self.ready() or self.closed, deadline, lambda: "ready; told: %s" % self.messages)
        assert not self.closed, "closed with %s %s after %s" % (self.close_code, self.close_reason, self.messages)
        return self

    def text(self):
        return " ".join(s["text"] for s in sorted(self.segments.values(), key=lambda s: s["start"]))
