"""What holds for any manifest: edits change what they are asked to change, and reading is what was written."""

import tempfile
from pathlib import Path

import jsonschema
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from multidb.errors import ManifestError, UsageError
from multidb.manifest import add_app, app_id, load, remove_app, schema
from multidb.model import Project
from tests.support.examples import some_of
from tests.support.manifest_styles import STYLES
from tests.support.toy_stores import STORES

ids = st.from_regex(r"\A[a-z][a-z0-9_]{0,6}[a-z0-9]\Z").filter(lambda word: word != "public")
texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn")), max_size=12)
entries = st.fixed_dictionaries(
    {},
    optional={
        "tenant_id": st.from_regex(r"\A[a-z0-9]{1,8}-[a-z]{8}\Z"),
        "labels": st.dictionaries(texts, texts, max_size=4),
        "tables": st.fixed_dictionaries(
            {}, optional={"connection_limit": st.integers(1, 99), "extensions": st.lists(ids, max_size=3)}
        ),
        "vectors": st.fixed_dictionaries(
            {"collections": st.dictionaries(ids, st.fixed_dictionaries({"size": st.integers(1, 4096)}), max_size=3)}
        ),
    },
)
comments = st.sampled_from(["", "", " # note", "   # a: {b}, 'c'"])


def loaded(text: str) -> Project:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "multidb.yaml"
        path.write_bytes(text.encode())
        return load(path, STORES)


def said(project: Project) -> dict[str, object]:
    return {name: (app.tenant_id, app.stores, app.labels) for name, app in project.apps.items()}


@st.composite
def manifests(draw: st.DrawFn) -> str:
    """Manifests with apps in flow or block style, any indentation, comments and blank lines between, any line end."""
    apps = draw(st.dictionaries(ids, entries, max_size=4))
    indent = draw(st.sampled_from([1, 2, 3, 4, 8]))
    lines = ["version: 1" + draw(comments), "# the project", "project: digi", "apps:" + draw(comments)]
    for name, entry in apps.items():
        lines += draw(st.sampled_from([[], [""], ["# above"], [" " * 30 + "# far", ""]]))
        flow = draw(st.sampled_from([True, False, None]))
        text = yaml.safe_dump(
            {name: entry},
            default_flow_style=flow,
            indent=max(2, indent),
            width=draw(st.sampled_from([30, 9999])),
            allow_unicode=True,
        )
        if flow:
            text = f"{name}: " + yaml.safe_dump(entry, default_flow_style=True, width=9999, allow_unicode=True)
            text = text.rstrip("\n") + draw(comments)
        lines += [" " * indent + line if line else line for line in text.rstrip("\n").split("\n")]
    lines += draw(st.sampled_from([[], ["# the end"], ["", "deploy: {}"], [" " * indent + "# inside"]]))
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    return newline.join(lines) + draw(st.sampled_from(["", newline, newline * 2]))


def readable(text: str) -> dict[str, object]:
    """The apps of `text`; a generated text that the reader rightly refuses is not of interest here."""
    try:
        return said(loaded(text))
    except ManifestError:
        assume(False)
        raise


@settings(max_examples=some_of(60))
@given(manifests(), ids, entries)
def test_an_app_comes_and_goes_without_a_trace(text: str, name: str, entry: dict[str, object]) -> None:
    before = readable(text)
    assume(name not in before)
    after = add_app(text, name, entry)
    assert remove_app(after, name) == text
    try:
        found = said(loaded(after))
    except ManifestError as error:
        problems = [problem.message for problem in error.problems]
    else:
        added = found.pop(name)
        assert found == before
        assert added == said(loaded(_alone(name, entry)))[name]
        return
    assert all("would be named" in message or "tenant_id" in message for message in problems), problems


def _alone(name: str, entry: dict[str, object]) -> str:
    return yaml.safe_dump({"version": 1, "project": "digi", "apps": {name: entry}})


@settings(max_examples=some_of(60))
@given(manifests(), st.data())
def test_taking_an_app_out_leaves_the_others(text: str, data: st.DataObject) -> None:
    before = readable(text)
    assume(before)
    name = data.draw(st.sampled_from(sorted(before)))
    after = remove_app(text, name)
    assert said(loaded(after)) == {other: value for other, value in before.items() if other != name}
    outside = [line for line in text.splitlines() if line.strip() in ("# above", "# far", "# the end", "# the project")]
    assert [line for line in after.splitlines() if line in outside] == outside


@settings(max_examples=some_of(60))
@given(
    st.lists(st.tuples(ids, entries), min_size=1, max_size=5, unique_by=lambda pair: pair[0]),
    st.sampled_from(sorted(STYLES)),
    st.randoms(),
)
def test_many_apps_come_and_go_in_any_order(
    apps: list[tuple[str, dict[str, object]]], style: str, random: object
) -> None:
    before = STYLES[style]
    apps = [(f"new_{name}", entry) for name, entry in apps]
    text = before
    for name, entry in apps:
        text = add_app(text, name, entry)
    random.shuffle(apps)  # type: ignore[attr-defined]
    for name, _ in apps:
        text = remove_app(text, name)
    assert text == before


@settings(max_examples=some_of(60))
@given(st.dictionaries(ids, entries, max_size=4))
def test_what_loads_fits_the_json_schema(apps: dict[str, dict[str, object]]) -> None:
    document = {"version": 1, "project": "digi", "apps": apps}
    readable(yaml.safe_dump(document))
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


SCHEMA = schema(STORES)


@given(st.text(max_size=40))
def test_an_app_id_or_a_suggestion_that_is_one(typed: str) -> None:
    try:
        found = app_id(typed)
    except UsageError as error:
        found = (error.hint or "").rpartition(" ")[2]
    assert app_id(found) == found
    assert 2 <= len(found) <= 31
    assert not found.endswith("_")
