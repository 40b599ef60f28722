"""Sessions of one user that come, speak, leave and are told to process, all at the same time: every word is kept once."""
import http.client
import random
import re
import threading
import time
from collections import Counter

from support.aio import background
from support.phone import Phone
from support.store import rows
from support.wait import SLOW, until

SECONDS = 6
WORKERS = 6


class Users:
    """What some users said, and what they were told of it."""

    def __init__(self, daemon):
        background()  # made before there are threads
        self.daemon, self.lock = daemon, threading.Lock()
        self.words, self.heard, self.faults, self.posts = 0, set(), [], Counter()

    def word(self):
        with self.lock:
            self.words += 1
            return "w%d" % self.words

    def session(self, r, uid):
        p = Phone(self.daemon, uid, custom_stt="enabled", conversation_timeout=r.choice((2, 2, 120)),
                  channels=r.choice((1, 1, 1, 1, 2)))
        p.connect()
        try:
            at = 0.0
            for _ in range(r.choice((0, 1, 3, 6))):
                p.send({"type": "suggested_transcript", "segments": [
                    {"text": self.word() + r.choice((".", "", "?")), "speaker": "SPEAKER_%02d" % r.randrange(3),
                     "start": at, "end": at + 0.5}]})
                at += r.choice((0.5, 1, 5))
                time.sleep(r.random() * 0.1)
            time.sleep(r.random() * 0.5)
            with self.lock:
                self.heard.update(w for batch in list(p.batches) for s in batch for w in re.findall(r"w\d+", s["text"]))
        finally:
            if r.random() < 0.5:
                background().run(p.ws.close())
            else:
                p.hang_up()

    def post(self, uid):
        host, port = self.daemon.address.rsplit(":", 1)
        c = http.client.HTTPConnection(host, int(port), timeout=60 * SLOW)
        try:
            c.request("POST", "/v1/conversations", headers={"Authorization": "Bearer " + self.daemon.admin_key + uid})
            self.posts[c.getresponse().status] += 1
        finally:
            c.close()

    def live(self, seed, until_):
        r = random.Random(seed)
        while time.monotonic() < until_:
            uid = "user%d" % r.randrange(2)
            try:
                if r.random() < 0.15:
                    self.post(uid)
                else:
                    self.session(r, uid)
            except Exception as e:  # of a thread: the test shows it
                self.faults.append(repr(e))
                return


def test_every_word_is_kept_once(start_daemon):
    daemon = start_daemon({"listen": {"conversation_timeout_floor": "2s", "lifecycle_check": "50ms", "process_wait": "5s"},
                           "processing": {"at_once": 2}})
    users = Users(daemon)
    end = time.monotonic() + SECONDS
    threads = [threading.Thread(target=users.live, args=(i, end)) for i in range(WORKERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not users.faults
    assert set(users.posts) <= {201, 202, 404}, users.posts
    until(lambda: daemon.sessions() == 0, what="the end of all sessions")
    daemon.stop()
    kept = Counter(w for text, in rows(daemon, "SELECT text FROM segment") for w in re.findall(r"w\d+", text))
    assert users.words > 10 and len(users.heard) > 5
    assert not [w for w in users.heard if kept[w] == 0], "told, and lost"
    assert not [w for w in kept if kept[w] > 1], "kept twice"
    assert not rows(daemon, "SELECT uid FROM conversation WHERE status = 0 GROUP BY uid HAVING count(*) > 1"), "two are open"
