"""
Where URLs of users lead. On an island where every address is the test's own, each of some hundred ways to write, name
or redirect to an address that is not public is tried: none arrives. The same ones arrive when the operator asks, so
that it is the guard that keeps them, not the test's mistake.
"""
import ipaddress
import json
import re
import subprocess

import pytest

from support import caller
from support.caller import BLOCKED, OK, call, needs_caller
from support.caller import lane as lane_of
from support.admin import Admin
from support.daemon import ADMIN_KEY, Daemon, program
from support.island import Names, Shore, island_or_skip
from support.wait import until

pytestmark = needs_caller

PUBLIC4, OTHER4, PUBLIC6 = "8.8.8.8", "9.9.9.9", "2606:4700::1111"
PUBLIC = [PUBLIC4, OTHER4, PUBLIC6, "64:ff9b::808:808", "2002:808:808::1", "2606:4700::5efe:808:808"]
REFUSED4 = ["127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.5.4", "192.168.0.1", "169.254.169.254", "100.64.0.1",
            "100.100.100.200", "0.0.0.0", "192.0.0.192", "168.63.129.16", "198.18.0.1", "192.0.2.1", "192.88.99.1",
            "240.0.0.1"]
REFUSED6 = ["::", "::1", "::7f00:1", "fd00:ec2::254", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "100::1", "2001::1",
            "2001:0:7f00:1::1", "2001:db8::1", "3fff::1", "5f00::1", "64:ff9b:1::1", "2001:10::1", "4000::1"]


def spellings(address):
    """Ways to write an IPv4 address, and forms of IPv6 that lead to it."""
    a, b, c, d = (int(x) for x in address.split("."))
    number, hex4 = int(ipaddress.ip_address(address)), "%x:%x" % (a << 8 | b, c << 8 | d)
    full = address.translate({ord(str(i)): chr(0xff10 + i) for i in range(10)})
    hosts = [address, "%d" % number, "0x%x" % number, "0X%X" % number, "0%o" % number, "0%o.0%o.0%o.0%o" % (a, b, c, d),
             "0x%x.0x%x.0x%x.0x%x" % (a, b, c, d), "0x%02X.%d.0%o.%d" % (a, b, c, d), "%d.%d" % (a, number & 0xffffff),
             "%d.%d.%d" % (a, b, number & 0xffff), "0x%x.%d" % (a, number & 0xffffff), "000%o.%d.%d.%d" % (a, b, c, d),
             address + ".", "".join("%%%02x" % ord(x) for x in address), address.replace(".", "\u3002"),
             address.replace(".", "\uff0e"), address.replace(".", "\uff61"), full, "[::ffff:%s]" % address,
             "[::ffff:%s]" % hex4, "[0:0:0:0:0:FFFF:%s]" % hex4, "[64:ff9b::%s]" % address, "[64:ff9b::%s]" % hex4,
             "[2002:%s::1]" % hex4, "[::%s]" % address, "[2606:4700::5efe:%s]" % address,
             "[2606:4700::200:5efe:%s]" % address]
    return ["http://%s/" % h for h in hosts]


def urls():
    out = [url for address in REFUSED4 for url in spellings(address)]
    out += ["http://[%s]/" % a for a in REFUSED6] + ["https://[%s]:8080/x" % a for a in REFUSED6]
    out += [form % a for a in ("127.0.0.1", "169.254.169.254", "[::1]", "10.1.2.3") for form in (
        "https://%s/", "http://%s:8080/", "http://%s:443/", "HTTP://%s/", "http://user:pw@%s/", "http://8.8.8.8@%s/",
        "http://8.8.8.8:80@%s:80/", "http://a@8.8.8.8:b@%s/", "http://%%38.8.8.8%%40@%s/", "http://:@%s/",
        "http://%s?x=8.8.8.8", "http://%s#@8.8.8.8/", "http://%s/latest/meta-data/?a=http://8.8.8.8/",
        "http://%s:/", "http://%s:00080/")]
    out += ["http://1\uff12\u2466.0.0.1/".replace("\u2466", "7"), "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
            "http://127.1/", "http://127.0.1/", "http://0/", "http://0x0/", "http://00/", "http://0x7f.1/",
            "http://0177.1/", "http://127.0.0.1../", "http://[::ffff:7f00:0001]/", "http://[::ffff:0:127.0.0.1]/",
            "http://[fe80::1%25lo]/", "http://[::1%25lo]/", "http://[::1%25]/", "http://[::1%lo]/",
            "http://[fe80::1%251]/",
            "http://[fd00::1%25lo]/", "http://localhost/", "http://LOCALHOST/", "http://localhost./",
            "http://foo.localhost/", "http://\uff2c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/"]
    out += ["http://%s/" % n for n in NAMES]
    return out


# Names that lead to what is not public, straight and by aliases.
NAMES = {
    "private.test": ["127.0.0.1"], "private.test.": ["127.0.0.1"], "six.test": ["::1"], "both.test": ["127.0.0.1",
    "::1"],
    "metadata.test": ["169.254.169.254"], "lan.test": ["192.168.0.7"], "ula.test": ["fd00::7"],
    "zero.test": ["0.0.0.0"],
    "mapped.test": ["::ffff:127.0.0.1"], "nat64.test": ["64:ff9b::7f00:1"], "sixtofour.test": ["2002:7f00:1::1"],
    "isatap.test": ["2606:4700::5efe:7f00:1"], "cgnat.test": ["100.64.3.4"],
    "many.test": ["10.0.0.%d" % i for i in range(1, 20)],
    "alias.test": ["private.test"], "alias2.test": ["alias.test"], "alias3.test": ["alias2.test"],
    "tolocalhost.test": ["localhost"], "alias6.test": ["six.test"], "cloud.test": ["metadata.test"],
    "127.0.0.1.nip.test": ["127.0.0.1"], "8.8.8.8.test": ["10.0.0.1"], "loop.test": ["loop2.test"],
    "loop2.test": ["loop.test"], "xn--bcher-kva.test": ["10.9.9.9"],
}
OTHER_SCHEMES = ["file:///etc/passwd", "gopher://127.0.0.1:80/_x", "ftp://127.0.0.1:80/", "dict://127.0.0.1:80/x",
                 "ldap://127.0.0.1:80/", "telnet://127.0.0.1:80/", "tftp://127.0.0.1:80/x", "smb://127.0.0.1/x",
                 "ws://127.0.0.1/", "wss://127.0.0.1/", "http:127.0.0.1", "http:/127.0.0.1/", "//127.0.0.1/",
                 "127.0.0.1",
                 "httpx://127.0.0.1/", "http+unix://%2fvar/", "javascript:alert(1)", "http://", "http:///127.0.0.1/",
                 "http://8.8.8.8\\@127.0.0.1/", "http://127.0.0.1\t/", "unix:///tmp/x", "jar:http://127.0.0.1!/",
                 "imap://127.0.0.1:80/"]


def redirects():
    """Each begins at a public address."""
    ends = ["http://127.0.0.1/", "http://[::1]/", "//10.0.0.1/x", "http://2130706433/", "http://0x7f.1:8080/",
            "http://private.test/", "http://alias3.test/", "http://169.254.169.254/latest/", "https://127.0.0.1/",
            "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
            "http://u:p@127.0.0.1/",
            "http://[fe80::1%25lo]/", "http://localhost:8080/", "file:///etc/passwd", "gopher://127.0.0.1:80/_x",
            "ftp://127.0.0.1:80/", "HTTP://127.1/", "http://\\127.0.0.1/", "///127.0.0.1/", "http://100.64.0.1/",
            "http://%31%32%37.0.0.1/", "http://0/"]
    out = ["http://%s/to/302/%s" % (PUBLIC4, e) for e in ends]
    out += ["http://%s/to/%d/http://127.0.0.1/" % (PUBLIC4, s) for s in (301, 303, 307, 308)]
    out += ["http://%s/to/302/http://%s/to/307/%s" % (PUBLIC4, OTHER4, e) for e in ends[:16]]  # the second hop
    out += ["http://[%s]/to/302/http://%s/to/302/http://public.test/to/308/http://10.0.0.1/" % (PUBLIC6, OTHER4)]
    return out


def turning(count):
    """Public when it is asked first, then not: for who looks a second time."""
    return [PUBLIC4, PUBLIC6] if count == 1 else ["127.0.0.1", "::1"]


REBINDING = {"turn%d.test" % i: turning for i in range(8)}
MIXED = {"mixed%d.test" % i: answers for i, answers in enumerate([
    ["127.0.0.1", PUBLIC4], [PUBLIC4, "127.0.0.1"], ["::1", PUBLIC4], [PUBLIC6, "10.0.0.1"], ["10.0.0.1", "10.0.0.2",
    PUBLIC4],
    ["fd00::1", "fd00::2", PUBLIC6], ["::ffff:127.0.0.1", PUBLIC4]])}
ALL_NAMES = {**{n.rstrip("."): a for n, a in NAMES.items()}, **REBINDING, **MIXED, "public.test": [PUBLIC4],
             "publicalias.test": ["public.test"]}
PROXIES = {"http_proxy": "http://127.0.0.1:8080", "HTTP_PROXY": "http://127.0.0.1:8080",
           "https_proxy": "http://10.0.0.1:8080", "HTTPS_PROXY": "http://[::1]:8080",
           "ALL_PROXY": "socks5h://127.0.0.1:80",
           "all_proxy": "socks5h://127.0.0.1:80", "no_proxy": "", "NO_PROXY": ""}


@pytest.fixture(scope="module")
def coast(tmp_path_factory):
    """The island with its shore and its name server."""
    island = island_or_skip(tmp_path_factory.mktemp("island"))
    island.names, island.shore = Names(island, ALL_NAMES), Shore(island, PUBLIC)
    yield island
    island.end()


@pytest.fixture
def shore(coast):
    coast.shore.clear()
    coast.names.asked.clear()
    return coast.shore


def lane(**more):
    return caller.settings(**{"pool": 256, "semaphore": 256, "queue": 8192, "timeout": "5s", "follow": 5,
                              "breaker": {"failures": 1000, "min_attempts": 100000}, **more})


@pytest.fixture
def daemon(coast, tmp_path, reactors):
    d = Daemon(tmp_path, reactors, lane(), PROXIES)
    d.prefix = coast.prefix
    d.ask = lambda urls, user=True: call(d, *["GET " + u for u in urls], query="user=1" if user else "",
                                         connect=coast.connect)
    try:
        yield d.start()
        d.stop()
    finally:
        d.remove()


def test_nothing_arrives(daemon, shore):
    vectors = urls() + OTHER_SCHEMES + redirects()
    assert len(vectors) >= 500
    results = daemon.ask(vectors)
    assert shore.hits == []
    through = [(u, r) for u, r in zip(vectors, results) if r["error"] == OK and not 300 <= r["status"] < 400]
    assert not through, through[:10]
    blocked = sum(r["error"] == BLOCKED for r in results)
    assert blocked >= 400, blocked
    # What is known as refused is no fault of the peer's, nor of the lane's: no breaker has opened.
    assert {b["state"] for b in json.loads(daemon.get_control("/v1/admin/breakers")[1])["breakers"]} == {"closed"}
    # The operator's own: what the vectors do when nobody guards. The loops of names and some spellings lead nowhere.
    served = len(shore.served)
    results = daemon.ask(vectors, user=False)
    reached = sum(r["error"] == OK and r["body"].startswith("at ") for r in results)
    assert reached >= 400 and len(shore.hits) >= 400, (reached, len(shore.hits))
    assert served > 0  # the first hops of the redirects


def test_names_are_looked_up_once(daemon, shore, coast):
    """The address that was checked is the one that is dialled, however the name answers the next time."""
    for round in range(2):
        results = daemon.ask(["http://%s/" % n for n in REBINDING] +
                             ["http://%s/to/302/http://%s:8080/" % (n, n) for n in REBINDING])
        assert shore.hits == []
        assert all(r["error"] in (OK, BLOCKED) for r in results), results
        assert round or any(r["error"] == OK for r in results)
    # Alone, so that nobody else's lookup is shared: one question of each kind.
    assert [r["error"] for r in daemon.ask(["http://publicalias.test/"])] == [OK]
    assert {k: n for k, n in coast.names.asked.items() if k[0] == "publicalias.test"} == {
        ("publicalias.test", "A"): 1, ("publicalias.test", "AAAA"): 1}
    # Of several addresses only the public ones count.
    results = daemon.ask(["http://%s/" % n for n in MIXED])
    assert shore.hits == [] and [r["error"] for r in results] == [OK] * len(MIXED), results


def test_public_ones_arrive(daemon, shore):
    """Straight, though the environment names proxies."""
    want = {"http://%s/a" % PUBLIC4: PUBLIC4, "http://[%s]/a" % PUBLIC6: PUBLIC6, "http://public.test:8080/a": PUBLIC4,
            "http://publicalias.test/a": PUBLIC4, "http://134744072/a": PUBLIC4, "http://[64:ff9b::8.8.8.8]/a":
            "64:ff9b::808:808", "http://[2002:808:808::1]/a": "2002:808:808::1", "http://[::ffff:8.8.8.8]/a": PUBLIC4,
            "http://[2606:4700::5efe:8.8.8.8]/a": "2606:4700::5efe:808:808", "http://127.0.0.1@%s/a" % PUBLIC4: PUBLIC4,
            "http://%s/to/302/http://%s/a" % (PUBLIC4, OTHER4): OTHER4}
    results = daemon.ask(list(want))
    assert [r["body"] for r in results] == ["at %s /a" % a for a in want.values()], results
    assert shore.hits == []


def reload(daemon, status=0):
    done = subprocess.run([program("omictl"), "--socket", daemon.control, "reload"], capture_output=True, text=True,
                          timeout=60, check=False)
    assert (done.returncode == 0) == (status == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_registered_urls(coast, shore, tmp_path, reactors):
    """The whole way: what users register is tested, delivered to and asked whether it is set up, all of it guarded."""
    bad = ["http://127.0.0.1/", "http://2130706433/", "http://[::ffff:10.0.0.1]/", "http://private.test/",
           "http://six.test/", "http://169.254.169.254/latest/meta-data/", "http://localhost:8080/",
           "http://[fe80::1%25lo]/", "http://0/", "http://alias3.test/", "https://ula.test/"]
    led, good = "http://%s/to/307/http://127.0.0.1/" % PUBLIC4, "http://public.test/hook"
    daemon = Daemon(tmp_path, reactors, {"plugin webhooks": {"timeout": "5s"}}, PROXIES)
    daemon.prefix = coast.prefix
    try:
        admin = Admin(daemon.start(), coast.connect)
        for i, url in enumerate(bad + [led, good]):
            made = admin.call("POST", "/v1/admin/webhooks", {"uid": "ann", "url": url, "events": ["x.y"]}, 201)
            tested = admin.call("POST", "/v1/admin/webhooks/%s/test" % made["id"], {})
            if url in bad:
                assert tested["status"] == 0 and re.search("not allowed|must not", tested["error"]), tested
            else:
                assert tested["status"] == (200 if url == good else 307), tested
            app = {"id": "app%d" % i, "name": "app", "url": good, "setup_completed_url": url,
                   "triggers": ["memory_creation"]}
            admin.call("POST", "/v1/admin/apps", app, 201)
            admin.call("POST", "/v1/admin/apps/%s/enable" % app["id"], {"uid": "ann"}, 502)
        shore.clear()
        before = lane_of(daemon, "webhooks")["done"]
        status, said = admin.raw("POST", "/v1/events/x.y", {"n": 1}, ADMIN_KEY + "ann")
        assert status == 202 and json.loads(said)["endpoints"] == len(bad) + 2, said
        until(lambda: lane_of(daemon, "webhooks")["done"] >= before + len(bad) + 2, what="every endpoint's attempt")
        assert shore.served == [(PUBLIC4, 80)] * 2 and shore.hits == []
        daemon.stop()
    finally:
        daemon.remove()


def test_allow_private_opens_what_it_names(daemon, shore):
    every = ["http://127.0.0.1/", "http://127.8.9.10/", "http://2130706433/", "http://[::ffff:127.0.0.1]/",
             "http://private.test/", "http://localhost/", "http://%s/to/302/http://127.0.0.1/" % PUBLIC4,
             "http://10.0.0.1/", "http://10.0.0.2/", "http://lan.test/", "http://[::1]/", "http://[64:ff9b::7f00:1]/",
             "http://[2002:7f00:1::]/", "http://[fd00::7]/", "http://ula.test/", "http://0.0.0.0/",
             "http://[::1%25lo]/",
             "http://169.254.169.254/"]
    loopback = set(every[:7])
    cases = [([], set()), (["127.0.0.0/8"], loopback), (["10.0.0.1"], {"http://10.0.0.1/"}),
             (["fd00::/8"], {"http://[fd00::7]/", "http://ula.test/"}),
             (["::1", "192.168.0.0/16"], {"http://[::1]/", "http://lan.test/", "http://localhost/"}),
             (["64:ff9b::/96"], {"http://[64:ff9b::7f00:1]/"}), ([], set())]
    for allowed, want in cases:
        daemon.rewrite(lane(allow_private=allowed) if allowed else lane())
        reload(daemon)
        shore.clear()
        results = daemon.ask(every)
        assert {u for u, r in zip(every, results) if r["error"] == OK} == want, allowed
        assert all(r["error"] in (OK, BLOCKED) for r in results), results
        assert bool(shore.hits) == bool(want)
    daemon.rewrite(lane(allow_private=["10.0.0.0/8", "intranet"]))
    assert "plugin caller: allow_private: expected an address or a network" in reload(daemon, 1)
