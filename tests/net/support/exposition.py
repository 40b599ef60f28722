"""Strict reading of the Prometheus text format 0.0.4: whatever a lenient reader would forgive is an error here."""
import math
import re
from dataclasses import dataclass, field

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]Inf|NaN")
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")


class Fault(AssertionError):
    pass


@dataclass
class Family:
    name: str
    type: str = ""
    help: str = None
    samples: list = field(default_factory=list)  # (name, {label: value}, number), in order

    def label_values(self):
        """{label: {value, ...}}; le is the histogram's own."""
        out = {}
        for _, labels, _ in self.samples:
            for label, value in labels.items():
                if label != "le":
                    out.setdefault(label, set()).add(value)
        return out

    def sample_names(self):
        return [self.name + end for end in ("_bucket", "_sum", "_count")] if self.type == "histogram" else [self.name]


class _Line:
    def __init__(self, text, number):
        self.text, self.number, self.at = text, number, 0

    def fail(self, why):
        raise Fault("line %d, column %d: %s: %r" % (self.number, self.at + 1, why, self.text))

    def take(self, pattern, what):
        found = pattern.match(self.text, self.at)
        if not found:
            self.fail("expected " + what)
        self.at = found.end()
        return found.group()

    def literal(self, text):
        if not self.text.startswith(text, self.at):
            self.fail("expected %r" % text)
        self.at += len(text)

    def ahead(self, text):
        return self.text.startswith(text, self.at)

    def quoted(self):
        self.literal('"')
        out = []
        while True:
            if self.at >= len(self.text):
                self.fail("no closing quote")
            c = self.text[self.at]
            self.at += 1
            if c == '"':
                return "".join(out)
            out.append(self.escape('\\n"') if c == "\\" else c)

    def escape(self, allowed):
        if self.at >= len(self.text) or self.text[self.at] not in allowed:
            self.fail("an unknown escape")
        self.at += 1
        c = self.text[self.at - 1]
        return "\n" if c == "n" else c

    def rest(self):
        """A help text."""
        out = []
        while self.at < len(self.text):
            c = self.text[self.at]
            self.at += 1
            out.append(self.escape("\\n") if c == "\\" else c)
        return "".join(out)


def _labels(line):
    labels = {}
    if not line.ahead("{"):
        return labels
    line.literal("{")
    while True:
        label = line.take(LABEL, "a label's name")
        if label in labels:
            line.fail("the label %s twice" % label)
        line.literal("=")
        labels[label] = line.quoted()
        if line.ahead("}"):
            line.literal("}")
            return labels
        line.literal(",")


def _sample(line, family):
    name = line.take(NAME, "a metric's name")
    if family is None or name not in family.sample_names():
        line.fail("a sample of no family, or apart from its own")
    if not family.type or family.help is None:
        line.fail("a sample before its HELP and TYPE")
    labels = _labels(line)
    line.literal(" ")
    number = float(line.take(NUMBER, "a number").replace("Inf", "inf").replace("NaN", "nan"))
    if line.at != len(line.text):
        line.fail("more behind the number")
    if (family.type == "histogram" and name.endswith("_bucket")) != ("le" in labels):
        line.fail("le belongs to buckets, and to them alone")
    if family.type != "gauge" and not number >= 0:
        line.fail("a %s below 0, or no number" % family.type)
    family.samples.append((name, labels, number))


def _comment(line, families, current):
    """HELP or TYPE; returns the family it belongs to."""
    kind = "HELP" if line.ahead("# HELP ") else "TYPE" if line.ahead("# TYPE ") else line.fail("a comment of no use")
    line.literal("# %s " % kind)
    name = line.take(NAME, "a metric's name")
    line.literal(" ")
    if current is None or current.name != name:
        if name in families:
            line.fail("the family is not in one piece")
        current = families[name] = Family(name)
    if current.samples:
        line.fail("%s behind the samples" % kind)
    if kind == "HELP":
        if current.help is not None:
            line.fail("HELP twice")
        current.help = line.rest()
        if not current.help.strip():
            line.fail("an empty HELP")
    else:
        if current.type:
            line.fail("TYPE twice")
        current.type = line.text[line.at:]
        if current.type not in TYPES:
            line.fail("an unknown type")
    return current


def _check_histogram(family):
    series = {}
    for name, labels, number in family.samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        one = series.setdefault(key, {"buckets": []})
        if name.endswith("_bucket"):
            one["buckets"].append((float(labels["le"].replace("Inf", "inf")), number))
        else:
            one[name[len(family.name):]] = number
    for key, one in series.items():
        where = "%s%r" % (family.name, dict(key))
        bounds = [b for b, _ in one["buckets"]]
        counts = [c for _, c in one["buckets"]]
        if not bounds or bounds[-1] != math.inf or any(a >= b for a, b in zip(bounds, bounds[1:])):
            raise Fault("%s: bounds do not rise up to +Inf: %s" % (where, bounds))
        if any(a > b for a, b in zip(counts, counts[1:])) or any(c != int(c) for c in counts):
            raise Fault("%s: buckets are not cumulative: %s" % (where, counts))
        if "_sum" not in one or "_count" not in one or one["_count"] != counts[-1]:
            raise Fault("%s: _count is not the bucket of +Inf, or _sum is missing: %s" % (where, one))


def parse(text):
    """{name: Family}"""
    if not text.endswith("\n"):
        raise Fault("the last line does not end")
    families, current, seen = {}, None, set()
    for number, content in enumerate(text[:-1].split("\n"), 1):
        line = _Line(content, number)
        if content.startswith("#"):
            current = _comment(line, families, current)
            continue
        _sample(line, current)
        name, labels, _ = current.samples[-1]
        key = (name, tuple(sorted(labels.items())))
        if key in seen:
            line.fail("the series a second time")
        seen.add(key)
    owners = {}
    for family in families.values():
        if not family.type or family.help is None or not family.samples:
            raise Fault("%s: HELP, TYPE or samples are missing" % family.name)
        for name in family.sample_names():
            if owners.setdefault(name, family.name) != family.name:
                raise Fault("%s belongs to %s and to %s" % (name, owners[name], family.name))
        if len({tuple(sorted(k for k in labels if k != "le")) for _, labels, _ in family.samples}) != 1:
            raise Fault("%s: its series have different labels" % family.name)
        if family.type == "histogram":
            _check_histogram(family)
    return families
