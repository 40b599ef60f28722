"""
A host of its own as namespaces of the network and of mounts, where every address there is leads back to it: whatever
the daemon dials arrives at the test, which sees at which address. Names are looked up at the test's own server. Needs
root, unshare and nsenter (util-linux) and ip (iproute2).
"""
import ctypes
import ipaddress
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from .wait import SLOW

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
SETUP = """
ip link set lo up
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
"""


class Unavailable(Exception):
    pass


class Island:
    def __init__(self, directory):
        self.dir = Path(directory)
        (self.dir / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:2 timeout:2\n")
        (self.dir / "nsswitch.conf").write_text("hosts: files dns\n")
        try:
            self.holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-e", "-c",
                                            SETUP + 'echo ready; exec sleep 900', "sh", str(self.dir)],
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except OSError as fault:
            raise Unavailable(str(fault)) from fault
        if self.holder.stdout.readline().strip() != "ready":
            why = self.holder.stderr.read().strip()
            self.end()
            raise Unavailable(why or "unshare does nothing")
        self.prefix = ["nsenter", "--net=/proc/%d/ns/net" % self.holder.pid,
                       "--mount=/proc/%d/ns/mnt" % self.holder.pid]
        self.net = os.open("/proc/%d/ns/net" % self.holder.pid, os.O_RDONLY)

    def socket(self, *kind):
        """A socket stays in the namespace it was made in, whichever its user is in. On a thread of its own: should the
        way back fail, nobody else is lost there."""
        made = []

        def make():
            if LIBC.setns(self.net, CLONE_NEWNET) == 0:
                made.append(socket.socket(*kind))
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not made:
            raise Unavailable("setns is not permitted")
        return made[0]

    def connect(self, address):
        s = self.socket(socket.AF_INET, socket.SOCK_STREAM)
        s.settimeout(60 * SLOW)
        s.connect(address)
        return s

    def end(self):
        self.holder.kill()
        self.holder.wait()
        if hasattr(self, "net"):
            os.close(self.net)


def island_or_skip(directory):
    try:
        island = Island(directory)
    except (Unavailable, OSError) as fault:
        pytest.skip("namespaces are not permitted here: %s" % fault)
    return island


class Shore:
    """Answers HTTP at every address of the island on these ports. At those that are public it serves, elsewhere it only
    takes down who came: self.hits."""

    def __init__(self, island, public, ports=(80, 443, 8080)):
        self.public, self.hits, self.served = {str(a) for a in public}, [], []
        self.lock, self.listeners = threading.Lock(), []
        for port in ports:
            s = island.socket(socket.AF_INET6, socket.SOCK_STREAM)
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            s.bind(("::", port))
            s.listen(512)
            self.listeners.append(s)
            threading.Thread(target=self._accept, args=(s,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        at, port = s.getsockname()[:2]
        address = ipaddress.ip_address(at)
        address = str(address.ipv4_mapped or address)
        with self.lock:
            (self.served if address in self.public else self.hits).append((address, port))
        with s:
            try:
                s.settimeout(20 * SLOW)
                head = b""
                while b"\r\n\r\n" not in head:
                    more = s.recv(65536)
                    if not more:
                        return
                    head += more
                target = head.split(b" ", 2)[1].decode()
                if target.startswith("/to/"):  # /to/302/URL
                    status, url = target[4:].split("/", 1)
                    s.sendall(b"HTTP/1.1 %s Moved\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" %
                              (status.encode(), url.encode()))
                else:
                    body = ("at %s %s" % (address, target)).encode()
                    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            except OSError:
                pass

    def clear(self):
        with self.lock:
            self.hits.clear()
            self.served.clear()


class Names:
    """A name server: names maps a name to its answers, each an address or the name it is an alias of, or to a function
    of how often the name has been asked for (of that kind) that gives them."""

    KINDS = {1: "A", 28: "AAAA"}

    def __init__(self, island, names):
        self.names, self.asked = names, {}
        self.socket = island.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                data, client = self.socket.recvfrom(4096)
                self.socket.sendto(self._answer(data), client)
            except OSError:
                return
            except (ValueError, IndexError, struct.error):
                pass

    def _answer(self, data):
        at, labels = 12, []
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode("latin-1"))
            at += data[at] + 1
        kind = struct.unpack(">H", data[at + 1:at + 3])[0]
        question, name = data[12:at + 5], ".".join(labels).lower()
        count = self.asked[name, self.KINDS.get(kind)] = self.asked.get((name, self.KINDS.get(kind)), 0) + 1
        records, known, owner = [], name in self.names, name
        while owner in self.names and len(records) < 8:
            found = self.names[owner]
            answers, owner = found(count) if callable(found) else found, None
            for a in answers:
                try:
                    address = ipaddress.ip_address(a)
                except ValueError:
                    records.append((5, self._name(a)))
                    owner = a.rstrip(".")
                    continue
                if (address.version == 4) == (kind == 1) and kind in self.KINDS:
                    records.append((kind, address.packed))
        out, alias = b"", self._name(name)
        for k, value in records:
            out += alias + struct.pack(">HHIH", k, 1, 0, len(value)) + value
            alias = value if k == 5 else alias
        return data[:2] + struct.pack(">HHHHH", 0x8580 | (0 if known else 3), 1, len(records), 0, 0) + question + out

    @staticmethod
    def _name(name):
        return b"".join(bytes([len(x)]) + x.encode() for x in name.rstrip(".").split(".")) + b"\0"
