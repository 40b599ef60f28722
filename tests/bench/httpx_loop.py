"""
The design omid replaces: one event loop, httpx.AsyncClient with 64 connections, a semaphore of 64 and a circuit breaker per
target. The body is encoded once, which is kinder than what a backend does.

    httpx_loop.py URL IN_FLIGHT BODY_BYTES      (the protocol is curl_loop.c's)
"""
import asyncio
import sys
import time

import httpx


class Breaker:
    """Closed until 5 failures in a row, then open for 30 s."""

    def __init__(self, failures=5, open_s=30.0):
        self.limit, self.open_s = failures, open_s
        self.failures, self.open_until = 0, 0.0

    def allows(self):
        return time.monotonic() >= self.open_until

    def report(self, good):
        self.failures = 0 if good else self.failures + 1
        if self.failures >= self.limit:
            self.open_until = time.monotonic() + self.open_s


async def main():
    url, in_flight, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    body = b"x" * size
    headers = {"Content-Type": "application/json"}
    breakers, semaphore = {}, asyncio.Semaphore(64)
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    timeout = httpx.Timeout(30.0, connect=2.0)
    async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:

        async def post():
            breaker = breakers.setdefault(url, Breaker())
            if not breaker.allows():
                return False
            async with semaphore:
                try:
                    response = await client.post(url, content=body, headers=headers)
                    good = response.status_code < 500
                except httpx.HTTPError:
                    good = False
            breaker.report(good)
            return good

        async def worker(todo, counts):
            while todo:
                todo.pop()
                counts[0 if await post() else 1] += 1

        for line in sys.stdin:
            began, counts, todo = time.monotonic(), [0, 0], [None] * int(line)
            await asyncio.gather(*(worker(todo, counts) for _ in range(in_flight)))
            print(counts[0], counts[1], "%.6f" % (time.monotonic() - began), flush=True)


asyncio.run(main())
