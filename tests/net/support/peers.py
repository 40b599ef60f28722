"""Peers of lanes: a server that echoes, redirects and misbehaves by path, and an HTTP proxy."""
import asyncio
import base64
import hashlib
import socket
import struct
import zlib

from .aio import background


async def read_head(reader):
    """(first line, {name: value}) of a request; None at the end."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return None
    line, *lines = text.split("\r\n")
    return line, {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines if x)}


def answer(status, body=b"", **headers):
    lines = ["HTTP/1.1 %d x" % status, "Content-Length: %d" % len(body)]
    lines += ["%s: %s" % (k.replace("_", "-"), v) for k, v in headers.items()]
    return "\r\n".join(lines + ["", ""]).encode() + body


class Server:
    """Every connection is a task; stop() ends them all."""

    def __init__(self, tls=None):
        self._tasks = set()
        self.open = 0
        self._server = background().run(asyncio.start_server(self._enter, "127.0.0.1", 0, ssl=tls))
        self.port = self._server.sockets[0].getsockname()[1]

    async def _enter(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.open += 1
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            self.open -= 1
            writer.close()

    async def serve(self, reader, writer):
        raise NotImplementedError

    def stop(self):
        background().run(self._stop())

    async def _stop(self):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _bomb():
    """(the beginning of a gzip stream, a megabyte of zeros to be repeated without end)"""
    z = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = z.compress(bytes(1 << 20)) + z.flush(zlib.Z_FULL_FLUSH)
    return head, z.compress(bytes(1 << 20)) + z.flush(zlib.Z_FULL_FLUSH)


def _nested():
    empty = b"\0\0\0\xff\xff" * (1 << 20)  # stored blocks of no bytes
    inner = zlib.compress(b"\x78\x9c" + empty, 9)
    middle = zlib.compressobj(9)
    return middle.compress(inner) + middle.flush()


NESTED = _nested()


class Peer(Server):
    """What it does stands in the path: /KIND/anything. requests: (line, headers, client certificate's subject)."""

    def __init__(self, tls=None):
        self.requests = []
        super().__init__(tls)

    def url(self, path, scheme="http", host="127.0.0.1"):
        return "%s://%s:%d%s" % (scheme, host, self.port, path)

    async def serve(self, reader, writer):
        if writer.get_extra_info("ssl_object") is None and await self._is_tls(reader, writer):
            return
        while True:
            head = await read_head(reader)
            if head is None:
                return
            line, headers = head
            await reader.readexactly(int(headers.get("content-length", 0)))
            cert = writer.get_extra_info("peercert")
            self.requests.append((line, headers, dict(x[0] for x in cert["subject"]) if cert else None))
            if "upgrade" in headers:
                await self._echo(reader, writer, headers)
                return
            path = line.split()[1]
            kind = path.split("/")[1].replace("-", "_")
            if not await getattr(self, "do_" + kind)(writer, path):
                return
            await writer.drain()

    async def _is_tls(self, reader, writer):
        """A ClientHello where there is no TLS: garbage it gets."""
        first = await reader.read(1)
        if first != b"\x16":
            reader._buffer[:0] = first  # put back
            return not first
        writer.write(bytes(range(256)) * 16)
        await writer.drain()
        await asyncio.sleep(3600)
        return True

    async def _echo(self, reader, writer, headers):
        """The upgrade and one message back, by hand."""
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        writer.write(("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Accept: %s\r\n\r\n" % accept).encode())
        while True:
            start = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(start[1] & 0x7f)))
            writer.write(bytes([start[0], len(data)]) + data)
            await writer.drain()
            if start[0] & 0xf == 8:
                return

    # ---- decent

    async def do_ok(self, writer, path):
        writer.write(answer(200, b"ok"))
        return True

    async def do_to(self, writer, path):
        """/to/302/LOCATION"""
        _, _, status, location = path.split("/", 3)
        writer.write(answer(int(status), b"moved", Location=location))
        return True

    # ---- hostile

    async def _drip(self, writer, data):
        while True:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)

    async def _flood(self, writer, data):
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)  # a hundred of them share this loop

    async def do_silent(self, writer, path):
        await asyncio.sleep(3600)

    async def do_drip_head(self, writer, path):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await self._drip(writer, b"X-A: b\r\n")

    async def do_drip_body(self, writer, path):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await self._drip(writer, b"x")

    async def do_huge(self, writer, path):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        await self._flood(writer, bytes(65536))

    async def do_bomb(self, writer, path):
        head, more = _bomb()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + head)
        await self._flood(writer, more)

    async def do_nested(self, writer, path):
        """Compressed in compressed: kilobytes that are gigabytes of empty blocks in between, and not one byte in the end."""
        writer.write(answer(200, NESTED, Content_Encoding="deflate, deflate, deflate"))
        return True

    async def do_informs(self, writer, path):
        await self._flood(writer, b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" * 16)

    async def do_reset(self, writer, path):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def do_garbage(self, writer, path):
        writer.write(b"\xff\x00nonsense\r\n\r\n" * 100)

    async def do_loop(self, writer, path):
        writer.write(answer(302, Location=path))
        return True


class Proxy(Server):
    """CONNECT and absolute URLs; with credentials, if given. requests: (line, headers)."""

    def __init__(self, credentials=None):
        self.requests = []
        self.wanted = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()
        super().__init__()
        self.url = "http://127.0.0.1:%d" % self.port

    async def serve(self, reader, writer):
        while True:
            head = await read_head(reader)
            if head is None:
                return
            line, headers = head
            self.requests.append(head)
            method, target, _ = line.split()
            if self.wanted and headers.get("proxy-authorization") != self.wanted:
                writer.write(answer(407, Proxy_Authenticate='Basic realm="x"'))
                await writer.drain()
                continue
            if method == "CONNECT":
                host, port = target.rsplit(":", 1)
                there = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 x\r\n\r\n")
                await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
                return
            host, path = target.split("://", 1)[1].split("/", 1)
            name, _, port = host.partition(":")
            there = await asyncio.open_connection(name, int(port or 80))
            there[1].write(("%s /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (method, path, host)).encode())
            _, answered = await read_head(there[0])
            body = await there[0].readexactly(int(answered["content-length"]))
            there[1].close()
            writer.write(answer(200, body))
            await writer.drain()

    @staticmethod
    async def _pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()
