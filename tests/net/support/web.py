"""A client of the web endpoint, message by message: nothing is sent that a test does not send."""
import asyncio

import websockets

from .phone import Phone
from .wait import SLOW, until


class Web(Phone):
    def __init__(self, daemon, raw_query=None, headers=None, **query):
        super().__init__(daemon, "nobody", token="", path="/v4/web/listen", **query)
        if raw_query is not None:
            self.url = "ws://%s/v4/web/listen?%s" % (daemon.address, raw_query)
        self.headers = headers or {}
        self.raw = []

    async def aconnect(self):
        self.ws = await websockets.connect(self.url, extra_headers=self.headers, compression=None, max_size=None,
                                           ping_interval=None, open_timeout=30 * SLOW, close_timeout=5)
        self._reader = asyncio.ensure_future(self._read())

    def _take(self, text):
        self.raw.append(text)
        super()._take(text)

    def say(self, message):
        """Bytes and texts as they are, anything else as JSON; a connection that is closed already is none of its business."""
        try:
            self.send(message)
        except websockets.ConnectionClosed:
            pass

    def auth(self, token):
        self.say({"type": "auth", "token": token})
        return self

    def ended(self, code, reason=None):
        until(lambda: self.closed, what="the end")
        assert self.close_code == code and (reason is None or self.close_reason == reason), (
            self.close_code, self.close_reason)

    def hang_up(self):
        if self.ws and not self.closed:
            super().hang_up()
