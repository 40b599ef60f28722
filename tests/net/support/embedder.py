"""
A scripted embedding service. What a voice is, is in the audio: of a constant value the vector is an angle, so that a test
sets distances; of anything else the spectrum of its louder parts, so that recordings of people differ.
"""
import asyncio
import cmath
import email.parser
import email.policy
import io
import json
import math
import struct
import wave
from dataclasses import dataclass, field

from .peers import Server, answer, read_head

TURN = 10000  # a sample value of so much is half a turn


def angle(value):
    return value / TURN * math.pi


def distance(a, b):
    """Of two constant values."""
    return 1 - math.cos(angle(a) - angle(b))


def apart(d):
    """By how much two values differ whose distance is d."""
    return int(round(math.acos(1 - d) / math.pi * TURN))


def fft(x):
    n = len(x)
    if n == 1:
        return x
    even, odd = fft(x[0::2]), fft(x[1::2])
    turned = [cmath.exp(-2j * cmath.pi * k / n) * odd[k] for k in range(n // 2)]
    return [e + t for e, t in zip(even, turned)] + [e - t for e, t in zip(even, turned)]


SIZE = 512
WINDOW = [0.5 - 0.5 * math.cos(2 * math.pi * i / SIZE) for i in range(SIZE)]
EDGES = [int(round(SIZE * 700 * (math.exp(m / 1127) - 1) / 16000)) for m in (200 + i * 2400 / 25 for i in range(26))]


# What all speech has in common: the mean of some recordings of two people.
SPEECH = [113.53, 102.18, 100.51, 92.50, 68.56, 40.10, 24.14, 7.60, -0.13, -6.08, -3.49, -0.96, -4.02, -12.50, -12.73,
          -8.34, -13.04, -22.69, -33.37, -47.75, -67.56, -89.11, -108.67, -118.66]


def spectrum(samples):
    """Mean log energies in 24 bands of the louder half of 48 frames, less their mean and less what all speech has."""
    step = max(SIZE, len(samples) // 48)
    frames = [samples[at:at + SIZE] for at in range(0, len(samples) - SIZE, step)]
    frames.sort(key=lambda f: -sum(v * v for v in f))
    total = [0.0] * 24
    for f in frames[:max(1, len(frames) // 2)]:
        power = [abs(v) ** 2 for v in fft([s * w for s, w in zip(f, WINDOW)])[:SIZE // 2]]
        for b in range(24):
            low, high = EDGES[b], max(EDGES[b] + 1, EDGES[b + 2])
            total[b] += math.log(1 + sum(power[low:high]) / (high - low))
    mean = sum(total) / 24
    return [t - mean - s for t, s in zip(total, SPEECH)]


def embedding(samples):
    middle = samples[len(samples) // 4:-len(samples) // 4]
    if max(middle) - min(middle) < 50:
        value = sum(middle) / len(middle)
        return [math.cos(angle(value)), math.sin(angle(value)), 0.0, 0.0]
    return spectrum(samples)


@dataclass
class Asked:
    headers: dict
    rate: int = 0
    seconds: float = 0.0
    vector: list = field(default_factory=list)
    fault: str = ""  # what is wrong with the request


class Embedder(Server):
    """answers: what the next requests get, the last one stays: a status, a name of do_..., or bytes."""

    def __init__(self, tls=None):
        self.asked = []
        self.health = 200
        self.healths = 0
        self.answers = ["ok"]
        self.released = False
        super().__init__(tls)
        self.url = "%s://127.0.0.1:%d" % ("https" if tls else "http", self.port)

    def on(self, *answers):
        self.answers = list(answers)

    def release(self):
        self.released = True

    async def serve(self, reader, writer):
        while True:
            head = await read_head(reader)
            if head is None:
                return
            line, headers = head
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if line.startswith("GET /base/health "):
                self.healths += 1
                writer.write(answer(self.health))
                continue
            asked = self.read(line, headers, body)
            self.asked.append(asked)
            what = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if not await self.answer(writer, asked, what):
                return
            await writer.drain()

    @staticmethod
    def read(line, headers, body):
        asked = Asked(headers)
        if line != "POST /base/v2/embedding HTTP/1.1":
            asked.fault = line
            return asked
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"Content-Type: " + headers.get("content-type", "").encode() + b"\r\n\r\n" + body)
        parts = list(message.iter_parts()) if message.is_multipart() else []
        if len(parts) != 1 or parts[0].get_param("name", header="content-disposition") != "file" \
                or not parts[0].get_filename() or parts[0].get_content_type() != "audio/wav" or message.defects:
            asked.fault = "not one file: %s %s" % (headers.get("content-type"), message.defects)
            return asked
        with wave.open(io.BytesIO(parts[0].get_payload(decode=True))) as w:
            frames = w.readframes(w.getnframes())
            asked.rate = w.getframerate()
            asked.seconds = w.getnframes() / w.getframerate()
            if w.getnchannels() != 1 or w.getsampwidth() != 2 or len(frames) != 2 * w.getnframes() or asked.seconds < .5:
                asked.fault = "%s" % (w.getparams(),)
                return asked
        asked.vector = embedding(struct.unpack("<%dh" % (len(frames) // 2), frames))
        return asked

    async def answer(self, writer, asked, what):
        if asked.fault:
            writer.write(answer(400, asked.fault.encode()))
        elif isinstance(what, int):
            writer.write(answer(what, b"{}"))
        elif isinstance(what, bytes):
            writer.write(answer(200, what, Content_Type="application/json"))
        else:
            return await getattr(self, "do_" + what)(writer, asked)
        return True

    async def do_ok(self, writer, asked):
        writer.write(answer(200, json.dumps({"embedding": asked.vector}).encode()))
        return True

    async def do_array(self, writer, asked):
        writer.write(answer(200, json.dumps(asked.vector).encode()))
        return True

    async def do_shorter(self, writer, asked):
        writer.write(answer(200, json.dumps(asked.vector[:-1]).encode()))
        return True

    async def do_held(self, writer, asked):
        """Until release()."""
        while not self.released:
            await asyncio.sleep(0.02)
        return await self.do_ok(writer, asked)

    async def do_hang(self, writer, asked):
        await asyncio.sleep(3600)

    async def do_drip(self, writer, asked):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[")
        while True:
            writer.write(b"1,")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def do_reset(self, writer, asked):
        writer.transport.abort()
        return False


def constant(value, seconds, rate=16000):
    return struct.pack("<h", value) * int(seconds * rate)
