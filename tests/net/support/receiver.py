"""A receiver of webhooks that can misbehave, per path."""
import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import parse_qs, urlsplit

from .aio import background


@dataclass
class Answer:
    status: int = 200
    body: bytes = b"{}"
    headers: dict = field(default_factory=dict)
    hang: bool = False  # reads the request, never answers
    drip: Optional[float] = None  # one byte of the answer every so many seconds
    reset: bool = False  # reads the request, then resets the connection
    huge: int = 0  # a body of so many bytes
    early: bool = False  # answers before it has read the body, then closes
    cut: bool = False  # says that more will come than does, then resets
    then_reset: bool = False  # resets the connection behind a whole answer
    raw: Optional[bytes] = None  # instead of an answer


@dataclass
class Delivery:
    time: float
    method: str
    path: str
    query: dict
    headers: dict
    body: bytes
    answered: bool = False
    gone: bool = False  # the sender closed the connection before it was answered

    @property
    def json(self):
        return json.loads(self.body)


class Receiver:
    def __init__(self, context=None):
        self.scheme = "https" if context else "http"
        self.deliveries = []
        self.connections = 0
        self.open = 0
        self._answers = {}
        self._tasks = set()
        self._server = background().run(asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=context))
        self.port = self._server.sockets[0].getsockname()[1]

    def url(self, path):
        return "%s://127.0.0.1:%d%s" % (self.scheme, self.port, path)

    def on(self, path, *answers):
        """The next requests for the path get these; the last one stays. One may be a function of the delivery."""
        self._answers[path] = list(answers)

    def at(self, path):
        return [d for d in self.deliveries if d.path == path]

    def stop(self):
        background().run(self._stop())

    async def _stop(self):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _answer(self, path):
        answers = self._answers.get(path) or [Answer()]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def _connection(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:] if line)}
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts = urlsplit(target)
        waiting = self._answers.get(parts.path)
        if waiting and not callable(waiting[0]) and waiting[0].early:
            self.deliveries.append(Delivery(time.monotonic(), method, parts.path, parse_qs(parts.query), headers, b""))
            await self._send(writer, self._answer(parts.path), self.deliveries[-1])
            return False
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        delivery = Delivery(time.monotonic(), method, parts.path, parse_qs(parts.query, keep_blank_values=True),
                            headers, body)
        self.deliveries.append(delivery)
        answer = self._answer(parts.path)
        if callable(answer):
            answer = answer(delivery)
        if answer.hang:
            await reader.read()
            delivery.gone = True
            return False
        if answer.reset:
            writer.transport.abort()
            return False
        await self._send(writer, answer, delivery)
        delivery.answered = True
        if answer.cut or answer.then_reset:
            writer.transport.abort()
            return False
        return answer.raw is None

    @staticmethod
    async def _send(writer, answer, delivery):
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return
        length = answer.huge or len(answer.body) + (100 if answer.cut else 0)
        lines = ["HTTP/1.1 %d Scripted" % answer.status, "Content-Length: %d" % length]
        lines += ["%s: %s" % h for h in answer.headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if answer.drip is not None:
            for byte in head + answer.body:
                if writer.transport.is_closing():
                    delivery.gone = True
                    raise ConnectionResetError
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(answer.drip)
            return
        writer.write(head)
        left = answer.huge
        while left > 0:
            writer.write(b"x" * min(left, 65536))
            left -= 65536
            await writer.drain()
        writer.write(b"" if answer.huge else answer.body)
        await writer.drain()
