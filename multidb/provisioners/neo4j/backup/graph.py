"""What is in a database, or one app's part of it: read in one transaction through the driver, written in batches.

Neo4j has no snapshots: a transaction sees what others commit while it reads. The bookmark of the database, which moves
with every commit, tells afterwards whether anything was written in between.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import neo4j

from multidb.errors import ArchiveError, MultidbError
from multidb.model import Measures, Progress, Server
from multidb.provisioners.neo4j.backup.graph_file import FAILED, FILE, Line, Numbers, Tally
from multidb.provisioners.neo4j.backup.values import Spelled, decode, encode
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.cypher import CYPHER_5, CYPHER_25, makes_schema, quoted, requoted
from multidb.provisioners.neo4j.provision.resources import read_mark

__all__ = ["FETCHED", "BATCH", "LARGEST_EXCHANGE", "UNIQUE", "Graph", "Reading", "decoded"]

LARGEST_EXCHANGE: Final = 200_000
FETCHED: Final = 1_000  # rows asked for at once
# How the server writes those values of {0} that are dates, or have an offset or a zone, by property.
_TEXTS: Final = (
    "[k IN keys({0}) WHERE valueType({0}[k]) CONTAINS 'DATE' OR valueType({0}[k]) CONTAINS 'ZONED' | [k, CASE WHEN "
    "valueType({0}[k]) STARTS WITH 'LIST' THEN [x IN {0}[k] | toString(x)] ELSE toString({0}[k]) END]]"
)
BATCH: Final = 5_000  # rows written in one transaction; a long text or list counts for more
# Seconds, as long as the server answers others meanwhile; an index over all data is made before the answer.
_DELETING: Final = 24 * 3600.0
_INDEXING: Final = 24 * 3600.0
_POPULATING: Final = "POPULATING"
UNIQUE: Final = "UNIQUENESS"  # the one kind of constraint that Community has

_Work = Sequence[tuple[str, Mapping[str, Any]]]
"""Statements with the parameters of each."""
_Run = Callable[[_Work], Sequence[Sequence[Any]]]
"""Runs them in one transaction and gives the rows that they answer."""
_Functions = tuple[tuple[str, str, bool], ...]
"""Properties that functions of Cypher make of texts: the name, the function, whether the value is a list."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a graph from beginning to end.

    Args:
        moment: the database's bookmark before; it is still the same when nothing was written since.
        end: the last line of a file that holds all this.
        constraints: the kinds that there are.
    """

    moment: frozenset[str]
    measures: Measures
    end: Line
    constraints: list[str]


class Graph:
    """All that is in a database, or what an app has in one that it shares with others.

    Args:
        shared: whether the app's nodes are those that bear its label; without, all of the database is the app's.
    """

    def __init__(self, server: Server, bolt: Bolt, database: str, app: str, *, shared: bool) -> None:
        self._server = server
        self._bolt = bolt
        self._database = database
        self._app = app
        self._label = app if shared else None

    @property
    def shared(self) -> bool:
        """Whether others have nodes in the same database."""
        return self._label is not None

    def is_empty(self) -> bool:
        """Whether there is no node."""
        return not self._ask(f"MATCH {_node(self._label)} RETURN 1 AS one LIMIT 1")

    def survey(self, progress: Progress, keep: Callable[[Line], None] = lambda line: None) -> Reading:
        """Reads everything and measures it. `keep` gets each line that counts."""
        constraints: set[str] = set()
        with Numbers() as numbers:
            before, total = self.bookmark(), self.total()
            tally = Tally(numbers)
            for done, line in enumerate(self.lines()):
                if tally.add(line):
                    keep(line)
                if "constraint" in line:
                    constraints.add(line["type"])
                if done % FETCHED == 0:
                    progress(self._app, "reading the graph", done, total)
            return Reading(before, tally.measures(), tally.end(), sorted(constraints))

    def lines(self) -> Iterator[Line]:
        """Everything there is, in the order of the file, read as it comes."""
        # The driver does not hold all dates and zones. Servers before 5.13 have no function for the type of a value.
        texts = _TEXTS if self._ask("SHOW FUNCTIONS YIELD name WHERE name = 'valueType' RETURN name") else "[]"
        with self._reading() as transaction:
            text = f"MATCH {_node(self._label)} RETURN elementId(n), labels(n), properties(n), {texts.format('n')}"
            for element, labels, *values in self._rows(transaction, text):
                kept = sorted(name for name in labels if name != self._label)
                yield {"node": _number(element), "labels": kept, "properties": self._encoded(element, *values)}
            pattern = f"{_node(self._label, 'a')}-[r]->{_node(self._label, 'b')}"
            columns = f"properties(r), {texts.format('r')}"
            text = f"MATCH {pattern} RETURN elementId(r), type(r), elementId(a), elementId(b), {columns}"
            for element, kind, start, end, *values in self._rows(transaction, text):
                ends = {"from": _number(start), "to": _number(end)}
                yield {"relationship": kind, **ends, "properties": self._encoded(element, *values)}
        if self._label is None:
            yield from self.schema()

    def schema(self) -> Iterator[Line]:
        """Constraints and indexes, without those that come by themselves and our mark."""
        columns = "name, type, entityType, labelsOrTypes, properties, createStatement"
        # In words that databases of the other language and older servers take, too, as far as there are such.
        older = CYPHER_5 if self.language() not in (None, CYPHER_5.strip()) else ""
        for row in self._ask(f"{older}SHOW CONSTRAINTS YIELD {columns}"):
            kind = UNIQUE if row["type"].endswith(UNIQUE) else row["type"]  # called otherwise in Cypher 25
            create = requoted(row["createStatement"] or self._newer("CONSTRAINTS", row["name"]))
            yield {"constraint": row["name"], "type": kind, "on": _about(row), "create": create}
        for row in self._ask(f"{older}SHOW INDEXES YIELD {columns}, state, owningConstraint"):
            if row["owningConstraint"] is None and row["type"] != "LOOKUP" and read_mark(row["name"]) is None:
                create = requoted(row["createStatement"] or self._newer("INDEXES", row["name"]))
                failed = {"state": FAILED} if row["state"] == FAILED else {}
                yield {"index": row["name"], "type": row["type"], "on": _about(row), "create": create, **failed}

    def _newer(self, kinds: str, name: str) -> str:
        """How to make what Cypher 5 has no words for."""
        text = f"{CYPHER_25}SHOW {kinds} YIELD name, createStatement WHERE name = $name RETURN createStatement"
        rows = self._ask(text, {"name": name})
        if not rows or not rows[0]["createStatement"]:
            raise ArchiveError(
                f"{kinds.lower()}: the server does not tell how {name} is made",
                where=f"{self._server}, database {self._database}",
                hint=f"drop it, and make it by hand after a restore (SHOW {kinds})",
            )
        return f"{CYPHER_25}{rows[0]['createStatement']}"

    def language(self) -> str | None:
        """The Cypher that queries are in which do not say otherwise; None where the database has no say in it."""
        if self.shared:
            return None
        shown = self._ask("SHOW DATABASES YIELD * WHERE name = $name", {"name": self._database})
        language = shown[0].get("defaultLanguage") if shown else None
        return str(language) if language else None

    def speak(self, language: str | None) -> None:
        """Makes it the language of the database, where it has one.

        Raises:
            ArchiveError: it is no name of a language.
        """
        there = self.language()
        if language is None or there in (None, language):
            return
        if not re.fullmatch(r"CYPHER \d{1,3}", language):
            raise ArchiveError(f"{language[:40]!r} is no language of queries", where=str(self._server))
        with self._bolt.explained():
            self._bolt.ask(f"ALTER DATABASE {quoted(self._database)} SET DEFAULT LANGUAGE {language}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[neo4j.Transaction]:
        with self._opened(default_access_mode=neo4j.READ_ACCESS, fetch_size=FETCHED) as session:
            with self._in_time():
                transaction = session.begin_transaction()
            yield transaction
            with self._in_time():
                transaction.rollback()

    def _rows(self, transaction: neo4j.Transaction, text: str) -> Iterator[neo4j.Record]:
        with self._in_time():
            result = transaction.run(text)
        while rows := self._fetched(result):
            yield from rows

    def _fetched(self, result: neo4j.Result) -> list[neo4j.Record]:
        with self._in_time():
            return result.fetch(FETCHED)

    def _encoded(
        self, element: str, properties: Mapping[str, Any], texts: Iterable[tuple[str, str | list[str]]]
    ) -> dict[str, Any]:
        texts_of = dict(texts)
        try:
            return {name: encode(value, texts_of.get(name)) for name, value in properties.items()}
        except TypeError:
            raise ArchiveError(
                "a property has a value that Python's driver cannot hold (a year before 1 or after 9999, a zone that "
                "it does not know, an offset with seconds)",
                where=f"{self._server}, element {element}",
                hint=f"find it: MATCH (n) WHERE elementId(n) = '{element}' RETURN n",
            ) from None

    def bookmark(self) -> frozenset[str]:
        """Where the database is: every commit moves it on."""
        with self._in_time(), self._bolt.session(self._database) as session:
            session.run("RETURN 1").consume()
            return session.last_bookmarks().raw_values

    def total(self) -> int:
        """How many nodes and relationships there are; of a shared database only the nodes."""
        nodes = self._ask(f"MATCH {_node(self._label)} RETURN count(n) AS total")[0]["total"]
        relationships = self._ask("MATCH ()-[r]->() RETURN count(r) AS total")[0]["total"]
        return int(nodes + (0 if self._label else relationships))

    def load(self, lines: Iterable[Line], total: int, progress: Progress) -> None:
        """Loads where nothing is, in many transactions. `total`: nodes and relationships, as far as is known."""
        with self._opened() as session, Numbers() as numbers:

            def run(work: _Work) -> list[list[Any]]:
                with self._in_time():
                    return session.execute_write(_all, work)

            loader = _Loader(run, numbers, self._label)
            loader.take(lines, lambda done: progress(self._app, "loading the graph", done, total))
        self._change_schema(loader.schema)

    def exchange(self, lines: Iterable[Line], total: int, progress: Progress) -> None:
        """Takes away what is there and loads something else, in one transaction; then its schema likewise.

        The old schema goes first: what comes may contradict it, as data from before a constraint does. An interruption
        leaves the old data without it, or the new without its own; the next run goes on.

        Raises:
            ArchiveError: it is more than `LARGEST_EXCHANGE`; nothing was changed.
        """
        size = total + self.total()
        if size > LARGEST_EXCHANGE:
            raise ArchiveError(
                f"{size} nodes and relationships would have to be exchanged in one transaction; {LARGEST_EXCHANGE} can",
                where=f"{self._server}, database {self._database}",
                hint="restore into an empty server, or with neo4j-admin while this one is stopped",
            )
        with self._without_schema(), self._opened() as session, Numbers() as numbers:
            with self._in_time():
                transaction = session.begin_transaction()

            def run(work: _Work, seconds: float | None = None) -> list[list[Any]]:
                with self._in_time(seconds):
                    return _all(transaction, work)

            run([(f"MATCH {_node(self._label)} DETACH DELETE n", {})], _DELETING)
            loader = _Loader(run, numbers, self._label)
            loader.take(lines, lambda done: progress(self._app, "loading the graph", done, total))
            with self._in_time():
                transaction.commit()
        self._change_schema(loader.schema)

    @contextlib.contextmanager
    def _without_schema(self) -> Iterator[None]:
        """In the block there are no constraints and indexes of the app's. Where it fails, the data is what it was, and
        they are made again."""
        before = list(self.schema()) if self._label is None else []
        for line in before:
            self._drop(line)
        try:
            yield
        except MultidbError:
            self._make_schema(before)
            raise

    def _change_schema(self, schema: Sequence[Line]) -> None:
        """Makes the constraints and indexes those of the file; a place without nodes may have some, too."""
        if self._label is not None:
            return
        odd = next((line for line in schema if not makes_schema(line["create"])), None)
        if odd is not None:
            raise ArchiveError(
                f"{FILE} has a line that makes neither a constraint nor an index: {odd['create'][:200]}",
                where=str(self._server),
                hint="restore another set",
            )
        self._drop_schema(keep={line["create"] for line in schema})
        there = {line["create"] for line in self.schema()}
        self._make_schema([line for line in schema if line["create"] not in there])

    def _make_schema(self, schema: Sequence[Line]) -> None:
        for line in schema:
            self._ask(line["create"], seconds=_INDEXING)
        failed = self._failed() if schema else {}
        for line in schema:
            if line.get("index") in failed and line.get("state") != FAILED:
                raise ArchiveError(
                    f"index {line['index']} cannot be built: {failed[line['index']]}",
                    where=f"{self._server}, database {self._database}",
                    hint="drop it where the data comes from, or take out the value that it cannot hold",
                )

    def _failed(self) -> dict[str, str]:
        """Why which indexes could not be built, as soon as none is being built any more."""
        # Not by `db.awaitIndexes`, which is refused for the sake of any that has failed, though all come back as they
        # were: one that failed on these data where it was made, too.
        deadline, pause = time.monotonic() + _INDEXING, 0.02
        while True:
            rows = self._ask("SHOW INDEXES YIELD name, state, failureMessage", seconds=_INDEXING)
            if all(row["state"] != _POPULATING for row in rows) or time.monotonic() > deadline:
                return {row["name"]: _line(row["failureMessage"]) for row in rows if row["state"] == FAILED}
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _drop_schema(self, keep: Collection[str] = ()) -> None:
        for line in list(self.schema()):
            if line["create"] not in keep or "state" in line:  # one that has failed may be built on other data
                self._drop(line)

    def _drop(self, line: Line) -> None:
        kind = "constraint" if "constraint" in line else "index"
        self._ask(f"DROP {kind.upper()} {quoted(line[kind])} IF EXISTS")

    def empty(self) -> None:
        """Takes away all that is the app's, in many transactions."""
        if self._label is None:
            self._drop_schema()
        text = f"MATCH {_node(self._label)} CALL {{ WITH n DETACH DELETE n }} IN TRANSACTIONS OF 10000 ROWS"
        self._ask(text, seconds=_DELETING)

    # Talking to the server: an error of the driver is explained here, where no error of the set's files can be meant.

    def _ask(
        self, text: str, values: Mapping[str, Any] | None = None, seconds: float | None = None
    ) -> list[dict[str, Any]]:
        with self._bolt.explained():
            return self._bolt.ask(text, self._database, values, seconds or self._server.progress_timeout)

    @contextlib.contextmanager
    def _in_time(self, seconds: float | None = None) -> Iterator[None]:
        with self._bolt.explained(), self._bolt.within(seconds or self._server.progress_timeout):
            yield

    @contextlib.contextmanager
    def _opened(self, **options: Any) -> Iterator[neo4j.Session]:
        session = self._bolt.session(self._database, **options)
        try:
            yield session
        finally:
            with self._in_time():
                session.close()


class _Loader:
    """Turns lines into statements for many rows at a time, and hands them to `run`, one transaction's worth a time."""

    def __init__(self, run: _Run, numbers: Numbers, label: str | None) -> None:
        self.schema: list[Line] = []
        self._run = run
        self._numbers = numbers
        self._label = label
        self._prefix = ""  # of every element id of this database
        self._nodes: dict[tuple[tuple[str, ...], _Functions], list[list[Any]]] = {}
        self._relationships: dict[tuple[str, _Functions], list[list[Any]]] = {}
        self._weight = 0

    def take(self, lines: Iterable[Line], report: Callable[[int], None]) -> None:
        """Everything; the last batch, too."""
        for done, line in enumerate(lines, 1):
            if "node" in line:
                self._node(line)
            elif "relationship" in line:
                self._relationship(line)
            else:
                self.schema.append(line)
            if self._weight >= BATCH:
                self._flush()
                report(done)
        self._flush()

    def _node(self, line: Line) -> None:
        labels = (*line["labels"], *((self._label,) if self._label else ()))
        values, functions, texts = decoded(line)
        self._nodes.setdefault((labels, functions), []).append([line["node"], values, texts])
        self._weight += _weight(line)

    def _relationship(self, line: Line) -> None:
        if self._nodes:
            self._flush()
        ends = [self._numbers[line["from"]], self._numbers[line["to"]]]
        if not all(ends):
            raise ArchiveError(f"{FILE} has a relationship between nodes that are not in it")
        start, end = (number - 1 for number in ends)
        values, functions, texts = decoded(line)
        rows = self._relationships.setdefault((line["relationship"], functions), [])
        rows.append([start, end, values, texts])
        self._weight += _weight(line)

    def _flush(self) -> None:
        work: list[tuple[str, Mapping[str, Any]]] = [
            (
                # One answer for all: a row costs the driver more than what is in it.
                f"UNWIND $rows AS row CREATE (n{_labels(labels)}) SET n = row[1]{_made('n', 'row[2]', functions)} "
                "RETURN collect([row[0], elementId(n)]) AS made",
                {"rows": rows},
            )
            for (labels, functions), rows in self._nodes.items()
        ]
        work += [
            (
                "UNWIND $rows AS row "
                "MATCH (a) WHERE elementId(a) = $prefix + row[0] MATCH (b) WHERE elementId(b) = $prefix + row[1] "
                f"CREATE (a)-[r:{quoted(kind)}]->(b) SET r = row[2]{_made('r', 'row[3]', functions)}",
                {"rows": rows, "prefix": self._prefix},
            )
            for (kind, functions), rows in self._relationships.items()
        ]
        for (made,) in self._run(work) if work else ():
            for number, element in made:
                self._prefix = element[: element.rindex(":") + 1]
                self._numbers[number] = _number(element) + 1
        self._nodes, self._relationships, self._weight = {}, {}, 0


def _all(transaction: Any, work: _Work) -> list[list[Any]]:
    """Sends the statements, and gives the rows that they answered."""
    rows: list[list[Any]] = []
    for text, parameters in work:
        rows += transaction.run(text, parameters).values()
    return rows


def _node(label: str | None, name: str = "n") -> str:
    return f"({name}{_labels((label,) if label else ())})"


def _labels(labels: Iterable[str]) -> str:
    return "".join(f":{quoted(label)}" for label in labels)


def _number(element: str) -> int:
    """The number that an element id ends with; what is before it is the same in the whole database."""
    return int(element.rpartition(":")[2])


def _line(text: str | None) -> str:
    """The first line of what a server says."""
    return (text or "").partition("\n")[0]


def _about(row: Mapping[str, Any]) -> list[Any]:
    """What a constraint or an index is for, the same in every version of the server."""
    return [row["entityType"], sorted(row["labelsOrTypes"] or ()), row["properties"]]


def decoded(line: Line) -> tuple[dict[str, Any], _Functions, list[str | list[str]]]:
    """The properties of a line: those that the driver takes; which functions make the others, of which texts.
    `ArchiveError` where a value is none that was written."""
    try:
        properties = {name: decode(value) for name, value in line["properties"].items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, StopIteration):
        raise ArchiveError(f"{FILE} has a value of an unknown type") from None
    spelled = sorted((name, value) for name, value in properties.items() if isinstance(value, Spelled))
    for name, _ in spelled:
        del properties[name]
    functions = tuple((name, value.function, isinstance(value.text, list)) for name, value in spelled)
    return properties, functions, [value.text for _, value in spelled]


def _made(owner: str, texts: str, functions: _Functions) -> str:
    """Assigns what the functions make of the texts, one after the other."""
    return "".join(
        f", {owner}.{quoted(name)} = "
        + (f"[x IN {texts}[{at}] | {function}(x)]" if many else f"{function}({texts}[{at}])")
        for at, (name, function, many) in enumerate(functions)
    )


def _weight(line: Line) -> int:
    """1 for most; more for what has long texts, lists or bytes."""
    long = (value for value in line["properties"].values() if isinstance(value, (str, list, dict)))
    return 1 + sum(len(value.get("bytes", "") if isinstance(value, dict) else value) for value in long) // 1000
