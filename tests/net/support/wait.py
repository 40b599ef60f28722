"""Waiting for conditions; nothing here sleeps for a fixed time and hopes."""
import os
import time

# A sanitizer or valgrind makes everything slower, a loaded machine too: deadlines stretch, conditions stay.
SLOW = float(os.environ.get("OMID_SLOW", "10" if os.environ.get("OMID_VALGRIND") == "1" else "1"))


def until(condition, deadline=20.0, what=None):
    """Calls condition until it is true and returns what it gave; fails after `deadline` seconds."""
    end = time.monotonic() + deadline * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            said = what() if callable(what) else what
            raise AssertionError("waited %.0f s in vain for %s" % (deadline * SLOW, said or condition.__name__))
        time.sleep(0.02)


def holds(condition, seconds, what=None):
    """The condition stays true for so long: for things that must not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), what or "it stopped to hold"
        time.sleep(0.05)
