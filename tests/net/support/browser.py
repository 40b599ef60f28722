"""Headless Chromium with a page of ours: the page does the work and posts what came of it."""
import json
import os
import shutil
import signal
import subprocess

from aiohttp import web

from .aio import background
from .wait import until

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions",
         "--disable-dev-shm-usage", "--mute-audio", "--metrics-recording-only",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1")  # nothing leaves this machine

PAGE = """<!doctype html><meta charset="utf-8"><title>a client</title><script>
(async () => {
  const told = [], plan = PLAN, done = more => fetch("/result", {method: "POST", body: JSON.stringify({told, ...more})});
  const audio = new Uint8Array(await (await fetch("/speech")).arrayBuffer());
  const ws = new WebSocket(plan.url);
  ws.binaryType = "arraybuffer";
  const sleep = ms => new Promise(r => setTimeout(r, ms));
  const speak = async () => {
    for (let at = 0; at < audio.length; at += plan.frame) {
      ws.send(audio.subarray(at, at + plan.frame));
      await sleep(plan.pause);
    }
  };
  ws.onopen = () => ws.send(JSON.stringify({type: "auth", token: plan.token}));
  ws.onclose = e => done({code: e.code, reason: e.reason});
  ws.onmessage = e => {
    if (e.data === "ping") return;
    const m = JSON.parse(e.data);
    told.push(m);
    if (m.type === "auth_response") speak();
    if (m.type === "memory_created") ws.close(1000);
  };
})();
</script>"""


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """Serves the page; open() runs Chromium on it until the page has posted its result."""

    def __init__(self, profile, speech):
        self.profile = profile
        self.speech = speech
        self.result = None
        self.plan = {}
        self._runner = background().run(self._serve())
        self.port = self._runner.addresses[0][1]

    async def _serve(self):
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/", self._page)
        app.router.add_get("/speech", self._speech)
        app.router.add_post("/result", self._result)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _page(self, request):
        return web.Response(text=PAGE.replace("PLAN", json.dumps(self.plan)), content_type="text/html")

    async def _speech(self, request):
        return web.Response(body=self.speech, content_type="application/octet-stream")

    async def _result(self, request):
        self.result = self.result or await request.json()
        return web.Response()

    def origin(self, host="127.0.0.1"):
        return "http://%s:%d" % (host, self.port)

    def open(self, deadline, host="127.0.0.1", **plan):
        self.plan = dict({"frame": 3200, "pause": 50}, **plan)
        self.result = None
        log = open(os.path.join(self.profile, "chromium.log"), "ab")
        process = subprocess.Popen([chromium(), *FLAGS, "--user-data-dir=%s" % os.path.join(self.profile, "profile"),
                                    self.origin(host) + "/"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, env=dict(os.environ, HOME=str(self.profile)))
        try:
            return until(lambda: self.result, deadline, "the page's result; its log is " + log.name)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            log.close()

    def stop(self):
        background().run(self._runner.cleanup())
