"""An app whose places are exchanged: nobody logs in to it until it has all of the new.

Else an app that was left with some of the old and some of the new, by a kill or by a server that failed, would go on
writing, and whatever finishes the exchange would replace what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from multidb.backup.creation import turn_off
from multidb.closure import Closure, close, closures, reopen
from multidb.engine import Engine
from multidb.errors import MultidbError
from multidb.fleet import Scope
from multidb.model import App

__all__ = ["close_for_exchange", "naming_the_way_on", "open_unchanged"]


def close_for_exchange(engine: Engine, app: App, stores: Sequence[str], work: str) -> None:
    """No login of the app to these stores is on from here on, whoever applies meanwhile, until `reopen_restored`.
    The caller has seen that it is not closed yet, and has noted that it is going to be.

    Args:
        stores: whose places are exchanged; the servers of others need not be there.
        work: what exchanges, as ``a restore``.

    Raises:
        MultidbError: a login could not be turned off. The app is open again, where its servers can be reached.
    """
    close(engine.state, Closure(app.id, app.id, False, exchange=work))
    try:
        turn_off(engine, app, stores)
    except MultidbError:
        with suppress(MultidbError):  # what went wrong first is what is told; the next run tries again
            open_unchanged(engine, app.id)
        raise


def open_unchanged(engine: Engine, app: str) -> None:
    """The app's logins are on again: nothing of it was exchanged. Nothing where it is closed for something else.

    Raises:
        MultidbError: they could not be turned on.
    """
    closure = closures(engine.state).get(app)
    if closure is not None and not closure.exchange:
        return
    reopen(engine.state, app)
    if (error := engine.apply(Scope(apps=frozenset({app}))).error()) is not None:
        raise error


@contextmanager
def naming_the_way_on(engine: Engine, app: str) -> Iterator[None]:
    """An error in the block that leaves the app closed says so, with the command that goes on."""
    try:
        yield
    except MultidbError as error:
        with suppress(MultidbError):  # a state that cannot be read; what went wrong first is what is told
            closure = closures(engine.state).get(app)
            if closure is not None and (way := _way_on(closure)):
                error.hint = f"{error.hint}; then {way}" if error.hint else way
        raise


def _way_on(closure: Closure) -> str:
    if closure.rename is not None or closure.move is not None:  # their commands name it, wherever they fail
        return ""
    if closure.exchange:
        work = closure.exchange.partition(" ")[2]
        return f"finish the {work}, until when its logins are off: multidb backup {closure.app}"
    return f"{closure.way_on}; its logins are off until then"
