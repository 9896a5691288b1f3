"""Edits of the manifest's text: what was asked for, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

from multidb.errors import ManifestError, UsageError
from multidb.manifest import (
    add_app,
    app_id,
    change_app,
    initial,
    load,
    project_name,
    remove_app,
    rename_app,
    with_secrets,
    with_state,
)
from multidb.model import Project
from tests.support.manifest_styles import STYLES, WITHOUT_APPS
from tests.support.toy_stores import STORES

ENTRIES = {
    "empty": {},
    "short": {"stores": ["tables", "cache"], "labels": {"country": "no"}},
    "long": {
        "tenant_id": "dev-ao",
        "labels": {f"label_{number}": "a rather long text: with # marks" for number in range(4)},
        "vectors": {"collections": {"docs": {"size": 3, "distance": "dot"}, "knowledge": {"size": 1536}}},
    },
}


def read(folder: Path, text: str) -> Project:
    path = folder / "multidb.yaml"
    path.write_bytes(text.encode())
    return load(path, STORES)


def said(project: Project) -> dict[str, object]:
    """Everything but the places, which an edit may move."""
    return {name: (app.tenant_id, app.stores, app.labels) for name, app in project.apps.items()}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("text", [*STYLES.values(), *WITHOUT_APPS.values()], ids=[*STYLES, *WITHOUT_APPS])
def test_an_app_is_added_and_nothing_else_changes(tmp_path: Path, text: str, entry: dict[str, object]) -> None:
    before = said(read(tmp_path, text))
    after = add_app(text, "devao", entry)
    project = read(tmp_path, after)
    assert list(project.apps) == [*before, "devao"]
    found = said(project)
    added = found.pop("devao")
    assert found == before
    assert added == said(read(tmp_path, f"version: 1\nproject: digi\napps: {{devao: {entry!r}}}"))["devao"]
    rest = iter(after)
    assert all(character in rest for character in text), "a character of the old text is gone"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_taking_it_out_again_gives_the_same_text(text: str, entry: dict[str, object]) -> None:
    once = add_app(text, "devao", entry)
    assert remove_app(once, "devao") == text
    assert remove_app(remove_app(add_app(once, "other", entry), "devao"), "other") == text


@pytest.mark.parametrize("text", WITHOUT_APPS.values(), ids=WITHOUT_APPS)
def test_where_there_was_no_apps_an_empty_one_stays(tmp_path: Path, text: str) -> None:
    after = remove_app(add_app(text, "devao", {}), "devao")
    assert read(tmp_path, after).apps == {}
    assert remove_app(add_app(after, "devao", {}), "devao") == after


@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_every_app_can_be_taken_out(tmp_path: Path, text: str) -> None:
    before = said(read(tmp_path, text))
    for name in before:
        if "&" in text and name == next(iter(before)):
            continue  # the other app needs its anchor
        after = remove_app(text, name)
        assert said(read(tmp_path, after)) == {other: value for other, value in before.items() if other != name}


def test_how_it_looks() -> None:
    text = "version: 1\nproject: digi\napps:\n    lernmi: {} # the pilot\n\n# what else\ndeploy: {}\n"
    assert add_app(text, "devao", ENTRIES["long"]) == (
        "version: 1\nproject: digi\napps:\n    lernmi: {} # the pilot\n"
        "    devao:\n"
        "        tenant_id: dev-ao\n"
        "        labels: {label_0: 'a rather long text: with # marks', label_1: 'a rather long text: with # marks',"
        " label_2: 'a rather long text: with # marks', label_3: 'a rather long text: with # marks'}\n"
        "        vectors:\n"
        "            collections:\n"
        "                docs: {size: 3, distance: dot}\n"
        "                knowledge: {size: 1536}\n"
        "\n# what else\ndeploy: {}\n"
    )
    assert add_app(text, "devao", {"stores": ["tables"]}).splitlines()[4] == "    devao: {stores: [tables]}"


def test_lines_end_as_the_others_do() -> None:
    after = add_app(STYLES["windows"], "devao", ENTRIES["long"])
    assert after.count("\r\n") == after.count("\n") > STYLES["windows"].count("\n") + 3


def test_comments_around_a_removed_app_stay() -> None:
    text = "apps:\n  # one\n  aa: {} # gone\n  # two\n  bb:\n    stores: [cache]\n  # three\n  cc: {}\n"
    assert remove_app(text, "aa") == text.replace("  aa: {} # gone\n", "")
    assert remove_app(text, "bb") == text.replace("  bb:\n    stores: [cache]\n", "")


def test_an_app_comes_out_of_an_included_file() -> None:
    assert remove_app("# mine\nlernmi:\n  stores: [cache]\ndevao: {}\n", "lernmi") == "# mine\ndevao: {}\n"
    assert remove_app("lernmi: {}\n", "lernmi") == ""


def test_an_app_that_is_there_is_not_added_twice() -> None:
    with pytest.raises(UsageError, match="already"):
        add_app(STYLES["two spaces"], "lernmi", {})


def test_an_app_that_is_not_there_is_not_removed() -> None:
    with pytest.raises(UsageError) as caught:
        remove_app(STYLES["two spaces"], "lermi")
    assert "lernmi" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (STYLES["anchors"], "lernmi"),  # beep_boop is an alias of it
        ("version: 1\nproject: digi\nx: &x {lernmi: {}}\napps:\n  <<: *x\n", "lernmi"),
    ],
)
def test_what_cannot_be_taken_out_safely_is_refused(text: str, name: str) -> None:
    with pytest.raises(UsageError, match="safely"):
        remove_app(text, name)


@pytest.mark.parametrize("text", ["apps: null\n", "apps: ~\n", "apps: [a]\n", "apps: |\n  text\n"])
def test_what_cannot_be_added_to_safely_is_refused_or_right(text: str) -> None:
    with pytest.raises(UsageError, match="safely") as caught:
        add_app(text, "devao", {"stores": ["cache"]})
    assert "devao: {stores: [cache]}" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "a: !x 1\n"])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        add_app(text, "devao", {})


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n"])
def test_text_without_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        add_app(text, "devao", {})


def test_the_first_manifest_is_right_and_takes_apps(tmp_path: Path) -> None:
    text = initial("digi")
    project = read(tmp_path, text)
    assert (project.name, dict(project.apps)) == ("digi", {})
    once = add_app(text, "devao", {})
    assert once == text.replace("\napps:\n", "\napps:\n  devao: {}\n")
    assert read(tmp_path, initial("on")).name == "on"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("beep-boop", "beep_boop"), (" lernmi ", "lernmi"), ("a1", "a1"), ("a" * 31, "a" * 31)],
)
def test_what_a_person_types_for_an_app(typed: str, meant: str) -> None:
    assert app_id(typed) == meant


@pytest.mark.parametrize(
    ("typed", "better"),
    [
        ("Lernmi", "lernmi"),
        ("a", "app_a"),
        ("1x", "app_1x"),
        ("x_", "app_x"),
        ("", "app_one"),
        ("käse brot", "k_se_brot"),
        ("a" * 32, "a" * 31),
        ("lernmi\n\n!", "lernmi"),
    ],
)
def test_what_is_no_app_id_gets_one_suggested(typed: str, better: str) -> None:
    with pytest.raises(UsageError) as caught:
        app_id(typed)
    assert (caught.value.hint or "").endswith(f" {better}")
    assert app_id(better) == better


@pytest.mark.parametrize(
    ("folder", "name"),
    [("digi", "digi"), ("My Shop!", "my_shop"), ("2024", "my_project"), ("", "my_project")],
)
def test_a_project_is_named_after_its_folder(folder: str, name: str) -> None:
    assert project_name(folder) == name


COMMENTS = re.compile(r"# [a-z ]+(?=\r?$)", re.MULTILINE)
LONG = "s3://backups/" + "a/" * 60
CHANGES = {
    "a value": {"tenant_id": "lern-mi"},
    "a nested one": {"tables": {"connection_limit": 7}},
    "one longer than a line": {"image": LONG},
    "a mapping": {"labels": {"country": "no", "a: b": "# c"}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_an_entry_is_changed_and_no_other(text: str, changes: dict[str, object]) -> None:
    apps = yaml.safe_load(text.removeprefix("\ufeff"))["apps"] or {}
    for name in apps:
        if "*" in text and "&base" in text:
            with pytest.raises(UsageError, match="safely"):
                change_app(text, name, changes)
            continue
        after = change_app(text, name, changes)
        changed = yaml.safe_load(after.removeprefix("\ufeff"))["apps"]
        assert {other: entry for other, entry in changed.items() if other != name} == {
            other: entry for other, entry in apps.items() if other != name
        }
        assert {*COMMENTS.findall(text)} <= {*COMMENTS.findall(after)}, "comments stay"
        for section, value in changes.items():
            now, before = changed[name][section], (apps[name] or {}).get(section)
            assert now == ({**(before or {}), **value} if isinstance(value, dict) else value)


def test_what_is_added_to_a_list_stands_behind_what_is_in_it() -> None:
    text = "apps:\n  aa:\n    stores:\n    - cache # fast\n    # and\n  bb: {stores: [cache], x: []}\n"
    assert change_app(text, "aa", {"stores": ["cache", "tables"]}) == text.replace("# fast\n", "# fast\n    - tables\n")
    assert change_app(text, "bb", {"stores": ["cache", "a", "b"], "x": ["c"]}) == text.replace(
        "[cache], x: []", "[cache, a, b], x: [c]"
    )
    assert change_app(text, "aa", {"stores": ["tables"]}).splitlines()[2:] == [
        "    stores: [tables] # fast",
        "    # and",
        "  bb: {stores: [cache], x: []}",
    ]


@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_an_app_is_called_otherwise_at_its_place(text: str) -> None:
    apps = yaml.safe_load(text.removeprefix("\ufeff"))["apps"] or {}
    for name in apps:
        after = rename_app(text, name, "devao")
        renamed = yaml.safe_load(after.removeprefix("\ufeff"))["apps"]
        assert list(renamed.items()) == [("devao" if app == name else app, entry) for app, entry in apps.items()]
        unquoted = rename_app(after, "devao", name).replace(name, f"'{name}'")
        assert unquoted.replace("'", "").replace('"', "") == text.replace("'", "").replace('"', "")
    if len(apps) > 1:
        with pytest.raises(UsageError, match="already"):
            rename_app(text, *list(apps)[:2])


@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES)
def test_a_value_may_be_longer_than_a_line(text: str) -> None:
    before = yaml.safe_load(text.removeprefix("\ufeff"))
    for after, key in ((with_state(text, LONG), "state"), (with_secrets(text, LONG), "secrets")):
        assert yaml.safe_load(after.removeprefix("\ufeff")) == {**before, key: LONG}
