"""`omid -t` and `omictl conf check` on broken files: each fault with file, line and key, by the real plugins' own tables."""
import json
import subprocess

import pytest

from support.daemon import program

# What the file says, the line of the fault, and what the message must name.
BROKEN = {
    "unknown section": ("logg { level = info }\n", 1, "logg"),
    "unknown key": ("log {\n  levl = info\n}\n", 2, "levl"),
    "unknown key of a plugin": ("plugin echo {\n  aut = none\n}\n", 2, "aut"),
    "no unit": ("listen {\n  inactivity = 90\n}\n", 2, "inactivity"),
    "unknown unit": ("listen {\n  inactivity = 90 parsecs\n}\n", 2, "inactivity"),
    "negative": ("daemon {\n\n  reactors = -1\n}\n", 3, "reactors"),
    "zero": ("daemon { reactors = 0 }\n", 1, "reactors"),
    "too many": ("daemon { reactors = 65 }\n", 1, "reactors"),
    "overflow": ("ingress { max_body = 99999999999GiB }\n", 1, "max_body"),
    "not one of the choices": ("log { format = xml }\n", 1, "format"),
    "a list for one value": ('log { level = { "info", "debug" } }\n', 1, "level"),
    "address without a port": ('ingress {\n  address = "127.0.0.1"\n}\n', 2, "address"),
    "half of tls": ('ingress {\n  tls {\n    certificate = "/etc/hosts"\n  }\n}\n', 2, "ingress.tls.key"),
    "pool below semaphore": ("plugin echo {\n  pool = 2\n  semaphore = 4\n}\n", 3, "semaphore"),
    "two blocks of one name": ("plugin echo { }\nplugin echo { }\n", 2, "echo"),
    "missing key file": ('auth {\n  admin_key_file = "/nonexistent/key"\n}\n', 2, "admin_key_file"),
    "required value is absent": ('\nplugin deepgram {\n  url = "http://127.0.0.1"\n}\n', 2, "key"),
    "bad URL of a plugin": ('plugin webhooks {\n  memory_created = "ftp://example.com/"\n}\n', 2, "memory_created"),
    "bad seconds of a plugin": ('plugin webhooks {\n  audio_bytes = "http://127.0.0.1/,soon"\n}\n', 2, "audio_bytes"),
    "missing model folder": ('plugin sphinx {\n  model_dir = "/nonexistent"\n}\n', 2, "model_dir"),
    "required plugin file is missing": ('plugin ghost {\n  required = true\n}\n', 1, "ghost"),
    "string without an end": ('log {\n  level = "info\n}\n', 2, "level"),
    "section without an end": ("log {\n  level = info\n", 1, "log"),
    "missing include": ('include("nowhere.conf")\n', 1, "nowhere.conf"),
    "jitter over one": ("queue { jitter = 1.5 }\n", 1, "jitter"),
}


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("what", BROKEN)
def test_broken(what, tmp_path):
    text, line, key = BROKEN[what]
    file = tmp_path / "omi.conf"
    file.write_text(text)
    told = run(program("omid"), "-t", "-f", file)
    assert told.returncode == 78, told.stderr
    at = [one for one in told.stderr.splitlines() if one.startswith("%s:%d:" % (file, line))]
    assert any(key in one for one in at), "line %d and %s are not named in:\n%s" % (line, key, told.stderr)

    checked = run(program("omictl"), "conf", "check", file, "--json")
    assert checked.returncode == 1
    answer = json.loads(checked.stdout)
    assert answer["ok"] is False and any(key in m for m in answer["messages"])


def test_all_faults_at_once(tmp_path):
    file = tmp_path / "omi.conf"
    file.write_text("log { level = loud }\nlisten { inactivity = 90 }\nplugin echo { auth = maybe }\n")
    told = run(program("omid"), "-t", "-f", file).stderr
    for line, key in ((1, "level"), (2, "inactivity"), (3, "auth")):
        assert any(one.startswith("%s:%d:" % (file, line)) and key in one for one in told.splitlines()), told


def test_the_sample_and_the_embedded_text_are_fine(tmp_path):
    sample = program("omid").parent.parent / "etc/omi.conf"
    assert run(program("omid"), "-t", "-f", sample).returncode == 0
    assert run(program("omid"), "-t", "-e").returncode == 0
    printed = tmp_path / "printed.conf"
    printed.write_text(run(program("omid"), "-p").stdout)
    assert run(program("omid"), "-t", "-f", printed).returncode == 0
    checked = run(program("omictl"), "conf", "check", sample, "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)["ok"] is True


def test_no_file(tmp_path):
    told = run(program("omid"), "-t", "-f", tmp_path / "nothing.conf")
    assert told.returncode == 78 and "nothing.conf" in told.stderr
