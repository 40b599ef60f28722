"""One asyncio loop on a thread of its own, shared by all peers of a test run; tests themselves are plain code."""
import asyncio
import threading

from .wait import SLOW


class Background:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self.thread.start()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coro, timeout=30.0):
        """Runs the coroutine on the loop and waits for its result."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result(timeout * SLOW)

    def start(self, coro):
        """Starts it there; the future is concurrent.futures'."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop)


_background = None


def background():
    global _background
    if _background is None:
        _background = Background()
    return _background
