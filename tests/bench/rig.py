"""What the benchmarks share: the sink, the daemon with the plugin `bench`, clients, CPU time from /proc."""
import atexit
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
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


class Daemon:
    """omid as it runs in production (TLS aside), with one plugin whose lane is set as given."""

    def __init__(self, lane, reactors=1, pin=True):
        self.dir = Path(tempfile.mkdtemp(prefix="omid-bench-"))
        (self.dir / "state").mkdir()
        conf, ready = self.dir / "omi.conf", self.dir / "ready.json"
        conf.write_text("""
log { level = notice }
daemon { state_dir = "%s/state" run_dir = "%s" reactors = %d drain = 5s }
ingress { address = { "127.0.0.1:0" } }
auth { admin_key = "benchmark-admin-key-" }
plugin bench { path = "%s" required = true
    %s
}
""" % (self.dir, self.dir, reactors, TREE / "tests/bench/.libs/bench.so", lane))
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen([TREE / "omid", "-f", conf, "--ready-file", ready], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL,
                                            preexec_fn=pinned(CLIENT_CPU) if pin else None)
        atexit.register(self.process.kill)  # nothing is left running, whatever ends the benchmark
        deadline = time.monotonic() + 20
        while True:
            try:
                self.address = json.loads(ready.read_text())["addresses"][0]
                break
            except (OSError, ValueError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("omid did not start:\n" + (self.dir / "log").read_text())
                time.sleep(0.02)

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=90)
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        assert response.status == 200, "%s: %d %s" % (path, response.status, text)
        return text

    def bench(self, targets, **query):
        """One run of the plugin; the answer's numbers, and the CPU time in seconds."""
        before = cpu_s(self.process.pid)
        text = self.request("POST", "/bench?" + "&".join("%s=%d" % q for q in query.items()), "\n".join(targets))
        return json.loads(text), cpu_s(self.process.pid) - before

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
