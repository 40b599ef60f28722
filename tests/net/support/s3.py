"""An object store that speaks S3's protocol: it makes each request's signature again from the raw request, and can fail."""
import asyncio
import hashlib
import hmac
import re
import time
from datetime import datetime, timezone
from urllib.parse import quote, unquote

from .peers import Server

REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 403: "Forbidden", 404: "Not Found", 429: "Slow Down",
           500: "Internal Server Error", 503: "Slow Down"}


def sign(secret, method, target, headers, body, signed, date, region):
    """AWS Signature Version 4, as S3 computes it."""
    path, _, query = target.partition("?")
    lines = "".join("%s:%s\n" % (h, " ".join(headers[h].split())) for h in signed)
    canonical = "\n".join([method, quote(unquote(path), safe="/-_.~"), "&".join(sorted(filter(None, query.split("&")))),
                           lines, ";".join(signed), hashlib.sha256(body).hexdigest()])
    day = date[:8]
    scope = "%s/%s/s3/aws4_request" % (day, region)
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class S3(Server):
    def __init__(self, bucket="recordings", region="eu-west-1", key_id="AKID", secret="se/cr+et", token=None, tls=None,
                 host_style=False):
        self.bucket, self.region, self.key_id, self.secret, self.token = bucket, region, key_id, secret, token
        self.host_style = host_style
        self.objects = {}
        self.requests = []  # (method, key, headers)
        self.refused = []  # why a signature was not accepted
        self.mode = "ok"
        self.there = True  # the bucket
        self.ranges = True  # else all of an object is what it answers
        self.seen = 0  # requests, answered or not
        self.scheme = "https" if tls else "http"
        super().__init__(tls)

    def endpoint(self, host="127.0.0.1"):
        return "%s://%s:%d" % (self.scheme, host, self.port)

    def puts(self):
        return [key for method, key, _ in self.requests if method == "PUT"]

    # ---- one connection

    async def serve(self, reader, writer):
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            first, *lines = head.split("\r\n")[:-2]
            method, target, _ = first.split(" ")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                assert name.lower() not in headers, line
                headers[name.lower()] = value.strip()
            if headers.get("expect") == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if not await self._answer(writer, method, target, headers, body):
                return

    async def _answer(self, writer, method, target, headers, body):
        self.seen += 1
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if self.mode == "reset":
            writer.transport.abort()
            return False
        if self.mode == "empty":
            return False
        if self.mode == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)
            return False
        if self.mode == "garbage":
            writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            return False
        if self.mode == "huge":
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000000\r\n\r\n")
            for _ in range(1000):
                writer.write(b"y" * 100000)
                await writer.drain()
            return False
        status, data, extra = self._serve(method, target, headers, body)
        if self.mode == "lost":  # done, and nobody is told
            writer.transport.abort()
            return False
        lines = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Other")), "Content-Length: %d" % len(data), *extra]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + data)
        await writer.drain()
        return True

    def _error(self, status, code, *extra):
        return status, ('<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%s</Code><Message>no</Message></Error>' %
                        code).encode(), list(extra)

    def _check(self, method, target, headers, body):
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
                             r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})", headers.get("authorization", ""))
        if not found:
            return "no signature: %r" % headers.get("authorization")
        key_id, day, region, signed, signature = found.groups()
        signed, date = signed.split(";"), headers.get("x-amz-date", "")
        if (key_id, region) != (self.key_id, self.region):
            return "another key or region"
        sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
        if abs(sent - time.time()) > 300 or not date.startswith(day):
            return "a date of %s" % date
        wanted = {"host"} | {h for h in headers if h.startswith("x-amz-")}
        if not wanted <= set(signed) or signed != sorted(signed) or not set(signed) <= set(headers):
            return "signed headers %s of %s" % (signed, sorted(headers))
        if headers.get("x-amz-content-sha256") != hashlib.sha256(body).hexdigest():
            return "another sum of the body"
        if headers.get("x-amz-security-token") != self.token:
            return "another token"
        if signature != sign(self.secret, method, target, headers, body, signed, date, self.region):
            return "another signature"
        return None

    def _serve(self, method, target, headers, body):
        why = self._check(method, target, headers, body)
        if why:
            self.refused.append(why)
            return self._error(403, "SignatureDoesNotMatch")
        if self.host_style:
            assert headers["host"].startswith(self.bucket + ".")
            bucket, key = self.bucket, unquote(target[1:])
        else:
            bucket, _, key = target[1:].partition("/")
            key = unquote(key)
        self.requests.append((method, key, headers))
        if self.mode.isdigit():
            return self._error(int(self.mode), "SlowDown" if self.mode in ("429", "503") else "Fault", "Retry-After: 1")
        if bucket != self.bucket or not self.there:
            return self._error(404, "NoSuchBucket")
        if method == "PUT":
            self.objects[key] = body
            return 200, b"", ['ETag: "x"']
        if key not in self.objects:
            return (204, b"", []) if method == "DELETE" else self._error(404, "NoSuchKey")
        if method == "DELETE":
            del self.objects[key]
            return 204, b"", []
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", headers["range"]).groups())
        data = self.objects[key]
        if not self.ranges:
            return 200, data, []
        return 206, data[first:last + 1], ["Content-Range: bytes %d-%d/%d" % (first, min(last, len(data) - 1), len(data))]
