"""The home folder and the command of an embedded Neo4j, without starting one."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from multidb.provisioners.neo4j.hosting import program
from multidb.secrets import Secret


def test_the_first_password_is_written_as_a_salted_hash_for_the_owner_alone(tmp_path: Path) -> None:
    program.prepare(tmp_path, bolt_port=7687, password=Secret("pässword-1"), heap="384m")
    path = tmp_path / "data" / "dbms" / "auth.ini"
    text = path.read_text()
    assert "pässword-1" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    user, credential, _ = text.strip().split(":")
    name, digest, salt, rounds = credential.split(",")
    value = bytes.fromhex(salt) + "pässword-1".encode()
    for _ in range(int(rounds)):
        value = hashlib.sha256(value).digest()
    assert (user, name, digest) == ("neo4j", "SHA-256", value.hex())


def test_preparing_again_moves_the_port_and_keeps_the_password(tmp_path: Path) -> None:
    program.prepare(tmp_path, bolt_port=7687, password=Secret("password-1"), heap="384m")
    before = (tmp_path / "data" / "dbms" / "auth.ini").read_text()
    program.prepare(tmp_path, bolt_port=7999, password=Secret("password-2"), heap="384m")
    assert (tmp_path / "data" / "dbms" / "auth.ini").read_text() == before
    conf = (tmp_path / "conf" / "neo4j.conf").read_text()
    assert "server.bolt.listen_address=127.0.0.1:7999\n" in conf
    assert ":7687" not in conf


def test_a_database_that_has_started_once_gets_no_new_password(tmp_path: Path) -> None:
    (tmp_path / "data" / "databases" / "system").mkdir(parents=True)
    program.prepare(tmp_path, bolt_port=7687, password=Secret("password-1"), heap="384m")
    assert not (tmp_path / "data" / "dbms").exists()


def fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(
    ("version", "fits"), [("25.0.2", True), ("21.0.1", True), ("17.0.15", False), ("1.8.0", False)]
)
def test_only_a_java_that_neo4j_takes_is_found(
    version: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = fake_java(tmp_path, version)
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert program.find_java() == (java if fits else None)


def test_the_cache_is_used_once_it_is_there_and_only_by_a_java_that_can(tmp_path: Path) -> None:
    jars = tmp_path / "jars"
    new, old = fake_java(tmp_path / "new", "25.0.2"), fake_java(tmp_path / "old", "21.0.1")
    assert program.aot_cache(old, jars) is None
    cache = program.aot_cache(new, jars)
    assert cache is not None
    flag = f"-XX:AOTCache={cache}"
    assert flag not in program.command(new, jars, tmp_path, "384m")
    cache.touch()
    argv = program.command(new, jars, tmp_path, "512m")
    assert flag in argv
    assert "-Xmx512m" in argv
    assert argv[-2:] == [f"--home-dir={tmp_path}", f"--config-dir={tmp_path / 'conf'}"]
