"""What the benchmarks share: the sink, the daemon with the plugin `bench`, clients, CPU time from /proc."""
import array
import atexit
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

TREE = Path(os.environ["OMID_BENCH_TREE"])
HERE = Path(__file__).resolve().parent
CPUS = sorted(os.sched_getaffinity(0))
CLIENT_CPU, SINK_CPU = CPUS[0], CPUS[-1]  # the same where there is but one
TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """User and system time of all threads of a process so far, in seconds."""
    fields = Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_kb(pid):
    """What of a process is in memory now."""
    for line in Path("/proc/%d/status" % pid).read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited %d s for %s" % (seconds, what() if callable(what) else what))
        time.sleep(0.05)


def pinned(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


def median(values):
    return statistics.median(values)


def say(**values):
    print(" ".join("%s=%s" % (k, v) for k, v in values.items()), flush=True)


class Sink:
    def __init__(self, ports=1):
        self.process = subprocess.Popen([TREE / "tests/bench/sink", str(ports), str(SINK_CPU)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports = [int(self.process.stdout.readline()) for _ in range(ports)]

    def url(self, path="/ok", number=0):
        return "http://127.0.0.1:%d%s" % (self.ports[number], path)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


RATE = 16000  # of the recordings, in Hz
RECORDINGS = Path("/usr/share/pocketsphinx/test/data")
PAUSES = (0.5, 1.0, 2.0, 6.0, 12.0)  # seconds, in turn


def speech_file(path):
    """Recorded speech with pauses between the sentences, as raw samples. Returns its seconds and the share of speech."""
    sentences = [raw.read_bytes() for raw in sorted(RECORDINGS.glob("*.raw"))]
    for wav in sorted(RECORDINGS.glob("*/*.wav")):
        with wave.open(str(wav)) as w:
            assert (w.getframerate(), w.getnchannels(), w.getsampwidth()) == (RATE, 1, 2), wav
            sentences.append(w.readframes(w.getnframes()))
    noise = random.Random(1)
    room = array.array("h", (noise.randint(-6, 6) for _ in range(int(RATE * max(PAUSES)))))  # a room is never silent
    with open(path, "wb") as out:
        for i, sentence in enumerate(sentences):
            out.write(sentence)
            room[:int(RATE * PAUSES[i % len(PAUSES)])].tofile(out)
        seconds = out.tell() / 2 / RATE
    return seconds, sum(map(len, sentences)) / 2 / RATE / seconds


class Client:
    """curl_loop, httpx_loop: a line N in, `OK FAILED SECONDS` out."""

    def __init__(self, *command):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, preexec_fn=pinned(CLIENT_CPU))

    def run(self, count):
        before = cpu_s(self.process.pid)
        self.process.stdin.write("%d\n" % count)
        self.process.stdin.flush()
        ok, failed, seconds = self.process.stdout.readline().split()
        us = (cpu_s(self.process.pid) - before) * 1e6 / count
        assert int(ok) == count, "%s of %d failed" % (failed, count)
        return us, count / float(seconds)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


class Program:
    """A program of the benchmarks that takes a command a line and answers each with one."""

    def __init__(self, command, prefix=(), **options):
        self.process = subprocess.Popen([*prefix, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, **options)
        atexit.register(self.process.kill)

    def line(self):
        line = self.process.stdout.readline()
        assert line, "%s ended" % self.process.args[0]
        return line.strip()

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def numbers(self, command):
        """An answer of key=value pairs."""
        return {k: float(v) for k, v in (pair.split("=") for pair in self.ask(command).split())}

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


def bench_plugin(lane):
    """The plugin `bench` with its lane set as given."""
    return """plugin bench { path = "%s" required = true
    %s
}
""" % (TREE / "tests/bench/.libs/bench.so", lane)


ADMIN_KEY = "benchmark-admin-key-"


class Daemon:
    """omid as it runs in production (TLS aside), with these settings and plugins."""

    def __init__(self, settings, reactors=1, pin=True, addresses=("127.0.0.1:0",), ingress=""):
        self.dir, self.pin = Path(tempfile.mkdtemp(prefix="omid-bench-")), pin
        (self.dir / "state").mkdir()
        (self.dir / "omi.conf").write_text("""
log { level = notice }
daemon { state_dir = "%s/state" run_dir = "%s" reactors = %d drain = 5s }
ingress { address = { %s } max_connections_per_address = 10000 %s }
limits { sessions_per_address = 100000 upgrades_per_address = 1000000 unauthenticated = 10000 }
auth { admin_key = "%s" }
%s
""" % (self.dir, self.dir, reactors, ", ".join('"%s"' % a for a in addresses), ingress, ADMIN_KEY, settings))
        self.start()

    def start(self):
        conf, ready = self.dir / "omi.conf", self.dir / "ready.json"
        ready.unlink(missing_ok=True)
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen([TREE / "omid", "-f", conf, "--ready-file", ready], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL,
                                            preexec_fn=pinned(CLIENT_CPU) if self.pin else None)
        atexit.register(self.process.kill)  # nothing is left running, whatever ends the benchmark
        deadline = time.monotonic() + 20
        while True:
            try:
                self.addresses = json.loads(ready.read_text())["addresses"]
                self.address = self.addresses[0]
                break
            except (OSError, ValueError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("omid did not start:\n" + (self.dir / "log").read_text())
                time.sleep(0.02)

    def kill(self):
        """As a crash."""
        self.process.kill()
        self.process.wait()

    def request(self, method, path, body=None, headers=None, statuses=(200,)):
        connection = http.client.HTTPConnection(self.address, timeout=90)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status in statuses, "%s: %d %s" % (path, response.status, text)
        return text

    def bench(self, targets, **query):
        """One run of the plugin; the answer's numbers, and the CPU time in seconds."""
        before = cpu_s(self.process.pid)
        text = self.request("POST", "/bench?" + "&".join("%s=%d" % q for q in query.items()), "\n".join(targets))
        return json.loads(text), cpu_s(self.process.pid) - before

    def metric(self, name, label=""):
        """The sum of a family's samples, of those with this text among their labels; None where there is none."""
        found = [float(line.rsplit(" ", 1)[1]) for line in self.request("GET", "/metrics").splitlines()
                 if line.split("{")[0].split(" ")[0] == name and label in line]
        return sum(found) if found else None

    def rss_kb(self):
        return rss_kb(self.process.pid)

    def log(self):
        return (self.dir / "log").read_text()[-4000:]

    def lag(self):
        """The loops' lag: {loop: [(bound in seconds, count up to it)]}."""
        loops = {}
        for line in self.request("GET", "/metrics").splitlines():
            if line.startswith("omid_loop_lag_seconds_bucket{"):
                labels, count = line[line.index("{") + 1:].split("} ")
                labels = dict(label.split("=") for label in labels.split(","))
                loops.setdefault(labels["loop"].strip('"'), []).append(
                    (float(labels["le"].strip('"').replace("+Inf", "inf")), int(count)))
        return loops

    def stop(self):
        self.process.terminate()
        status = self.process.wait(20)
        text = (self.dir / "log").read_text()
        shutil.rmtree(self.dir, ignore_errors=True)
        if status != 0:
            sys.exit("omid ended with %d:\n%s" % (status, text[-4000:]))


def lag_quantile_ms(before, after, q):
    """Of all loops the worst; within a bucket as if it were evenly filled."""
    worst = 0.0
    for loop, buckets in after.items():
        counts = [n - m for (_, n), (_, m) in zip(buckets, before.get(loop, [(0, 0)] * len(buckets)))]
        rank, floor, below = q * counts[-1], 0.0, 0
        for (bound, _), count in zip(buckets, counts):
            if count >= rank and count > below:
                top = bound if bound != float("inf") else floor * 2
                worst = max(worst, floor + (top - floor) * (rank - below) / (count - below))
                break
            floor, below = bound, count
    return worst * 1000
