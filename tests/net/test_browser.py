"""A foreign client that nobody here wrote: a page in headless Chromium, at the web endpoint."""
import pytest
from support.browser import Browser, chromium
from support.daemon import merge
from support.issuer import Issuer
from support.settings import with_deepgram
from support.wait import until

FAST = {"listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s"}}

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs the Debian package chromium")


@pytest.fixture
def browser(tmp_path, speech):
    b = Browser(str(tmp_path), speech)
    yield b
    b.stop()


def test_a_conversation_from_a_page(start_daemon, browser, deepgram, have_sphinx):
    """Real speech, an id token, the page's own Origin: text comes, and the memory."""
    issuer = Issuer()
    try:
        stt = {"stt": {"models": ["sphinx"]}, "plugin sphinx": {}} if have_sphinx else with_deepgram(deepgram)
        daemon = start_daemon(merge(merge(merge(stt, FAST), issuer.settings()),
                                    {"ingress": {"origins": [browser.origin()]}}))
        url = "ws://%s/v4/web/listen?language=en&sample_rate=16000&codec=pcm16&conversation_timeout=2" % daemon.address
        got = browser.open(50, url=url, token=issuer.token("alice"))
        assert got["code"] == 1000, got
        told = got["told"]
        assert told[0] == {"type": "auth_response", "success": True}
        kinds = [m["type"] for m in told if isinstance(m, dict)]
        assert kinds.index("memory_processing_started") < kinds.index("memory_created")
        text = " ".join(s["text"] for m in told if isinstance(m, list) for s in m)
        assert ("forward" in text) if have_sphinx else "n0." in text
        memory = next(m for m in told if isinstance(m, dict) and m["type"] == "memory_created")["memory"]
        assert memory["transcript_segments"] if "transcript_segments" in memory else memory
        until(lambda: daemon.sessions() == 0, what="the end")
    finally:
        issuer.stop()


def test_a_page_from_elsewhere(start_daemon, browser):
    daemon = start_daemon({"ingress": {"origins": ["http://app.example.com"]}})
    got = browser.open(40, url="ws://%s/v4/web/listen?custom_stt=enabled" % daemon.address, token=daemon.admin_key + "alice")
    assert got["code"] == 1006 and not got["told"], got
    daemon.metric_is("omid_ingress_upgrades_total", 1, result="origin")


def test_a_page_with_a_bad_token(start_daemon, browser):
    daemon = start_daemon({})
    got = browser.open(40, url="ws://%s/v4/web/listen?custom_stt=enabled" % daemon.address, token="nonsense")
    assert (got["code"], got["reason"], got["told"]) == (1008, "Invalid token", [])
