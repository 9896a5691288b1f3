"""Whatever stands in the file, reading it gives a project or problems with places in it, and never anything else."""

import contextlib
import json
import re
import tempfile
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from multidb.errors import ManifestError, UsageError
from multidb.manifest import add_app, load, remove_app
from multidb.model import Project
from tests.support.examples import some_of
from tests.support.manifest_styles import STYLES
from tests.support.toy_stores import STORES

FULL = """\
version: 1
project: digi
runtime: embedded
servers:
  tables: {port: 5432}
external:
  tables: {url: "x://y", password: {env: PASSWORD}}
defaults:
  tables: {connection_limit: 20, statement_timeout: 30s}
apps:
  # the first
  digi_core:
    tenant_id: digi-core
    tables: &t {extensions: [vector, ltree], split: true}
    vectors: {collections: {knowledge: {size: 1536, distance: cosine}}}
    cache: {db: 1}
    labels: {tier: gold}
    quota: {tables: 5GB}
    deploy: {image: "a:1", ports: [80, 8080:80], command: [run]}
    backup: {every: 1h, keep: {last: 3}}
  lernmi: {}
  beep_boop: {stores: [tables, cache], tables: *t}
include: [apps/*/app.yaml]
deploy: {strategy: hybrid, profiles: []}
backup: {every: 24h, to: [backups/], keep: {last: 3, daily: 7, weekly: 4}, verify: weekly}
"""

BITS = [
    *["&a", "*a", "<<: ", "!!int ", "!x ", "? ", ": ", "- ", "{", "}", "[", "]", "|\n", ">-\n", "'", '"', "#", "\t"],
    *["---\n", "...\n", "%YAML 1.2\n", "null", "~", "yes", "1e999", ".nan", "0x1F", "1:30", "9" * 5000, "2026-01-01"],
    *["\\0", '"\\0"', "\r", "\x85", "\u2028", "\ufeff", "**", "../", "/", "[[", "@", "`", ",", "\n", "  "],
]
bits = st.one_of(st.sampled_from(BITS), st.text(max_size=8))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid manifest after a few accidents."""
    text = draw(st.sampled_from([FULL, FULL, *STYLES.values()]))
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [""]
        first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        accident = draw(st.sampled_from(["swap", "delete", "double", "insert", "replace", "indent", "cut"]))
        if accident == "swap":
            lines[first], lines[second] = lines[second], lines[first]
        elif accident == "delete":
            del lines[first]
        elif accident == "double":
            lines.insert(second, lines[first])
        elif accident == "insert":
            at = draw(st.integers(0, len(lines[first])))
            lines[first] = lines[first][:at] + draw(bits) + lines[first][at:]
        elif accident == "replace":
            words = re.findall(r"[\w.:/-]+", lines[first]) or [lines[first]]
            lines[first] = lines[first].replace(draw(st.sampled_from(words)), draw(bits), 1)
        elif accident == "indent":
            lines[first] = draw(st.sampled_from([" ", "  ", "\t", "    "])) + lines[first]
        else:
            lines = lines[:first]
        text = "".join(lines)
    return text


def check(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "multidb.yaml"
        path.write_bytes(raw)
        try:
            assert isinstance(load(path, STORES), Project)
            return
        except ManifestError as error:
            problems = error.problems
    lines = re.split("\r\n|\n|\r", raw.decode("utf-8", "replace"))
    assert problems
    for problem in problems:
        assert problem.file == str(path)
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message
        assert not re.search("pydantic|Input should|Traceback", str(problem))


def edit(text: str) -> None:
    with contextlib.suppress(ManifestError, UsageError):
        after = add_app(text, "devao", {"stores": ["cache"]})
        remove_app(after, "devao")
    with contextlib.suppress(ManifestError, UsageError):
        remove_app(text, "lernmi")


@settings(max_examples=some_of(300))
@given(mutated())
def test_an_accident_in_a_good_manifest(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))
    edit(text)


@settings(max_examples=some_of(100))
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes(raw: bytes) -> None:
    check(raw)


@settings(max_examples=some_of(100))
@given(st.lists(bits, max_size=12).map("".join))
def test_any_yaml_punctuation(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))
    edit(text)


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from(["3", "[]", "{}"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=some_of(150))
@given(st.data())
def test_any_value_in_any_place(data: st.DataObject) -> None:
    document = yaml.safe_load(FULL)
    place = document
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        below = place[key]
        if isinstance(below, dict | list) and below and data.draw(st.booleans()):
            place = below
            continue
        place[key] = data.draw(values)
        break
    check(json.dumps(document).encode())


def test_an_empty_value_at_the_very_end() -> None:
    """Found by a fuzzer: libyaml marks it on a line that does not exist."""
    for text in ("? ", "---", "%YAML 1.2\n---", "? a", "- ? "):
        check(text.encode())
        edit(text)
