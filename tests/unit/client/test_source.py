"""Where the client's variables come from: files as multidb writes them, mistakes in words, changes seen."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multidb.client import VariableMissing, connect
from multidb.client.source import Source, env_file_of, parse_env, source_of
from multidb.render.env import EnvFormat, env_text


@settings(max_examples=200)
@given(
    value=st.text(
        alphabet=st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00", codec="utf-8")
    )
)
def test_what_multidb_writes_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    file = tmp_path_factory.mktemp("e") / ".env"
    file.write_text(env_text("app", {"A": value, "B": "b"}, EnvFormat.DOTENV), encoding="utf-8")
    assert parse_env(file) == {"A": value, "B": "b"}


def test_other_hands_forms_are_read(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text('# c\n\nexport A=1\nB = two # why\nC="a \\"b\\"\\n"\nD=\nE=\'x\\y\'\nF=a=b#c\n')
    assert parse_env(file) == {"A": "1", "B": "two", "C": 'a "b"\n', "D": "", "E": "x\\y", "F": "a=b#c"}


@pytest.mark.parametrize("line", ["no variable", "1A=x", "A='open", 'A="x" y', "=x"])
def test_a_line_that_is_no_variable_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"B=1\n{line}\n")
    with pytest.raises(VariableMissing, match=r"\.env:2: this is no NAME=value; `multidb env APP --write`") as raised:
        parse_env(file)
    assert line not in str(raised.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(VariableMissing, match="cannot be read: No such file"):
        connect(env_file=tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"A=\xff\n")
    with pytest.raises(VariableMissing, match="not UTF-8"):
        connect(env_file=tmp_path / "bytes")


def test_a_store_that_the_app_does_not_have_is_said_with_the_next_command(tmp_path: Path) -> None:
    place = connect(variables={"APP_NAME": "ann", "UNKNOWN": "x"})
    assert place.stores == ()
    with pytest.raises(VariableMissing, match="the given variables has no REDIS_HOST; `multidb show ann`"):
        _ = place.redis
    with pytest.raises(VariableMissing, match="no DATABASE_URL"):
        _ = place.postgres
    with pytest.raises(VariableMissing, match="no NEO4J_DATABASE"):
        _ = place.neo4j
    assert place.health().status == "healthy", "nothing to be ill"
    with pytest.raises(VariableMissing, match="no APP_NAME"):
        connect(variables={})


def test_the_first_that_is_given_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def file(name: str) -> Path:
        made = tmp_path / f"{name}.env"
        made.write_text(f"APP_NAME={name}\n")
        return made

    monkeypatch.setenv("APP_NAME", "environment")
    monkeypatch.delenv("MULTIDB_ENV_FILE", raising=False)
    assert connect().app == "environment"
    monkeypatch.setenv("MULTIDB_ENV_FILE", str(file("named")))
    assert connect().app == "named"
    assert connect(env_file=file("given")).app == "given"
    assert connect(env_file=file("given"), variables={"APP_NAME": "variables"}).app == "variables"


def test_an_app_is_found_beside_the_nearest_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIDB_FILE", raising=False)
    inside = tmp_path / "apps" / "beep_boop" / "src"
    inside.mkdir(parents=True)
    with pytest.raises(VariableMissing, match=r"no multidb\.yaml in .* or above it"):
        env_file_of("ann", inside)
    (tmp_path / "multidb.yaml").write_text("")
    with pytest.raises(VariableMissing, match="is not there; `multidb env ann --write` writes it"):
        env_file_of("ann", inside)
    (tmp_path / "apps" / "beep_boop" / ".env").write_text("APP_NAME=beep_boop\n")
    assert env_file_of("beep-boop", inside) == tmp_path / "apps" / "beep_boop" / ".env"
    with pytest.raises(VariableMissing, match="there are beep_boop"):
        env_file_of("ann", inside)
    for name in ("../beep_boop", "", "Ann", "a/b", "."):
        with pytest.raises(VariableMissing, match="no app's name"):
            env_file_of(name, inside)
    monkeypatch.setenv("MULTIDB_FILE", str(tmp_path / "multidb.yaml"))
    assert env_file_of("beep_boop", Path("/")).is_file()
    monkeypatch.setenv("MULTIDB_FILE", str(tmp_path / "other.yaml"))
    with pytest.raises(VariableMissing, match="which MULTIDB_FILE names"):
        env_file_of("beep_boop", inside)


class Pool:
    """Something that holds connections."""

    def __init__(self) -> None:
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1


def replace(file: Path, text: str) -> None:
    """As multidb writes: another file in its place."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_a_change_is_seen_told_once_and_forgotten_with_who_asked(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("APP_NAME=ann\nP=1\n")
    source = source_of(None, file, None, interval=0)
    pool, other = Pool(), Pool()
    source.when_changed(pool.renew)
    source.when_changed(other.renew)
    assert source.refresh() is False
    replace(file, "APP_NAME=ann\nP=2\n")
    assert source.refresh() is True
    assert (source["P"], source.revision, pool.renewed, other.renewed) == ("2", 1, 1, 1)
    replace(file, "APP_NAME=ann\nP=2\n")
    assert source.refresh() is False, "written again, and nothing has changed"
    del other
    gc.collect()
    file.unlink()
    assert source.refresh() is False
    replace(file, "APP_NAME=ann\nP='half")
    assert source.refresh() is False
    assert source["P"] == "2", "what was read last counts on"
    replace(file, "APP_NAME=ann\nP=3\n")
    assert source.refresh() is True
    assert (pool.renewed, source["P"]) == (2, "3")


def test_a_watched_file_needs_nobody_to_ask(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("APP_NAME=ann\nP=1\n")
    source = source_of(None, file, None, interval=0.02)
    pool = Pool()
    assert not watchers(), "nobody watches before somebody holds connections"
    source.when_changed(pool.renew)
    replace(file, "APP_NAME=ann\nP=2\n")
    wait_for(lambda: pool.renewed == 1)
    source.close()
    wait_for(lambda: not watchers())


def test_a_client_that_nobody_closed_keeps_no_thread(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("APP_NAME=ann\n")
    source = source_of(None, file, None, interval=0.02)
    pool = Pool()
    source.when_changed(pool.renew)
    assert watchers()
    del source
    gc.collect()
    wait_for(lambda: not watchers())


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "multidb-env-file"]


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_fixed_variables_are_not_looked_for_again() -> None:
    source = Source(lambda: {"APP_NAME": "a"}, "here")
    assert source.refresh() is False
    assert source.app == "a"
