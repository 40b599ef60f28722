"""
What /metrics shows, what omid-metrics(7) says of it, and what the dashboard and the alert rules make of it: the same
names, the same labels, the same values.
"""
import json
import os
import re
import signal
from pathlib import Path

import pytest
import websockets
import yaml

from support.daemon import PREFIX, merge
from support.deepgram import Mode
from support.exposition import Fault, parse
from support.promql import uses
from support.receiver import Answer
from support.settings import with_deepgram, with_sphinx
from support.wait import until

UID = "uid-that-nobody-may-see"
TOKEN = "token-that-nobody-may-see"
GATHERS = Path(os.environ.get("OMID_BUILD_TREE") or ".") / "tests/plugins/.libs/gathers.so"  # a plugin with fan-outs
BY_PROMETHEUS = {"job", "instance"}  # it adds these to every series
METRIC = re.compile(r"\b(?:omid?|backend|process|pusher|async)_[a-z0-9_]+\b")


# ------------------------------------------------------------------------------ the page


class Entry:
    def __init__(self, name, labels, kind, unit):
        self.name, self.labels, self.kind, self.unit = name, labels, kind, unit
        self.fixed = {}  # label: its values


def documented(with_plugins):
    page = (PREFIX / "share/man/man7/omid-metrics.7").read_text()
    lines = page[page.index("\n.SH METRICS\n"):page.index("\n.SH FILES\n")].split("\n")
    entries, entry = {}, None
    for i, line in enumerate(lines):
        if line == ".TP":
            name, labels = re.fullmatch(r"\.BR? (\w+)(?: \{([\w,]+)\})?", lines[i + 1]).groups()
            kind, unit = re.fullmatch(r"(Counter|Gauge|Histogram)(?:, (seconds|bytes))?\.", lines[i + 2]).groups()
            assert name not in entries, "%s twice" % name
            assert lines[i + 3].strip(), name
            entry = entries[name] = Entry(name, set(labels.split(",")) if labels else set(), kind.lower(), unit)
        label = re.fullmatch(r"\.IR (\w+) :", line)
        if label:
            values = re.fullmatch(r"one of (.*)\.", lines[i + 1]).group(1)
            entry.fixed[label.group(1)] = set(re.sub(r" \([^)]*\)", "", values).split(", "))
    for name in [n for n in entries if re.match(r"omid_plugin_(sphinx|deepgram|webhooks|echo|storage|diarizer)_", n)]:
        if name.split("_")[2] not in with_plugins:
            del entries[name]
    if "gathers" not in with_plugins:
        for name in [n for n in entries if n.startswith("async_gather_")]:
            del entries[name]
    return page, entries


def settings_of_conf():
    """{"listen.ping", ...} as omi.conf(5) has them."""
    out, section = set(), None
    for line in (PREFIX / "share/man/man5/omi.conf.5").read_text().split("\n"):
        if line.startswith(".SS "):
            section = line[4:]
            out.add(section)
        found = re.match(r"\.B (\w+)", line)
        if found and section:
            out.add("%s.%s" % (section, found.group(1)))
    return out


# ------------------------------------------------------------------------------ a daemon with a past


def page_of(daemon):
    code, body = daemon.get("/metrics")
    assert code == 200
    return body.decode()


def series(families):
    return {(name, tuple(sorted(labels.items()))) for f in families.values() for name, labels, _ in f.samples}


@pytest.fixture
def models(have_sphinx):
    return ["dg-nova-3"] + (["sphinx"] if have_sphinx else [])


@pytest.fixture
def watched(start_daemon, deepgram, receiver, have_sphinx):
    settings = with_deepgram(deepgram, backoff="10ms", backoff_max="20ms")
    if have_sphinx:
        settings = with_sphinx(settings)
    return start_daemon(merge(settings, {
        "listen": {"conversation_timeout": "2s", "conversation_timeout_floor": "2s"},
        "queue": {"retry": ["1s", "1s", "1s"]},
        "plugin diarizer": {"url": "http://127.0.0.1:1"}, "plugin storage": {},
        "plugin echo": {}, **({"plugin gathers": {"path": GATHERS}} if GATHERS.exists() else {}),
        "plugin webhooks": {"realtime_transcript": [receiver.url("/%s/transcript?key=%s" % (TOKEN, TOKEN))],
                            "memory_created": [receiver.url("/%s/memory?key=%s" % (TOKEN, TOKEN))],
                            "transcript_interval": "100ms", "breaker": {"failures": 3, "open": "300ms", "open_max": "1s"}}}))


def loaded(models):
    return {"deepgram", "webhooks", "echo", "diarizer", "storage"} | ({"gathers"} if GATHERS.exists() else set()) | set(models[1:])


def counted(daemon, name, **labels):
    until(lambda: daemon.metric(name, **labels), 30, lambda: "%s %s\n%s" % (name, labels, daemon.log_tail()))


def live_through(daemon, deepgram, receiver, phone, models):
    """Sessions, webhooks that fail and recover, a provider that fails, reloads, clients that are refused."""
    receiver.on("/%s/transcript" % TOKEN, Answer(500))
    p = phone(daemon, uid=UID, conversation_timeout=2).wait_ready()
    speaking = p.speaking(6.0)
    for labels in ({"from": "closed", "to": "open", "reason": "consecutive_failures"},
                   {"from": "open", "to": "half_open", "reason": "probe"},
                   {"from": "half_open", "to": "open", "reason": "probe_failed"}):
        counted(daemon, "omid_breaker_transitions_total", plugin="webhooks", **labels)
    counted(daemon, "omid_breaker_open", plugin="webhooks")
    receiver.on("/%s/transcript" % TOKEN, Answer(200))
    speaking.result(60)

    def recovers():
        p.speak(0.5, speed=10)
        return daemon.metric("omid_breaker_transitions_total", plugin="webhooks", to="closed", reason="probe_succeeded")
    until(recovers, 30, lambda: "the recovery\n" + daemon.log_tail())
    until(lambda: daemon.metric("omid_breaker_open", plugin="webhooks") == 0, what="no open breaker")
    counted(daemon, "omid_queue_finished_total", outcome="done")
    counted(daemon, "omid_plugin_webhooks_memory_created_deliveries_total", outcome="ok")
    assert daemon.sessions() == 1
    p.close()

    deepgram.default = Mode(status=500)
    q = phone(daemon, uid=UID + "2")
    last = models[1] if len(models) > 1 else "none"
    counted(daemon, "omi_fallback_total", component="stt", from_mode=models[0], to_mode=last, reason="unreached",
            outcome="degraded" if len(models) > 1 else "exhausted")
    q.hang_up()

    daemon.process.send_signal(signal.SIGHUP)
    counted(daemon, "omid_reloads_total", result="ok")
    daemon.conf.write_text(daemon.conf.read_text() + "nonsense {\n")
    daemon.process.send_signal(signal.SIGHUP)
    counted(daemon, "omid_reloads_total", result="refused")

    assert daemon.get("/%s" % TOKEN)[0] == 404
    with pytest.raises(websockets.WebSocketException):
        phone(daemon, uid=UID, token=TOKEN)
    counted(daemon, "omid_ingress_upgrades_total", result="auth")
    counted(daemon, "omid_ingress_requests_total", **{"class": "4xx"})
    until(lambda: daemon.sessions() == 0, what="the sessions' end")


def test_page_and_exposition(watched, deepgram, receiver, phone, models, reactors):
    daemon, plugins = watched, loaded(models)
    before = parse(page_of(daemon))
    live_through(daemon, deepgram, receiver, phone, models)
    text = page_of(daemon)
    families = parse(text)

    # Whatever will be there is there from the start.
    assert series(families) == series(before)
    _, page = documented(plugins)
    assert set(families) == set(page)
    known = {"plugin": plugins, "lane": plugins, "from_mode": set(models) | {"shadow", "active", "geocoded", "plugin", "none", "hosted"},
             "to_mode": set(models[1:]) | {"none", "off", "raw", "extractive", "local"},
             "loop": {"lane", "ingress_0"} | {"reactor_%d" % i for i in range(reactors)}}
    for name, family in families.items():
        entry = page[name]
        assert family.type == entry.kind, name
        assert name.endswith("_total") == (family.type == "counter"), name
        plain = name[:-len("_total")] if name.endswith("_total") else name
        assert re.search(r"_(seconds|bytes)$", plain) is None if entry.unit is None else plain.endswith("_" + entry.unit), name
        values = family.label_values()
        assert set(values) == entry.labels, name
        here = dict(known, label={"gathers:items"}) if name.startswith("async_gather_") else known
        assert set(entry.fixed) == entry.labels - set(here), name
        for label, found in values.items():
            expected = entry.fixed.get(label, here.get(label))
            # Plugins that are not here have fallbacks of their own.
            assert found <= expected if name == "omi_fallback_total" else found == expected, (name, label)
    for secret in (UID, TOKEN, "://", "127.0.0.1", daemon.admin_key, str(receiver.port), str(deepgram.port)):
        assert not any(secret in v for f in families.values() for values in f.label_values().values() for v in values)
        assert secret == str(receiver.port) or secret == str(deepgram.port) or secret not in text


def test_page_names_what_exists(watched, models):
    """Every metric and every setting that the texts send a reader to."""
    families = parse(page_of(watched))
    plugins = loaded(models)
    page, entries = documented(plugins)
    rules = (PREFIX / "share/omid/prometheus-alerts.yml").read_text()
    dashboard = (PREFIX / "share/omid/grafana-dashboard.json").read_text()
    every = set(families) | {n for f in families.values() for n in f.sample_names()}
    absent = {"omid_plugin_sphinx_"} if "sphinx" not in plugins else set()
    absent |= {"async_gather_"} if "gathers" not in plugins else set()
    for text in (page, rules, dashboard):
        unknown = {n for n in METRIC.findall(text) if n not in every and not any(n.startswith(a) for a in absent)}
        assert not unknown
    conf = settings_of_conf()
    named = set(re.findall(r"\b(?:log|daemon|memory|ingress|listen|auth|stt|speakers|store|queue|exec|watchdog)\.[a-z_]+\b", page + rules))
    assert len(named) > 5 and named <= conf


# ------------------------------------------------------------------------------ dashboard and alerts


def check_expression(expression, families):
    """Only metrics that exist, with labels that they have, and values that these can have. Returns the labels there are."""
    metrics, groupings = uses(expression)
    owner = {n: f for f in families.values() for n in f.sample_names()}
    labels_of_all = set()
    for name, matchers, is_range in metrics:
        assert name in owner, "%s in %r" % (name, expression)
        values = owner[name].label_values()
        labels = set(values) | BY_PROMETHEUS | ({"le"} if name.endswith("_bucket") else set())
        labels_of_all |= labels
        if is_range and owner[name].type == "gauge":
            assert "changes(%s" % name in expression, expression
        for label, operator, value in matchers:
            assert label in labels, "%s{%s} in %r" % (name, label, expression)
            if label in values:
                wanted = value.split("|") if operator.endswith("~") else [value]
                assert set(wanted) <= values[label], expression
    assert set(groupings) <= labels_of_all, expression
    return set(groupings) if groupings else labels_of_all


@pytest.fixture
def families(start_daemon, deepgram, have_sphinx, reactors):
    settings = with_deepgram(deepgram)
    if not have_sphinx:
        pytest.skip("needs the plugin sphinx: dashboard and alerts have panels for it")
    if not GATHERS.exists():
        pytest.skip("needs the test plugin gathers; set OMID_BUILD_TREE to a tree after make check")
    daemon = start_daemon(merge(with_sphinx(settings), {"plugin webhooks": {}, "plugin echo": {},
                                                        "plugin gathers": {"path": GATHERS}}))
    return parse(page_of(daemon))


def test_dashboard(families):
    board = json.loads((PREFIX / "share/omid/grafana-dashboard.json").read_text())
    assert board["title"] == "omid" and board["id"] is None
    variables = {v["name"] for v in board["templating"]["list"]}
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    taken, used = set(), set()
    for panel in panels:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not cells & taken and box["x"] + box["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            there = check_expression(target["expr"], families)
            used |= {name for name, _, _ in uses(target["expr"])[0]}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= there, target
            assert target["datasource"]["uid"] == "${datasource}"
    for annotation in board["annotations"]["list"]:
        check_expression(annotation["expr"], families)
    text = json.dumps(board)
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) <= variables
    # Nothing that is measured is missing on it.
    for name, family in families.items():
        assert used & set(family.sample_names()), "%s is on no panel" % name


def test_alerts(families):
    groups = yaml.safe_load((PREFIX / "share/omid/prometheus-alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({group["name"] for group in groups}) == len(groups)
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        there = check_expression(rule["expr"], families)
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "first_look"} and all(notes.values()), rule
        told = set(re.findall(r"\$labels\.(\w+)", json.dumps(notes)))
        assert told <= there | BY_PROMETHEUS, rule
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s")), rule


# ------------------------------------------------------------------------------ the reader itself

GOOD = ("# HELP a_total A \\\\ b\\n.\n# TYPE a_total counter\na_total{x=\"1\",y=\"\\\"\\\\\\n\"} 1\na_total{x=\"2\",y=\"\"} 2.5e3\n"
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n")
G = "# HELP g G.\n# TYPE g gauge\n"
H = "# HELP h H.\n# TYPE h histogram\n"
BAD = {"no-end": G + "g 1", "empty-line": G + "g 1\n\n", "no-help": "# TYPE g gauge\ng 1\n", "no-type": "# HELP g G.\ng 1\n",
       "help-twice": "# HELP g G.\n" + G + "g 1\n", "late-type": "# HELP g G.\ng 1\n# TYPE g gauge\n", "no-samples": G,
       "stranger": G + "x 1\n", "apart": G + "g 1\n" + H + "h_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n" + G + "g 2\n",
       "twice": G + "g{a=\"1\",b=\"2\"} 1\ng{b=\"2\",a=\"1\"} 1\n", "label-twice": G + "g{a=\"1\",a=\"2\"} 1\n",
       "other-labels": G + "g{a=\"1\"} 1\ng 2\n", "escape": G + "g{a=\"\\t\"} 1\n", "quote": G + "g{a=\"1} 1\n",
       "help-escape": "# HELP g \\G.\n# TYPE g gauge\ng 1\n", "label-name": G + "g{1a=\"1\"} 1\n", "number": G + "g 1,5\n",
       "two-spaces": G + "g  1\n", "tail": G + "g 1 x\n", "comma": G + "g{a=\"1\",} 1\n", "type": "# HELP g G.\n# TYPE g size\ng 1\n",
       "negative-counter": "# HELP c_total C.\n# TYPE c_total counter\nc_total -1\n",
       "not-cumulative": H + "h_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n",
       "no-inf": H + "h_bucket{le=\"1\"} 3\nh_sum 1\nh_count 3\n", "no-sum": H + "h_bucket{le=\"+Inf\"} 3\nh_count 3\n",
       "count": H + "h_bucket{le=\"+Inf\"} 3\nh_sum 1\nh_count 2\n", "le": G + "g{le=\"1\"} 1\n",
       "order": H + "h_bucket{le=\"2\"} 1\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
       "name-clash": "# HELP h_sum S.\n# TYPE h_sum gauge\nh_sum 1\n" + H + "h_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n"}


def test_reader_takes_what_is_right():
    families = parse(GOOD)
    assert families["a_total"].samples[0] == ("a_total", {"x": "1", "y": "\"\\\n"}, 1)
    assert families["a_total"].help == "A \\ b\n." and families["h"].label_values() == {}


@pytest.mark.parametrize("fault", sorted(BAD))
def test_reader_refuses(fault):
    with pytest.raises(Fault):
        parse(BAD[fault])


def test_expressions_are_read():
    found, groupings = uses('sum by (a, le) (rate(x_total{b="1",c=~"2|3"}[5m])) > 0.5 * on (d) y{} and absent(z offset 15m)')
    assert found == [("x_total", [("b", "=", "1"), ("c", "=~", "2|3")], True), ("y", [], False), ("z", [], False)]
    assert groupings == ["a", "le", "d"]
