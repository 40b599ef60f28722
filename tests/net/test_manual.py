"""What omid-plugin(3) shows, followed word by word by somebody who has the installed omid alone."""
import os
import subprocess

from support.daemon import PREFIX, merge, program
from support.receiver import Answer
from support.settings import with_deepgram
from support.wait import SLOW, until


def example(section):
    """The pieces between .nf and .fi of a section, as they are read."""
    page = (PREFIX / "share/man/man3/omid-plugin.3").read_text()
    body = page.split(".SH %s\n" % section, 1)[1].split("\n.SH ", 1)[0]
    return [piece.split("\n.fi", 1)[0].replace("\\-", "-").replace("\\e", "\\") + "\n"
            for piece in body.split(".nf\n")[1:]]


def test_the_example(start_daemon, deepgram, receiver, phone, tmp_path):
    source, commands = example("EXAMPLE")
    (tmp_path / "mine.c").write_text(source)
    done = subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, capture_output=True, text=True, timeout=60 * SLOW,
                          env={**os.environ, "PATH": "%s:%s" % (program("omid").parent, os.environ["PATH"]),
                               "PKG_CONFIG_PATH": str(PREFIX / "lib/pkgconfig")})
    assert done.returncode == 0 and done.stderr == "try.conf: 0 errors, 0 warnings\n", done.stdout + done.stderr

    daemon = start_daemon(merge(with_deepgram(deepgram), {"plugin mine": {
        "path": tmp_path / "mine.so", "url": receiver.url("/said")}}))
    p = phone(daemon).wait_ready()
    p.speak(1.0)
    until(lambda: receiver.at("/said"), what="what was said")
    assert receiver.at("/said")[0].json[0]["text"]
    receiver.on("/said", Answer(503))
    until(lambda: p.speak(0.3) or daemon.logged("segments refused with 503"), what="a refusal")

    # A request that is under way when the daemon stops is still answered; nothing of it was left open by the plugin.
    receiver.on("/said", Answer(drip=0.02))
    sent = len(receiver.at("/said"))
    until(lambda: p.speak(0.3) or len(receiver.at("/said")) > sent, what="one more")
    daemon.stop()
    until(lambda: all(d.answered for d in receiver.at("/said")), what="whole answers")
    assert not daemon.logged("left open by stop"), daemon.log_tail()
