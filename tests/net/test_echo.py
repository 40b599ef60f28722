"""The echo plugin in the real daemon, by python3-websockets."""
import asyncio
import os

import websockets


def test_late_reader_of_large_messages(start_daemon):
    """The way back fills, the plugin holds, the client is not read; then all of it arrives, and nobody is the worse."""
    daemon = start_daemon({"plugin echo": {}})
    big = os.urandom(200_000)

    async def one():
        async with websockets.connect("ws://%s/echo" % daemon.address, max_size=None, max_queue=1) as ws:
            async def send():
                for _ in range(150):
                    await ws.send(big)
            sending = asyncio.create_task(send())
            # The client reads nothing until what it sends does not get out any more: for a second, or at all.
            await asyncio.wait([sending], timeout=1)
            for _ in range(150):
                assert await ws.recv() == big
            await sending

    async def main():
        for _ in range(3):
            await asyncio.wait_for(asyncio.gather(*[one() for _ in range(3)]), 60)

    asyncio.run(main())
    assert daemon.healthz() == 200
