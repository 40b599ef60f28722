"""Audio as phones encode it, and how like one recording is to another."""
import array
import os
import struct
import subprocess
from pathlib import Path

PACKAGES = ["opus", "lc3", "libavcodec", "libavutil"]


class Encoder:
    """The encoders of the libraries themselves, in a program of their own."""

    def __init__(self, folder):
        self.program = folder / "encode"
        flags = subprocess.run(["pkg-config", "--cflags", "--libs"] + PACKAGES, capture_output=True, text=True,
                               check=True).stdout.split()
        subprocess.run([os.environ.get("CC", "cc"), "-O1", str(Path(__file__).parent / "encode.c"), "-o",
                        str(self.program)] + flags + ["-lm"], check=True)

    def packets(self, codec, rate, pcm):
        done = subprocess.run([str(self.program), codec, str(rate)], input=bytes(pcm), stdout=subprocess.PIPE, check=True)
        out, at = [], 0
        while at < len(done.stdout):
            size, = struct.unpack_from("<H", done.stdout, at)
            out.append(done.stdout[at + 2:at + 2 + size])
            at += 2 + size
        return out


def samples(pcm):
    out = array.array("h")
    out.frombytes(bytes(pcm[:len(pcm) // 2 * 2]))
    return out


def likeness(a, b, max_delay):
    """The greatest correlation, 0 to 1, of the loudest second of `a` with `b` delayed by up to so many samples."""
    a, b = samples(a), samples(b)
    n = min(8000, len(a) // 2)
    at = max(range(0, len(a) - n, n // 2), key=lambda i: sum(v * v for v in a[i:i + n]))
    part = a[at:at + n]
    energy = sum(v * v for v in part)
    best = 0.0
    step = 4  # speech is slow enough for a first look
    coarse = sorted(range(0, max_delay, step), key=lambda d: -sum(
        x * y for x, y in zip(part[::step], b[at + d:at + d + n:step])))[:3]
    for delay in sorted({d + k for c in coarse for k in range(-step, step + 1) for d in (c,) if c + k >= 0}):
        other = b[at + delay:at + delay + n]
        power = sum(v * v for v in other)
        if len(other) == n and power:
            best = max(best, sum(x * y for x, y in zip(part, other)) / (energy * power) ** 0.5)
    return best
