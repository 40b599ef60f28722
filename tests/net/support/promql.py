"""What a PromQL expression uses: enough of its grammar to find every metric with its matchers, and every grouping."""
import re

TOKEN = re.compile(r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<range>\[[^\]]*\])
  | (?P<number>\d+(?:\.\d+)?(?:ms|[smhdwy])?\b|\.\d+)
  | (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<op>=~|!~|!=|==|<=|>=|[-+*/%^(){},<>=])
)""", re.X)
KEYWORDS = {"and", "or", "unless", "bool", "offset", "Inf", "NaN"}
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}


def _tokens(expression):
    at, out = 0, []
    expression = expression.rstrip()
    while at < len(expression):
        found = TOKEN.match(expression, at)
        assert found, "what is this: %r in %r" % (expression[at:], expression)
        out.append((found.lastgroup, found.group(found.lastgroup)))
        at = found.end()
    return out


def uses(expression):
    """([(metric, [(label, operator, value)], is a range)], [labels of groupings])"""
    tokens = _tokens(expression) + [("end", "")] * 2
    metrics, groupings, i = [], [], 0
    while i < len(tokens):
        kind, text = tokens[i]
        i += 1
        if kind != "word" or text in KEYWORDS:
            continue
        if text in GROUPINGS:
            assert tokens[i] == ("op", "("), expression
            end = tokens.index(("op", ")"), i)
            groupings += [t for k, t in tokens[i:end] if k == "word"]
            i = end + 1
            continue
        following = tokens[i]
        if following == ("op", "(") or following[1] in GROUPINGS:
            continue  # a function, or an aggregation
        matchers = []
        if following == ("op", "{"):
            i += 1
            while tokens[i] != ("op", "}"):
                (a, label), (b, operator), (c, value) = tokens[i:i + 3]
                assert (a, b, c) == ("word", "op", "string"), expression
                matchers.append((label, operator, value[1:-1]))
                i += 4 if tokens[i + 3] == ("op", ",") else 3
            i += 1
        metrics.append((text, matchers, tokens[i][0] == "range"))
    assert metrics, "no metric in %r" % expression
    return metrics, groupings
