"""Rows of all apps as a Parquet file, or as a table of a DuckDB file. Needs the extra ``query``."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from multidb.distribution import add_command
from multidb.errors import TargetError, UsageError
from multidb.model import Batch, Column, ColumnType, Question
from multidb.query.execution import AppResult
from multidb.query.tables import Fitting, TableShape
from multidb.query.values import APP

if TYPE_CHECKING:
    import duckdb
    import pyarrow

__all__ = ["DuckDbWriter", "ParquetWriter", "QUESTIONS", "RESULTS"]

QUESTIONS: Final = "multidb_questions"
RESULTS: Final = "multidb_results"
_LOG: Final = f"""
CREATE TABLE IF NOT EXISTS {QUESTIONS} (
  table_name VARCHAR PRIMARY KEY, project VARCHAR, store VARCHAR, question VARCHAR, asked_at TIMESTAMPTZ);
CREATE TABLE IF NOT EXISTS {RESULTS} (
  table_name VARCHAR, app VARCHAR, server VARCHAR, status VARCHAR, row_count BIGINT, limited BOOLEAN, message VARCHAR)
"""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_AT_A_TIME: Final = 20_000  # rows
_IN_MEMORY: Final = 8 << 20  # bytes that DuckDB has not committed
_LOADING: Final = "multidb_loading_"
_SIZE_AT_A_TIME: Final = 16 << 20  # characters, of what comes at a time
_EXTRA: Final = "[query]"
_SETTINGS: Final[Mapping[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "96MB",
}
"""The file is one that others may write, too: nothing in it is to reach beyond it."""


class _Gathered:
    """Rows that are written together, column by column: a row group, or an insert, of a hundred would be slow."""

    def __init__(self, shape: TableShape) -> None:
        self._shape = shape
        self._fittings: dict[str, Fitting] = {}
        self._columns: list[list[Any]] = []
        self._size = 0
        self.schema = _schema(shape)
        self._empty()

    def _empty(self) -> None:
        self._columns = [[] for _ in range(len(self._shape.columns) + 1)]
        self._size = 0

    def admit(self, app: str, columns: Sequence[Column]) -> None:
        self._fittings[app] = Fitting(self._shape, app, columns)

    def add(self, app: str, rows: Batch) -> None:
        columns = [[app] * len(rows), *self._fittings[app].values(rows)]
        for gathered, values in zip(self._columns, columns, strict=True):
            gathered += values
            self._size += sum(len(value) for value in values if isinstance(value, str))

    @property
    def is_full(self) -> bool:
        return len(self._columns[0]) >= _AT_A_TIME or self._size >= _SIZE_AT_A_TIME

    def taken(self) -> pyarrow.Table | None:
        """What has gathered, which is gone then; None: nothing has."""
        import pyarrow

        if not self._columns[0]:
            return None
        table = pyarrow.table(self._columns, schema=self.schema)
        self._empty()
        return table


class _TableWriter(ABC):
    """Writes what gathers, a table at a time."""

    one_table = True

    def __init__(self) -> None:
        _imported("pyarrow")  # before anything asks it for a schema
        self._gathered = _Gathered(TableShape(()))

    def columns(self, app: str, columns: Sequence[Column]) -> None:
        self._gathered.admit(app, columns)

    def rows(self, app: str, rows: Batch) -> None:
        self._gathered.add(app, rows)
        if self._gathered.is_full:
            self._write()

    def _write(self) -> None:
        if (table := self._gathered.taken()) is not None:
            self._write_table(table)

    @abstractmethod
    def _write_table(self, table: pyarrow.Table) -> None: ...


class ParquetWriter(_TableWriter):
    """One Parquet file.

    Raises:
        UsageError: the extra is not installed.
    """

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self._library: Any = _imported("pyarrow.parquet")
        self._out = out
        self._file: Any = None

    def begin(self, shape: TableShape) -> None:
        self._gathered = _Gathered(shape)
        self._file = self._library.ParquetWriter(self._out, self._gathered.schema, compression="zstd")

    def _write_table(self, table: pyarrow.Table) -> None:
        self._file.write_table(table)

    def end(self, results: Sequence[AppResult]) -> None:
        self._write()
        self._file.close()
        self._out.flush()

    def give_up(self) -> None:
        """A file without its end is none: whoever reads it is told so."""


class DuckDbWriter(_TableWriter):
    """A table of a DuckDB file: it is there when all is over, or not at all.

    Rows come into a table of another name, which is committed piece by piece: what is not, DuckDB keeps in memory. It
    gets its own name in the end; one that a run which died has left goes when the file is opened next.

    Args:
        table: its name; None: ``q1``, or the next that is free.

    Raises:
        UsageError: the extra is not installed; the file is no DuckDB file, or in use; the table is there already.
    """

    def __init__(self, path: Path, table: str | None, project: str, store: str, question: Question) -> None:
        super().__init__()
        self._library: Any = _imported("duckdb")
        if table is not None and not _NAME.fullmatch(table):
            hint = "letters, digits and _, not a digit first: --table orders"
            raise UsageError(f"{table!r} can't be the name of a table", hint=hint)
        if table is not None and table.lower().startswith(_LOADING):
            raise UsageError(f"tables called {_LOADING}... are for what is on its way", hint="--table OTHER")
        self._path, self._uncommitted = path, 0
        self._about = (project, store, " ".join(question.words), datetime.now(UTC))
        self._is_new = not path.exists()
        self._connection = self._opened()
        try:
            if self._is_new:
                os.chmod(path, 0o600)  # noqa: PTH101  # what apps have is nobody else's business
            self._drop_unfinished()
            self._connection.execute("BEGIN")
            self.table = self._named(table)
        except BaseException:
            self.give_up()
            raise

    def _opened(self) -> duckdb.DuckDBPyConnection:
        try:
            connection: duckdb.DuckDBPyConnection = self._library.connect(str(self._path), config=dict(_SETTINGS))
        except self._library.Error as error:
            raise UsageError(
                f"can't be opened as a DuckDB file: {str(error).splitlines()[0]}",
                where=str(self._path),
                hint="close the program that has it open, or name another file after --into",
            ) from None
        return connection

    def _drop_unfinished(self) -> None:
        """The file is open for nobody else, so that no other run is at one."""
        query = "SELECT table_name FROM information_schema.tables WHERE starts_with(table_name, ?)"
        for (name,) in self._connection.execute(query, [_LOADING]).fetchall():
            quoted = name.replace('"', '""')
            self._connection.execute(f'DROP TABLE "{quoted}"')

    @property
    def _loading(self) -> str:
        return f"{_LOADING}{self.table}"

    def _named(self, table: str | None) -> str:
        known = "SELECT lower(table_name) FROM information_schema.tables"
        taken = {name for (name,) in self._connection.execute(known).fetchall()}
        if table is None:
            return next(name for number in range(1, len(taken) + 2) if (name := f"q{number}") not in taken)
        if table.lower() in taken:
            raise UsageError(
                f"has a table {table} already, which is left as it is", where=str(self._path), hint="--table OTHER"
            )
        return table

    def begin(self, shape: TableShape) -> None:
        self._gathered = _Gathered(shape)
        empty = self._gathered.schema.empty_table()
        self._insert(f'CREATE TABLE "{self._loading}" AS SELECT * FROM incoming', empty)  # noqa: S608  # a name of letters

    def _write_table(self, table: pyarrow.Table) -> None:
        self._insert(f'INSERT INTO "{self._loading}" SELECT * FROM incoming', table)  # noqa: S608  # likewise

    def _insert(self, statement: str, table: pyarrow.Table) -> None:
        self._connection.register("incoming", table)
        try:
            self._connection.execute(statement)
            self._uncommitted += table.nbytes
            if self._uncommitted >= _IN_MEMORY:
                self._connection.execute("COMMIT")
                self._connection.execute("BEGIN")
                self._uncommitted = 0
        except self._library.Error as error:
            raise self._unwritten(error) from None
        finally:
            self._connection.unregister("incoming")

    def end(self, results: Sequence[AppResult]) -> None:
        self._write()
        try:
            self._connection.execute(_LOG)
            self._connection.execute(f'ALTER TABLE "{self._loading}" RENAME TO "{self.table}"')
            self._tell(results)
            self._connection.execute("COMMIT")
        except self._library.Error as error:
            raise self._unwritten(error) from None
        self._is_new = False
        self._connection.close()

    def _tell(self, results: Sequence[AppResult]) -> None:
        """Writes down what was asked, and what came of each app."""
        self._connection.execute(f"INSERT INTO {QUESTIONS} VALUES (?, ?, ?, ?, ?)", [self.table, *self._about])  # noqa: S608
        outcomes = [
            (
                self.table,
                result.app,
                result.server,
                result.status.value,
                result.rows,
                result.limited,
                result.error.message if result.error is not None else result.skipped or None,
            )
            for result in results
        ]
        if outcomes:
            self._connection.executemany(f"INSERT INTO {RESULTS} VALUES (?, ?, ?, ?, ?, ?, ?)", outcomes)  # noqa: S608

    def _unwritten(self, error: Exception) -> TargetError:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return TargetError(f"can't be written: {first}", where=str(self._path), hint="free space, then ask again")

    def give_up(self) -> None:
        with contextlib.suppress(self._library.Error):
            self._connection.execute("ROLLBACK")
        with contextlib.suppress(self._library.Error):
            self._drop_unfinished()
        self._connection.close()
        if self._is_new:
            self._path.unlink(missing_ok=True)


def _schema(shape: TableShape) -> pyarrow.Schema:
    import pyarrow

    types = {
        ColumnType.BOOLEAN: pyarrow.bool_(),
        ColumnType.INTEGER: pyarrow.int64(),
        ColumnType.FLOAT: pyarrow.float64(),
        ColumnType.DECIMAL: pyarrow.float64(),
        ColumnType.DATE: pyarrow.date32(),
        ColumnType.TIMESTAMP: pyarrow.timestamp("us"),
        ColumnType.INSTANT: pyarrow.timestamp("us", tz="UTC"),
    }
    fields = [(column.name, types.get(column.type, pyarrow.string())) for column in shape.columns]
    return pyarrow.schema([(APP, pyarrow.string()), *fields])


def _imported(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            f"this form needs {module.partition('.')[0]}, which is not installed", hint=add_command(_EXTRA)
        ) from None
