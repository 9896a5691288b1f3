"""Changes of a server as a whole, by which others on it may lose something: said in their own line, and asked for."""

from __future__ import annotations

from multidb.cli.options import ask
from multidb.cli.output import Output
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.plan import Plan

__all__ = ["agree_to_close", "left_open"]


def _closings(engine: Engine, plan: Plan) -> dict[str, str]:
    """By server that is not the project's own, what the plan closes there to everybody who was not let in by name."""
    if not _others_use_them(engine):
        return {}
    found: dict[str, list[str]] = {}
    for change in plan.changes:
        if change.resource.closing:
            found.setdefault(change.server, []).append(f"{change.resource.kind} {change.resource.name}")
    return {server: ", ".join(things) for server, things in found.items()}


def agree_to_close(output: Output, engine: Engine, plan: Plan, *, yes: bool) -> bool:
    """Whether the person agrees to what others on the servers may feel, once for each server; True where nothing is."""
    agreed = True
    for server, things in _closings(engine, plan).items():
        kept = sorted(engine.project.known.get(_store(plan, server), ()))
        except_for = f"; {', '.join(kept)} (known) keep what they have" if kept else ""
        output.note(
            f"{server}: {things}: closed to every login that was not let in by name, also those of others{except_for}",
            style="yellow",
        )
        agreed = agreed and ask(f"Close it for everybody on {server}?", yes=yes)
    return agreed


def left_open(engine: Engine, app: str) -> dict[str, str]:
    """As `_closings`, for what an apply of the app has not closed, because nobody was asked."""
    if not _others_use_them(engine):  # there, everything was closed: no need to read the servers again
        return {}
    return _closings(engine, engine.plan(Scope(apps=frozenset({app}), deep=False)))


def _others_use_them(engine: Engine) -> bool:
    return engine.project.runtime == "external"


def _store(plan: Plan, server: str) -> str:
    return next(each.store for each in plan.servers if each.server == server)
