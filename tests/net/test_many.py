"""Many at once: none dropped, nobody's words mixed up, nothing left."""
import re
import time

from support.deepgram import Mode
from support.settings import with_deepgram
from support.wait import until

MANY = 50


def all_right(phones, results):
    wrong = []
    for i, p in enumerate(phones):
        expected = " ".join("v%d n%d." % (100 + i, n) for n in range(1, results + 1))
        if p.text() != expected:
            wrong.append((i, p.text(), p.closed, p.close_code, p.close_reason))
    return wrong


def descriptors_after_first_use(daemon, deepgram, phone):
    """A reactor's first stream opens what it keeps; so many uids meet every reactor."""
    first = [phone(daemon) for _ in range(40)]
    for p in first:
        p.wait_ready(60)
    for p in first:
        p.close()
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), what="the first sessions' end")
    deepgram.streams.clear()
    return daemon.fds()


def test_fifty_streams(start_daemon, deepgram, phone):
    daemon = start_daemon(with_deepgram(deepgram))
    fds = descriptors_after_first_use(daemon, deepgram, phone)

    phones = [phone(daemon) for _ in range(MANY)]
    for p in phones:
        p.wait_ready(60)
    assert daemon.sessions() == MANY
    for f in [p.speaking(3.0, 100 + i) for i, p in enumerate(phones)]:
        f.result(120)
    until(lambda: not all_right(phones, 6), 60, lambda: "all transcripts; wrong: %s" % all_right(phones, 6)[:3])
    assert not any(p.closed for p in phones)
    assert daemon.healthz() == 200
    for i, p in enumerate(phones):
        p.close() if i % 2 else p.hang_up()
    until(lambda: daemon.sessions() == 0, 60, lambda: "sessions to end: %s" % daemon.sessions())
    until(lambda: not deepgram.live(), what="the peer's streams to end")
    until(lambda: daemon.fds() <= fds, what=lambda: "descriptors: %d at the start, now %s" % (fds, daemon.descriptors()))
    assert len(deepgram.streams) == MANY
    for stream in deepgram.streams:
        assert len(set(stream.values)) == 1 and stream.audio == 48000 and stream.empty_frames == 0
        assert stream.kinds() == ["CloseStream"] and stream.close_code == 1000


def test_fifty_streams_of_which_some_fail(start_daemon, deepgram, phone):
    """Every fifth is refused at first, every third of the rest is lost in mid-stream; the others are not touched by it."""
    daemon = start_daemon(with_deepgram(deepgram, breaker={"failures": 1000}))
    # The refused ones come one by one: at once, one of them could be given each refusal there is, and be out of attempts.
    phones = []
    for _ in range(MANY // 5):
        deepgram.script(Mode(status=500))
        phones.append(phone(daemon).wait_ready(60))
    deepgram.script(*[Mode(drop_after=1.1) if i % 3 == 0 else Mode() for i in range(MANY - len(phones))])
    phones += [phone(daemon) for _ in range(MANY - len(phones))]
    for p in phones:
        p.wait_ready(60)
    for f in [p.speaking(3.0, 100 + i) for i, p in enumerate(phones)]:
        f.result(120)

    def complete(i, p):
        return re.findall(r"v(\d+) n\d+\.", p.text()) == [str(100 + i)] * 6

    until(lambda: all(complete(i, p) for i, p in enumerate(phones)), 60,
          lambda: "all: %s" % [p.text() for i, p in enumerate(phones) if not complete(i, p)][:3])
    assert not any(p.closed for p in phones)
    for p in phones:
        p.hang_up()
    until(lambda: daemon.sessions() == 0 and not deepgram.live(), 60, "all to end")


def test_coming_and_going(start_daemon, deepgram, phone):
    """Clients that leave at any moment, mostly before they were served."""
    deepgram.default = Mode(tail=[("Bye.", 0)], tail_delay=0.05)
    daemon = start_daemon(with_deepgram(deepgram))
    fds = descriptors_after_first_use(daemon, deepgram, phone)
    began = time.monotonic()
    for n in range(100):
        p = phone(daemon)
        if n % 4 == 1:
            p.speak(0.2, speed=10)
        if n % 4 == 2:
            p.wait_ready()
        if n % 4 == 3:
            p.close()
        else:
            p.hang_up()
    assert daemon.healthz() == 200
    until(lambda: daemon.sessions() == 0, 60, lambda: "sessions to end: %s" % daemon.sessions())
    until(lambda: not deepgram.live(), what="the peer's streams to end")
    until(lambda: daemon.fds() <= fds, what=lambda: "descriptors: %d at the start, now %s" % (fds, daemon.descriptors()))
    print("100 clients in %.1f s" % (time.monotonic() - began))
