"""The files of a daemon's store and queue, seen and held from beside it."""
import sqlite3
from contextlib import contextmanager

from .wait import SLOW


def rows(daemon, sql, *args):
    """What is in the store's file."""
    db = sqlite3.connect("file:%s?mode=ro" % (daemon.dir / "state" / "store.db"), uri=True, timeout=5)
    try:
        return db.execute(sql, args).fetchall()
    finally:
        db.close()


def status_of(daemon, conversation):
    """Its number in the file: 0 in progress, 1 processing, 2 completed; None when it is not there."""
    found = rows(daemon, "SELECT status FROM conversation WHERE id = ?", conversation)
    return found[0][0] if found else None


@contextmanager
def store_held(daemon):
    """Nobody writes into the store meanwhile: its answers do not come."""
    with _held(daemon, "store.db"):
        yield


@contextmanager
def queue_held(daemon):
    """Nobody writes into the queue meanwhile."""
    with _held(daemon, "queue.db"):
        yield


@contextmanager
def _held(daemon, name):
    db = sqlite3.connect(daemon.dir / "state" / name, timeout=30 * SLOW, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
    finally:
        db.close()
