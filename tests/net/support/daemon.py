"""The installed omid, one process per test, on ports of its own."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from .wait import SLOW, until

PREFIX = Path(os.environ.get("OMID_PREFIX", "/usr/local"))
VALGRIND = os.environ.get("OMID_VALGRIND") == "1"
ADMIN_KEY = "scenario-admin-key-"
# What a sanitizer or valgrind writes when it has found something.
REPORT = re.compile(r"(ERROR: (Address|Leak|Thread)Sanitizer|WARNING: ThreadSanitizer|runtime error:"
                    r"|ERROR SUMMARY: [1-9]|assertion .* failed)")


def program(name):
    for folder in ("sbin", "bin"):
        path = PREFIX / folder / name
        if path.exists():
            return path
    raise AssertionError("%s is not installed under %s; set OMID_PREFIX" % (name, PREFIX))


def render(settings, indent=""):
    """{"listen": {"ping": "10s"}, "plugin deepgram": {...}} as the text of an omi.conf."""
    lines = []
    for key, value in settings.items():
        if isinstance(value, dict):
            lines += ["%s%s {" % (indent, key), render(value, indent + "    "), indent + "}"]
        elif isinstance(value, bool):
            lines.append("%s%s = %s" % (indent, key, "true" if value else "false"))
        elif isinstance(value, (list, tuple)):
            lines.append("%s%s = { %s }" % (indent, key, ", ".join(_quote(v) for v in value)))
        elif isinstance(value, (int, float)):
            lines.append("%s%s = %s" % (indent, key, value))
        else:
            lines.append("%s%s = %s" % (indent, key, _quote(value)))
    return "\n".join(lines)


def _quote(value):
    return '"%s"' % str(value).replace("\\", "\\\\").replace('"', '\\"')


def merge(base, more):
    out = dict(base)
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = value
    return out


class Daemon:
    def __init__(self, directory, reactors, settings, environment=None):
        self.dir = Path(directory)
        self.admin_key = ADMIN_KEY
        self.conf = self.dir / "omi.conf"
        self.ready_file = self.dir / "ready.json"
        self.log_file = self.dir / "omid.log"
        self.run_dir = Path(tempfile.mkdtemp(prefix="omid-"))  # short: a socket's path has little room
        self.process = None
        self.prefix = []  # before the command: where it runs
        self.address = self.control = None
        self.base = {
            "log": {"level": "debug", "format": "text", "target": "stderr"},
            "daemon": {"state_dir": self.dir / "state", "run_dir": self.run_dir, "reactors": reactors,
                       "drain": "20s"},
            "ingress": {"address": ["127.0.0.1:0"]},
            "auth": {"admin_key": self.admin_key},
            "listen": {"transcript_flush": "50ms", "consumer_flush": "100ms", "lifecycle_check": "100ms",
                       "drain": "10s", "drain_bound": "2s"},
            "store": {"flush": "100ms", "sweep": "100ms"},
        }
        (self.dir / "state").mkdir(exist_ok=True)
        self.rewrite(settings)
        self.environment = {k: v for k, v in os.environ.items() if k not in ("CURL_CA_BUNDLE", "SSL_CERT_FILE")}
        self.environment.update(environment or {})
        self.environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
        self.environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")

    def rewrite(self, settings):
        """The file from now on; a running daemon reads it when it is told to."""
        self.conf.write_text(render(merge(self.base, settings)) + "\n")

    # ---- life

    def start(self):
        command = [str(program("omid")), "-f", str(self.conf), "--ready-file", str(self.ready_file)]
        if VALGRIND:
            command = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite",
                       "--num-callers=30"] + command
        command = self.prefix + command
        self.ready_file.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment, cwd=self.dir)
        until(lambda: self._read_ready() or self.process.poll() is not None, 30, "the ready file")
        assert self.process.poll() is None, "omid ended at once with %s:\n%s" % (self.process.returncode, self.log())
        return self

    def _read_ready(self):
        try:
            ready = json.loads(self.ready_file.read_text())
        except (OSError, ValueError):
            return False
        self.address, self.control = ready["addresses"][0], ready["control"]
        self.uploads = ready["uploads"]
        return ready["pid"] == self.process.pid

    def stop(self, deadline=30.0):
        """SIGTERM; it ends with 0 and without a report."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(deadline * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("omid did not end after SIGTERM:\n" + self.log_tail())
        finally:
            self.process = None
        assert status == 0, "omid ended with %s:\n%s" % (status, self.log_tail())
        self.check_reports()

    def kill(self):
        """kill -9, as a crash."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def check_reports(self):
        found = REPORT.search(self.log())
        assert not found, "a report in the log:\n" + self.log()[max(0, found.start() - 2000):found.start() + 6000]

    def running(self):
        return self.process is not None and self.process.poll() is None

    # ---- what can be seen

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def logged(self, pattern):
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def fds(self):
        return len(self.descriptors())

    def descriptors(self):
        """What each descriptor is, sorted; sockets by their kind alone."""
        folder, out = "/proc/%d/fd" % self.process.pid, []
        for fd in os.listdir(folder):
            try:
                out.append(re.sub(r":\[\d+\]", "", os.readlink(os.path.join(folder, fd))))
            except FileNotFoundError:
                pass
        return sorted(out)

    def get(self, path, headers=None, timeout=10.0):
        """(status, body) of a GET on the public address."""
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout * SLOW)
        return self._get(connection, path, headers)

    def get_control(self, path, timeout=10.0):
        connection = _UnixConnection(self.control, timeout * SLOW)
        return self._get(connection, path, None)

    @staticmethod
    def _get(connection, path, headers):
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def healthz(self, timeout=5.0):
        """It answers, within the time a load balancer would give it."""
        return self.get("/healthz", timeout=timeout)[0]

    def status(self):
        code, body = self.get_control("/v1/admin/status")
        assert code == 200, (code, body)
        return json.loads(body)

    def metrics(self):
        """{(name, ((label, value), ...)): number}"""
        code, body = self.get("/metrics")
        assert code == 200, (code, body)
        out = {}
        for line in body.decode().splitlines():
            if not line or line.startswith("#"):
                continue
            name, labels, value = re.fullmatch(r'([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)', line).groups()
            pairs = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")))
            out[name, pairs] = float(value)
        return out

    def metric(self, name, **labels):
        """The sum of the series of this name that carry these labels; None when there is none."""
        wanted = set(labels.items())
        found = [v for (n, pairs), v in self.metrics().items() if n == name and wanted <= set(pairs)]
        return sum(found) if found else None

    def metric_is(self, name, value, /, **labels):
        """Waits for metric() to be this value: a counter may come a moment after what it counts. What must not be
        counted is asserted with metric(), after something that would have come later has been waited for."""
        self._metric_until(lambda now: now == value, "to be %s" % value, name, labels)

    def metric_reaches(self, name, least, /, **labels):
        """Waits for metric() to be this value or more."""
        self._metric_until(lambda now: now is not None and now >= least, "to reach %s" % least, name, labels)

    def _metric_until(self, wanted, want, name, labels):
        seen = []

        def there():
            seen[:] = [self.metric(name, **labels)]
            return wanted(seen[0])

        until(there, what=lambda: "%s%s %s: it is %s" % (name, labels or "", want, seen[0]))

    def sessions(self):
        return self.metric("backend_listen_active_ws_connections")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
