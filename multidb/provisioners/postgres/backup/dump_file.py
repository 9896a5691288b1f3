"""A dump of `pg_dump` that lies in a file or a folder, imported as a set's dump is loaded. What it says of itself is
data, whoever wrote it: its table of contents is read by `pg_restore`, and its SQL is run by a login that may do no more
than the app.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final, Self

from multidb.errors import ArchiveError
from multidb.model import App, Measures, Part, SourceLocation, StoreContext, Survey, counted, listed
from multidb.provisioners.postgres.backup import loading, programs
from multidb.provisioners.postgres.backup.programs import Input, Program

__all__ = ["PostgresDumpFile"]

_MAGIC: Final = b"PGDMP"
_CONTENTS: Final = "toc.dat"
_LARGEST: Final = 256 * 2**20  # bytes of a table of contents that is looked through
_HEAD: Final = re.compile(r"^; +Dumped (from database|by pg_dump) version: (\d+)", re.MULTILINE)
_ENTRY: Final = re.compile(r"^([0-9]+; [0-9]+ [0-9]+ ((?:[A-Z]+ )+).*)$", re.MULTILINE)
_IDENTIFIER: Final = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_EXTENSION: Final = re.compile(
    rf"^CREATE EXTENSION IF NOT EXISTS ({_IDENTIFIER}) WITH SCHEMA ({_IDENTIFIER});", re.MULTILINE
)
_ROWS: Final = re.compile(rf"COPY ({_IDENTIFIER}\.{_IDENTIFIER}) (?:\(.*\) )?FROM stdin;\n")
_THROUGH_ROOT: Final = b"-- load via partition root "
_POLICY: Final = re.compile(r"^CREATE POLICY .+? TO (?!PUBLIC\b)", re.MULTILINE)
_OBJECT_LINE: Final = re.compile(r"[0-9]+ blob_[0-9]+\.dat")
# What no load makes, beside what is an admin's in every dump (`bound`).
_LEFT_OUT: Final = (
    "SUBSCRIPTION",
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "SECURITY LABEL",
)
_ADMINS: Final = (*_LEFT_OUT, "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING")
_COUNTED: Final = {
    "TABLE": "tables",
    "VIEW": "views",
    "MATERIALIZED VIEW": "materialized views",
    "SEQUENCE": "sequences",
    "FUNCTION": "functions",
    "INDEX": "indexes",
}


class PostgresDumpFile:
    """A `multidb.model.PartlyKnownSource`: it tells the rows of its tables."""

    def __init__(self, location: SourceLocation) -> None:
        assert location.path is not None
        self.path = location.path
        self.where = location.text
        self._rows: dict[str, int] | None = None

    def __enter__(self) -> Self:
        if self.path.is_dir():
            self._require_own_files()
        else:
            with self._opened() as file:
                start = file.read(len(_MAGIC))
            if start != _MAGIC:
                raise ArchiveError(
                    "is no dump in custom or directory format; a plain one is a script, which can hold anything",
                    where=self.where,
                    hint="dump it with pg_dump --format=custom; or run the script in a server of your own, and import "
                    "from there",
                )
        self._program = _newest(self.where)
        with self.lying() as dump:
            self._listing = loading.contents_of(self._program, dump, self.where)
        versions = {what: int(version) for what, version in _HEAD.findall(self._listing)}
        self.major, self.dumped_by = versions.get("from database", 0), versions.get("by pg_dump", 0)
        if not self.major or not self.dumped_by:
            raise ArchiveError("does not say which Postgres it is of", where=self.where, hint="take another dump")
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def survey(self, app: App, context: StoreContext) -> Survey:
        kinds: dict[str, int] = {}
        for _, kind in _ENTRY.findall(self._listing):
            kinds[kind.strip()] = kinds.get(kind.strip(), 0) + 1
        losses = [
            "roles stay there: what is in the dump will be the app's",
            "privileges are not given; the manifest's are",
        ]
        if left := [counted(kinds[kind], kind.lower()) for kind in _ADMINS if kind in kinds]:
            losses.append(f"{listed(left)}: an admin makes that, afterwards")
        obstacles = []
        if policies := len(_POLICY.findall(self._statements("POLICY"))):
            obstacles.append(
                f"{counted(policies, 'row policy', 'row policies')} for roles by name, which are not here: load it "
                "into a server that has them, and import from there"
            )
        return Survey(
            product=f"dump of PostgreSQL {self.major}, by pg_dump {self.dumped_by}",
            counts={words: kinds[kind] for kind, words in _COUNTED.items() if kind in kinds},
            size=sum(file.stat().st_size for file in self._files()),
            losses=tuple(losses),
            obstacles=tuple(obstacles),
            following="a file does not change",
        )

    def extensions(self) -> list[tuple[str, str]]:
        """Name and schema of those that the dump has made."""
        made = _EXTENSION.findall(self._statements("EXTENSION"))
        return [(_unquoted(name), _unquoted(schema)) for name, schema in made]

    def measure(self, app: App, context: StoreContext) -> Measures:
        """The rows of its tables, counted in the dump."""
        if self._rows is None:
            self._rows = {}
            with self.lying() as dump, self._running(dump, ["--data-only", "--file=-"]) as output:
                self._count(output, self._rows)
        return Measures({f"table {name}": count for name, count in self._rows.items()})

    def knows(self, name: str) -> bool:
        return name.removeprefix("table ") in (self._rows or {})

    def copied(self) -> Measures | None:
        return None

    @contextlib.contextmanager
    def lying(self) -> Iterator[BinaryIO | Path]:
        """The dump as `loading` takes it."""
        if self.path.is_dir():
            yield self.path
            return
        with self._opened() as file:
            yield file

    def part(self, app: App, extensions: Sequence[Sequence[str]]) -> Part:
        """What a set's manifest would say of it."""
        lines = [f"{kind} - " for kind in _LEFT_OUT] + [f"{kind} " for kind in _LEFT_OUT]
        lines += [f"{about} - {kind} " for about in ("COMMENT", "ACL") for kind in _LEFT_OUT]
        left = {"type": "what", "identity": "an admin makes", "ending": "", "id": [0, 0], "reached": [], "alone": True}
        things = [{**left, "entries": [], "lines": lines}]
        return Part(
            format="pg_dump custom 1",
            server=f"PostgreSQL {self.major}",
            client=f"pg_dump {self.dumped_by}",
            consistent=True,
            measures=Measures(),
            details={
                "app": app.id,
                "postgres": self.major,
                "dump": self.dumped_by,
                "extensions": [list(extension) for extension in extensions],
                "policies": [],
                "beyond": {"things": things, "mappings": [], "labels": [], "tablespaces": []},
            },
        )

    # ---------------------------------------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ArchiveError(f"cannot be read: {error.strerror}", where=self.where) from None

    def _require_own_files(self) -> None:
        """`ArchiveError` where `pg_restore` could be led to a file outside of the folder: it goes where the table of
        contents says, and where links lead."""
        toc = self.path / _CONTENTS
        if not toc.is_file() or toc.stat().st_size > _LARGEST:
            raise ArchiveError(
                "is no folder that pg_dump has written",
                where=self.where,
                hint="dump it with pg_dump --format=directory",
            )
        lists = list(self.path.glob("blobs*.toc"))
        outside = b"../" in toc.read_bytes() or any(file.is_symlink() or not file.is_file() for file in self._files())
        for file in lists:
            lines = file.read_text(errors="replace").splitlines()
            outside = outside or not all(_OBJECT_LINE.fullmatch(line) for line in lines)
        if outside:
            raise ArchiveError(
                "may lead to files outside of its folder (a link, or ../ in its table of contents)",
                where=self.where,
                hint="dump it into one file: pg_dump --format=custom",
            )

    def _statements(self, kind: str) -> str:
        """The SQL of all entries of a kind."""
        lines = [line for line, of_kind in _ENTRY.findall(self._listing) if of_kind.strip() == kind]
        if not lines:
            return ""
        with self.lying() as dump, loading.table_of_contents(lines) as (file, name):
            arguments = ["--schema-only", "--no-owner", f"--use-list={name}", "--file=-"]
            with self._running(dump, arguments, file) as output:
                return output.read().decode(errors="replace")

    @contextlib.contextmanager
    def _running(self, dump: BinaryIO | Path, arguments: Sequence[str], *files: int) -> Iterator[IO[bytes]]:
        named, numbers = loading.named(self._program, dump, self.where)
        given = Input(files=[*files, *numbers])
        with programs.running(self._program, [*arguments, named], None, self.where, given=given) as output:
            yield output

    @staticmethod
    def _count(output: IO[bytes], rows: dict[str, int]) -> None:
        table, comes_through_root = None, False
        parted = set()  # nothing says in which partition their rows will be
        for raw in output:
            if table is not None:
                if raw == b"\\.\n":
                    table = None
                else:
                    rows[table] += 1
            elif raw.startswith(_THROUGH_ROOT):
                comes_through_root = True
            elif raw.startswith(b"COPY ") and (match := _ROWS.fullmatch(raw.decode(errors="surrogateescape"))):
                table = match[1]
                rows.setdefault(table, 0)
                if comes_through_root:
                    parted.add(table)
                comes_through_root = False
        for name in parted:
            del rows[name]


def _newest(where: str) -> Program:
    there = [program for path in programs.candidates("pg_restore") if (program := programs.program_at(path))]
    if not there:
        raise ArchiveError(
            "needs pg_restore, and this machine has none",
            where=where,
            hint="install postgresql-client (Debian, Ubuntu)",
        )
    return max(there, key=lambda program: program.major)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
