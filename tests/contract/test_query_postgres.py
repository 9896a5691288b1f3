"""Questions to apps on a real Postgres: who asks, what the server refuses, and what one app can do to the others."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from multidb.engine import Engine
from multidb.errors import Missing, NotAllowed, ServerDown, ServerError, ServerSlow, UsageError
from multidb.fleet import Fleet
from multidb.model import App, ColumnType, Project, Question, RuntimeKind, ServerSpec, Tenant
from multidb.provisioners import provisioner
from multidb.provisioners.postgres.provision.logins import logins
from multidb.provisioners.postgres.provision.options import AppOptions, ServerOptions
from multidb.query.arrow import DuckDbWriter, ParquetWriter
from multidb.query.execution import AppColumns, AppResult, AppRows, AppStatus, QueryExecution, QueryRequest, exit_code
from multidb.query.row_writers import CsvWriter, JsonLinesWriter
from multidb.query.run import HeldAnswer, held, written
from multidb.state import ProjectState
from tests.support.case import RealServer
from tests.support.given_runtime import GivenRuntime
from tests.support.postgres_servers import SUPERUSER, Cluster, cluster

pytestmark = pytest.mark.server

APPS = ("ann", "bob", "eve")
_WRITE = "SET default_transaction_read_only = off"  # which a read-only login may: its rights are the wall


class Place:
    """Three apps on a server; what they have made is the tests' business."""

    def __init__(self, served: Cluster, root: Path) -> None:
        self.served = served
        real = RealServer(served.server(SUPERUSER), served.admin(SUPERUSER), ServerOptions())
        project = Project(
            name="asked",
            runtime=RuntimeKind.EMBEDDED,
            apps={app: App(app, app, {"postgres": AppOptions()}, where=f"multidb.yaml:{app}") for app in APPS},
            servers=(ServerSpec("postgres", "postgres", real.options),),
            root=str(root),
        )
        self.fleet = Fleet(project, ProjectState(root), runtime=GivenRuntime(real), command="test")
        assert Engine(self.fleet).apply().error() is None

    def tenant(self, app: str) -> Tenant:
        server = self.fleet.runtime.servers()[0]
        context = self.fleet.recorded_context(server)
        env = provisioner("postgres").env(self.fleet.project.apps[app], context, server.endpoint, self.fleet.secret)
        return Tenant(self.fleet.project.apps[app], server, context, env)

    def make(self, app: str, *statements: str, login: str = "user") -> None:
        """As the app itself."""
        who = next(found for found in logins(self.tenant(app)) if found.purpose == login)
        with psycopg.connect(
            host="127.0.0.1",
            port=self.served.port,
            user=who.user,
            password=who.password.reveal(),
            dbname=app,
            autocommit=True,
        ) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def asked(self, text: str, *, limit: int | None = 1000, timeout: float | None = 60, **more: Any) -> QueryRequest:
        return QueryRequest("postgres", Question((text,), timeout), APPS, limit, **more)

    def ask(self, text: str, **options: Any) -> dict[str, HeldAnswer]:
        return {answer.result.app: answer for answer in held(self.fleet, self.asked(text, **options))}

    def sessions(self) -> int:
        return int(self.served.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '%_readonly'")[0][0])


@pytest.fixture(scope="module")
def served() -> Iterator[Cluster]:
    with cluster(18, max_connections="40") as made:
        yield made


@pytest.fixture(scope="module")
def place(served: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(served, tmp_path_factory.mktemp("asked"))
    for app, rows in (("ann", 5), ("bob", 3)):
        made.make(
            app,
            "CREATE TABLE users (id int, name text, price numeric, day date, at timestamptz, doc jsonb, ok bool)",
            f"""INSERT INTO users SELECT i, 'n' || i, i / 4.0, '2026-11-29', '2026-11-29 12:00+02', '{{"a": [1]}}',
                i = 1 FROM generate_series(1, {rows}) i""",
        )
    made.make(
        "bob",
        "CREATE SEQUENCE numbers",
        """CREATE FUNCTION writes() RETURNS int LANGUAGE sql SECURITY DEFINER
           AS 'INSERT INTO users VALUES (9) RETURNING id'""",
        """CREATE FUNCTION frees() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           PERFORM set_config('transaction_read_only', 'off', true); INSERT INTO users VALUES (9); RETURN 9; END $$""",
        """CREATE PROCEDURE commits() LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           COMMIT; INSERT INTO users VALUES (9); END $$""",
        """CREATE FUNCTION floods() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           FOR i IN 1..30000 LOOP RAISE NOTICE 'note %', i; END LOOP; RETURN 1; END $$""",
    )
    return made


def test_the_answers_stand_side_by_side_and_an_app_without_the_table_is_no_failure(place: Place) -> None:
    answers = place.ask("SELECT count(*), max(name) AS name FROM users")
    assert [answer.rows for answer in answers.values()] == [[["5", "n5"]], [["3", "n3"]], []]
    assert [(column.name, column.type) for column in answers["ann"].columns] == [
        ("count", ColumnType.INTEGER),
        ("name", ColumnType.TEXT),
    ]
    results = [answer.result for answer in answers.values()]
    assert [result.status for result in results] == [AppStatus.ANSWERED, AppStatus.ANSWERED, AppStatus.MISSING]
    assert isinstance(results[2].error, Missing)
    assert exit_code(results) == 0
    nowhere = [answer.result for answer in place.ask("SELECT * FROM nobody_has_it").values()]
    assert (exit_code(nowhere), {result.status for result in nowhere}) == (1, {AppStatus.MISSING})
    assert place.ask("SELECT * FROM no_schema.users")["ann"].result.status is AppStatus.MISSING


def test_the_read_only_login_asks_in_a_transaction_that_reads_only(place: Place) -> None:
    text = "SELECT session_user, current_user, current_setting('transaction_read_only'), current_database()"
    assert [answer.rows for answer in place.ask(text).values()] == [
        [[f"{app}_readonly", f"{app}_readonly", "on", app]] for app in APPS
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("INSERT INTO users VALUES (9)", "read-only transaction"),
        ("WITH gone AS (DELETE FROM users RETURNING 1) SELECT * FROM gone", "read-only transaction"),
        ("CREATE TABLE more (a int)", "read-only transaction"),
        ("SELECT nextval('numbers')", "denied|read-only transaction"),
        ("SELECT writes()", "read-only transaction"),
        ("SELECT frees()", "must be set before any query"),
        ("CALL commits()", "invalid transaction termination"),
        ("COMMIT; INSERT INTO users VALUES (9)", "multiple commands"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SET TRANSACTION READ WRITE", "must be set before any query"),
        ("COPY users TO STDOUT", "COPY has no rows"),
        ("COPY users FROM STDIN", "permission denied|read-only transaction|COPY has no rows"),
        ("SELECT pg_read_file('/etc/passwd')", "permission denied"),
        ("SELECT $1", "could not determine|bind message|parameters"),
    ],
)
def test_what_writes_is_refused_by_the_server(place: Place, text: str, words: str) -> None:
    before = place.served.sql("SELECT count(*) FROM users", database="bob")
    error = place.ask(text)["bob"].result.error
    assert isinstance(error, NotAllowed)
    assert any(word in error.message for word in words.split("|")), error.message
    assert place.served.sql("SELECT count(*) FROM users", database="bob") == before


def test_the_app_itself_may_do_what_a_question_may_not(place: Place) -> None:
    """The control."""
    place.make("bob", "SELECT writes()", "DELETE FROM users WHERE id = 9")


def test_a_statement_that_only_ends_the_transaction_gives_no_way_to_go_on(place: Place) -> None:
    answer = place.ask("COMMIT")["bob"]
    assert (answer.rows, answer.columns) == ([], ())


def test_the_limit_is_said_when_there_is_more(place: Place) -> None:
    def limits(limit: int) -> list[tuple[int, bool]]:
        answers = place.ask("SELECT * FROM users", limit=limit)
        return [(len(answers[app].rows), answers[app].result.limited) for app in ("ann", "bob")]

    assert limits(3) == [(3, True), (3, False)]
    assert limits(5) == [(5, False), (3, False)]
    many = place.ask("SELECT * FROM generate_series(1, 100000)", limit=120)["eve"]
    assert (len(many.rows), many.result.rows, many.result.limited) == (120, 120, True)
    assert many.rows[-1] == ["120"]


def test_one_app_that_takes_its_time_costs_the_others_nothing(place: Place) -> None:
    text = "SELECT CASE current_database() WHEN 'ann' THEN pg_sleep(60)::text ELSE 'quick' END"
    answers = place.ask(text, timeout=1)
    error = answers["ann"].result.error
    assert isinstance(error, ServerSlow)
    assert "--timeout" in (error.hint or "")
    assert [answers[app].rows for app in ("bob", "eve")] == [[["quick"]], [["quick"]]]
    assert answers["ann"].result.seconds < 30
    assert exit_code([answer.result for answer in answers.values()]) == 1


def test_what_a_login_has_set_makes_no_other_question_of_it(place: Place) -> None:
    text = r"SELECT at, day, '\n' AS plain, '\x01'::bytea, interval '1 day 2 hours' FROM users WHERE id = 1"
    before = place.ask(text)["ann"].rows
    assert before == [["2026-11-29 10:00:00+00", "2026-11-29", r"\n", r"\x01", "1 day 02:00:00"]]
    changed = ("DateStyle = 'German'", "TimeZone = 'Asia/Tokyo'", "standard_conforming_strings = off")
    changed += ("bytea_output = 'escape'", "statement_timeout = '1ms'", "IntervalStyle = 'iso_8601'")
    changed += ("default_transaction_read_only = off", "client_encoding = 'latin1'")
    place.make("ann", _WRITE, *(f"ALTER ROLE ann_readonly SET {setting}" for setting in changed), login="readonly")
    try:
        assert place.ask(text)["ann"].rows == before
    finally:
        place.make("ann", _WRITE, "ALTER ROLE ann_readonly RESET ALL", login="readonly")


def test_a_flood_of_notices_and_an_enormous_value_are_that_apps_own_affair(place: Place) -> None:
    place.make("ann", "CREATE FUNCTION floods() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    answers = place.ask("SELECT floods()")
    assert answers["ann"].rows == [["1"]]
    assert "notices" in str(answers["bob"].result.error)
    enormous = "SELECT CASE current_database() WHEN 'bob' THEN repeat('x', 300 * 1024 * 1024) ELSE 'small' END"
    answers = place.ask(enormous)
    assert "32 MiB" in str(answers["bob"].result.error)
    assert answers["ann"].rows == [["small"]]
    assert len(place.ask("SELECT repeat('x', 20 * 1024 * 1024)", timeout=120)["bob"].rows[0][0]) == 20 * 2**20


def test_columns_that_repeat_get_names_of_their_own(place: Place) -> None:
    answer = place.ask('SELECT 1 AS id, 2 AS "ID", 3 AS app, 4 AS id, 5 AS id_2')["ann"]
    assert [column.name for column in answer.columns] == ["id", "ID_3", "app_2", "id_4", "id_2"]
    assert answer.rows == [["1", "2", "3", "4", "5"]]


def test_custom_types_come_as_the_server_writes_them(place: Place) -> None:
    place.make("ann", "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE DOMAIN tiny AS int CHECK (VALUE < 9)")
    answer = place.ask("SELECT 'ok'::mood, 3::tiny, ARRAY[1, 2], ROW(1, 'a'), 'NaN'::numeric")["ann"]
    assert answer.rows == [["ok", "3", "{1,2}", "(1,a)", "NaN"]]
    assert answer.columns[1].type is ColumnType.INTEGER


def test_no_more_connections_are_open_than_were_allowed(place: Place) -> None:
    # Counted after a while: of a client that has gone, the server's process ends a moment later.
    count = "(SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '%_readonly')"
    text = f"WITH waited AS MATERIALIZED (SELECT pg_sleep(0.5)) SELECT {count} FROM waited"
    answers = place.ask(text, at_once=1)
    assert [answers[app].rows for app in APPS] == [[["1"]]] * 3
    most: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            most.append(place.sessions())

    watcher = threading.Thread(target=watch)
    watcher.start()
    place.ask(text, at_once=3)
    ended.set()
    watcher.join()
    assert 2 <= max(most) <= 3, "and by then they were asked side by side"


def test_rows_that_came_before_a_session_was_ended_are_incomplete(place: Place) -> None:
    asking = QueryExecution(
        place.fleet, QueryRequest("postgres", Question(("SELECT * FROM generate_series(1, 100000000)",)), ("ann",))
    )
    result: AppResult | None = None
    begun = False
    for event in asking.events():
        if isinstance(event, AppRows) and not begun:
            begun = True
            place.served.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann_readonly'")
        elif isinstance(event, AppResult):
            result = event
    assert result is not None
    assert result.status is AppStatus.INCOMPLETE
    assert isinstance(result.error, ServerDown)
    assert result.rows > 0
    assert exit_code([result]) == 1


def test_who_leaves_early_leaves_nothing_running(place: Place) -> None:
    asking = QueryExecution(
        place.fleet, place.asked("SELECT pg_sleep(0.001), i FROM generate_series(1, 100000000) i", limit=None)
    )
    with closing(asking.events()) as events:
        assert any(isinstance(event, AppColumns) for event in events)
    deadline = time.monotonic() + 20
    while place.sessions():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- tables ---


def test_a_table_has_the_columns_of_all_and_nobodys_values_are_lost(place: Place) -> None:
    text = "SELECT * FROM shaped ORDER BY 1"
    place.make("ann", "CREATE TABLE shaped (id int, name text)", "INSERT INTO shaped VALUES (1, NULL), (2, '=1+1')")
    place.make("bob", "CREATE TABLE shaped (id int, name text)", "INSERT INTO shaped VALUES (3, E'a\\nb,\"c')")
    place.make("eve", 'CREATE TABLE shaped ("ID" text, own int)', "INSERT INTO shaped VALUES ('x', 7)")
    out = io.StringIO()
    result = written(place.fleet, place.asked(text), CsvWriter(out))
    assert result.shape is not None
    assert result.shape.mixed == {"id": {ColumnType.INTEGER: "ann", ColumnType.TEXT: "eve"}}
    head, *rows = csv.reader(io.StringIO(out.getvalue()))
    assert head == ["app", "id", "name", "own"]
    assert sorted(rows) == [
        ["ann", "1", "", ""],
        ["ann", "2", "=1+1", ""],
        ["bob", "3", 'a\nb,"c', ""],
        ["eve", "x", "", "7"],
    ]
    assert [answer.status for answer in result.results] == [AppStatus.ANSWERED] * 3
    lines = io.StringIO()
    written(place.fleet, place.asked(text), JsonLinesWriter(lines))
    documents = sorted(map(json.loads, lines.getvalue().splitlines()), key=str)
    assert documents == [
        {"app": "ann", "id": 1, "name": None},
        {"app": "ann", "id": 2, "name": "=1+1"},
        {"app": "bob", "id": 3, "name": 'a\nb,"c'},
        {"app": "eve", "ID": "x", "own": 7},
    ]


def test_an_app_with_ever_so_many_columns_takes_nobodys_room(place: Place) -> None:
    wide = ", ".join(f"c{number} int" for number in range(1500))
    place.make("ann", f"CREATE TABLE wide ({wide})", "INSERT INTO wide (c0) VALUES (1)")
    place.make("bob", f"CREATE TABLE wide ({wide.replace('c', 'd')})", "INSERT INTO wide (d0) VALUES (1)")
    out = io.StringIO()
    result = written(place.fleet, place.asked("SELECT * FROM wide"), CsvWriter(out))
    assert [answer.status for answer in result.results] == [AppStatus.ANSWERED, AppStatus.FAILED, AppStatus.MISSING]
    assert "no room" in str(result.results[1].error)


def test_parquet_and_duckdb_have_types_and_say_what_came_of_each_app(place: Place, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    text = "SELECT id, name, price, day, at, doc, ok FROM users"
    file = tmp_path / "users.parquet"
    with file.open("wb") as out:
        written(place.fleet, place.asked(text), ParquetWriter(out))
    database = tmp_path / "results.duckdb"
    for table in (None, "users"):
        asked = place.asked(text)
        written(place.fleet, asked, DuckDbWriter(database, table, "asked", "postgres", asked.question))
    assert database.stat().st_mode & 0o077 == 0
    with duckdb.connect(str(database)) as connection:
        for source in (f"read_parquet('{file}')", "q1", "users"):
            rows = connection.sql(
                f"SELECT app, count(*), sum(price), bool_or(ok) FROM {source} GROUP BY ALL"
            ).fetchall()
            assert sorted(rows) == [("ann", 5, 3.75, True), ("bob", 3, 1.5, True)]
            types = {name: kind for name, kind, *_ in connection.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()}
            assert types["id"] == "BIGINT"
            assert types["day"] == "DATE"
            assert types["at"] == "TIMESTAMP WITH TIME ZONE"
        assert connection.sql("SELECT doc->'a'->0 FROM (SELECT doc::JSON AS doc FROM q1) LIMIT 1").fetchall() == [
            ("1",)
        ]
        told = connection.sql("SELECT table_name, question FROM multidb_questions ORDER BY 1").fetchall()
        assert told == [("q1", text), ("users", text)]
        results = connection.sql(
            "SELECT app, status, row_count FROM multidb_results WHERE table_name = 'q1'"
        ).fetchall()
        assert results == [("ann", "answered", 5), ("bob", "answered", 3), ("eve", "missing", 0)]
    with pytest.raises(UsageError, match="already"):
        DuckDbWriter(database, "Users", "asked", "postgres", Question((text,)))


def test_a_value_that_has_no_type_here_is_named_and_costs_only_its_app(place: Place, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    database = tmp_path / "results.duckdb"
    asked = place.asked(
        "SELECT CASE current_database() WHEN 'ann' THEN date 'infinity' ELSE date '2026-11-29' END AS day"
    )
    result = written(place.fleet, asked, DuckDbWriter(database, None, "asked", "postgres", asked.question))
    assert [answer.status for answer in result.results] == [AppStatus.FAILED, AppStatus.ANSWERED, AppStatus.ANSWERED]
    assert "column day" in (result.results[0].error.where if result.results[0].error else "")
    with duckdb.connect(str(database)) as connection:
        assert connection.sql("SELECT count(*) FROM q1").fetchall() == [(2,)]


def test_rows_are_there_when_all_are_and_what_a_dead_run_left_goes(place: Place, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    database = tmp_path / "results.duckdb"
    unfinished = 'multidb_loading_q"1'
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS one")
        connection.execute("""CREATE TABLE "multidb_loading_q""1" AS SELECT 1 AS one""")
    asked = place.asked("SELECT n FROM generate_series(1, 120000) n", limit=None)
    shape = written(place.fleet, asked, DuckDbWriter(database, None, "asked", "postgres", asked.question)).shape
    assert shape is not None
    with duckdb.connect(str(database)) as connection:
        assert connection.sql("SELECT app, count(*), sum(n) FROM q1 GROUP BY app ORDER BY app").fetchall() == [
            (app, 120_000, 7_200_060_000) for app in ("ann", "bob", "eve")
        ]
        names = {name for (name,) in connection.sql("SELECT table_name FROM information_schema.tables").fetchall()}
    assert names == {"mine", "q1", "multidb_questions", "multidb_results"}
    assert unfinished not in names
    given_up = DuckDbWriter(database, None, "asked", "postgres", asked.question)
    given_up.begin(shape)
    given_up.give_up()
    with duckdb.connect(str(database)) as connection:
        assert names == {
            name for (name,) in connection.sql("SELECT table_name FROM information_schema.tables").fetchall()
        }
    with pytest.raises(UsageError, match="on its way"):
        DuckDbWriter(database, "multidb_loading_x", "asked", "postgres", asked.question)


def test_where_nobody_has_answered_there_is_no_table_and_no_file(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    database = tmp_path / "results.duckdb"
    asked = place.asked("SELECT * FROM nobody_has_it")
    result = written(place.fleet, asked, DuckDbWriter(database, None, "asked", "postgres", asked.question))
    assert result.shape is None
    assert not database.exists()
    (tmp_path / "other").write_text("no database at all, but a text that is long enough to be looked at")
    with pytest.raises(UsageError, match="DuckDB"):
        DuckDbWriter(tmp_path / "other", None, "asked", "postgres", asked.question)


def test_a_server_that_is_gone_is_exit_code_4(tmp_path: Path) -> None:
    with cluster(18) as made:
        place = Place(made, tmp_path)
        made.crash()
        results = [answer.result for answer in place.ask("SELECT 1").values()]
        assert {type(result.error) for result in results} <= {ServerDown, ServerSlow, ServerError}
        assert exit_code(results) == 4
        made.start()
