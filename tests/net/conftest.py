"""
Scenarios with the whole daemon and independent peers.

    OMID_PREFIX=...    where omid is installed
    OMID_REACTORS=1,3  the numbers of reactor threads each scenario runs with (default: 1,3)
    OMID_VALGRIND=1    runs the daemon under valgrind
    OMID_SLOW=4        stretches every deadline
"""
import itertools
import os
import subprocess

import pytest

from support.daemon import Daemon, program
from support.deepgram import Deepgram
from support.phone import Phone
from support.receiver import Receiver
from support.tls import Authority

REACTORS = [int(n) for n in os.environ.get("OMID_REACTORS", "1,3").split(",")]
_serial = itertools.count(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture(params=REACTORS, ids=lambda n: "reactors%d" % n)
def reactors(request):
    return request.param


@pytest.fixture
def start_daemon(request, tmp_path, reactors):
    """start_daemon(settings) -> a running Daemon; stopped, and its end checked, after the test."""
    started = []

    def start(settings=None, environment=None):
        folder = tmp_path / ("omid%d" % len(started))
        folder.mkdir()
        daemon = Daemon(folder, reactors, settings or {}, environment)
        started.append(daemon)
        return daemon.start()

    yield start
    failed = getattr(request.node, "report_call", None) is not None and request.node.report_call.failed
    try:
        for daemon in started:
            if failed:
                print("---- %s\n%s" % (daemon.log_file, daemon.log_tail(80)))
            daemon.stop()
    finally:
        for daemon in started:
            daemon.remove()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def deepgram():
    peer = Deepgram()
    yield peer
    peer.stop()


@pytest.fixture
def deepgram_tls(authority):
    peer = Deepgram(authority.server_context(), stranger=authority.server_context("elsewhere.test"))
    yield peer
    peer.stop()


@pytest.fixture
def receiver():
    peer = Receiver()
    yield peer
    peer.stop()


@pytest.fixture
def phone():
    """phone(daemon, **query) -> a connected Phone with a uid of its own; gone after the test."""
    phones = []

    def connect(daemon, uid=None, **query):
        p = Phone(daemon, uid or "user%d" % next(_serial), **query)
        phones.append(p)
        return p.connect()

    yield connect
    for p in phones:
        if p.ws and not p.closed:
            p.hang_up()


@pytest.fixture(scope="session")
def have_sphinx():
    return (program("omid").parent.parent / "lib/omid/plugins/sphinx.so").exists()


@pytest.fixture(scope="session")
def speech():
    """Sixteen-bit speech at 16 kHz, "go forward ten meters"."""
    listing = subprocess.run(["dpkg", "-L", "pocketsphinx-testdata"], capture_output=True, text=True).stdout
    for line in listing.splitlines():
        if line.endswith("goforward.raw"):
            with open(line, "rb") as f:
                return f.read()
    pytest.skip("needs the Debian package pocketsphinx-testdata")
