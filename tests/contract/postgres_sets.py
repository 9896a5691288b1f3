"""Sets of apps on a Postgres server, kept in memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from multidb.model import App, Archive, Part, PlaceKind, StoreContext
from multidb.provisioners.postgres import PROVISIONER
from tests.contract.postgres_site import Site


class Files:
    """A part's files in memory, written and read as a set's are."""

    def __init__(self, **content: bytes) -> None:
        self.content = dict(content)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        if name in self.content:
            yield io.BytesIO(self.content[name])
            return
        written = io.BytesIO()
        yield written
        self.content[name] = written.getvalue()

    def names(self) -> Sequence[str]:
        return list(self.content)


def quiet(subject: str, message: str, done: float | None = None, total: float | None = None) -> None:
    pass


@contextlib.contextmanager
def archive(site: Site) -> Iterator[tuple[Archive, StoreContext]]:
    assert PROVISIONER.archive is not None
    with site.connect() as session:
        context = StoreContext("site", session.facts)
    with PROVISIONER.archive(site.served.server(site.admin), site.served.admin(site.admin), "test", None) as opened:
        yield opened, context


def backed_up(site: Site, app: App) -> tuple[Part, Files]:
    files = Files()
    with archive(site) as (opened, context):
        return opened.backup(app, context, files, quiet), files


def brought_back(site: Site, app: App, part: Part, files: Files) -> None:
    """All of a set in the place of what the app has."""
    with archive(site) as (opened, context):
        place = opened.prepare(PlaceKind.NEW, app, context)
        opened.restore(place, part, files, quiet)
        assert opened.measure(place) == part.measures
        opened.replace(place, context)
    site.apply([app])
    assert not site.changes([app])
