"""Disks that fail: one that is small and can be filled (needs root), and one whose syncs fail."""
import os
import subprocess
from pathlib import Path

import pytest

SHIM = Path(__file__).parent / "disk.c"


class FullDisk:
    """Some megabytes in memory, mounted at `path` in a namespace of mounts of its own, where the daemon lives."""
    environment = {}

    def __init__(self, path, size="96m"):
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-e", "-c",
             'mount -t tmpfs -o "size=$2" tmpfs "$1"; echo ready; exec sleep 900', "sh", str(path), size],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline().strip() != "ready":
            why = self.holder.stderr.read().strip()
            self.end()
            pytest.skip("mounts are not permitted here: %s" % why)
        self.prefix = ["nsenter", "--mount=/proc/%d/ns/mnt" % self.holder.pid]
        self.ballast = Path("/proc/%d/root" % self.holder.pid + str(path)) / "ballast"

    def breaks(self, room=0):
        """Full but for so many bytes."""
        with open(self.ballast, "ab", buffering=0) as f:
            for size in (1 << 20, 4096):
                try:
                    while f.write(b"\0" * size) == size:
                        pass
                except OSError:
                    pass
            f.truncate(f.tell() - room)

    def mends(self):
        self.ballast.unlink()

    def end(self):
        self.holder.kill()
        self.holder.wait()


class LyingDisk:
    """Syncs fail, and what was to be synced is gone: see disk.c."""
    prefix = []

    def __init__(self, path, folder):
        self.control, library = folder / "fails", folder / "disk.so"
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", str(SHIM), "-o", str(library), "-ldl"],
                       check=True)
        self.environment = {"LD_PRELOAD": str(library), "OMID_DISK_FAILS": str(self.control),
                            "OMID_DISK_UNDER": str(path), "ASAN_OPTIONS": "detect_leaks=1:verify_asan_link_order=0"}

    def breaks(self):
        self.control.touch()

    def mends(self):
        self.control.unlink()

    def end(self):
        pass
