"""Changes of a server as a whole, by which others on it may lose something: said in their own line, and asked for."""

from __future__ import annotations

from collections.abc import Iterator

from multidb.cli.options import ask
from multidb.cli.output import Output
from multidb.engine import Engine
from multidb.fleet import Scope
from multidb.model import Resource
from multidb.plan import Plan, ServerPlan

__all__ = ["closing_lines", "left_open", "refused_to_close", "show_closings"]


def show_closings(output: Output, engine: Engine, plan: Plan) -> None:
    """Says what others on the servers may lose by the plan: a line for each server."""
    for line in closing_lines(engine, plan):
        output.note(line, style="yellow")


def closing_lines(engine: Engine, plan: Plan) -> list[str]:
    """What others on the servers may lose by the plan: a line for each server."""
    return [_losses(engine, server, closings) for server, closings in _closings(engine, plan)]


def refused_to_close(output: Output, engine: Engine, plan: Plan, *, yes: bool) -> frozenset[str]:
    """The servers on which the person does not agree to what others there may lose. Asks once for each server."""
    refused = set()
    for server, closings in _closings(engine, plan):
        output.note(_losses(engine, server, closings), style="yellow")
        if not ask(f"Close it for everybody on {server.server}?", yes=yes):
            refused.add(server.server)
    return frozenset(refused)


def left_open(engine: Engine, app: str) -> dict[str, str]:
    """By server, what an apply of the app has not closed, because nobody was asked."""
    if not _others_use_them(engine):  # there, everything was closed: no need to read the servers again
        return {}
    plan = engine.plan(Scope(apps=frozenset({app}), deep=False))
    return {server.server: _listed(closings) for server, closings in _closings(engine, plan)}


def _closings(engine: Engine, plan: Plan) -> Iterator[tuple[ServerPlan, list[Resource]]]:
    """The servers that are not the project's own, with what the plan closes there to others than apps."""
    for server in plan.servers if _others_use_them(engine) else ():
        if closings := [change.resource for change in server.changes if change.resource.closing]:
            yield server, closings


def _losses(engine: Engine, server: ServerPlan, closings: list[Resource]) -> str:
    losses = ", ".join(dict.fromkeys(resource.closing for resource in closings))
    spec = engine.project.spec_of(server.server, server.store)
    known = sorted(spec.known if spec else ())
    kept = f"; {', '.join(known)} (known) keep what they have" if known and closings[0].leaves_known else ""
    return f"{server.server}: {_listed(closings)}: {losses}{kept}"


def _listed(closings: list[Resource]) -> str:
    return ", ".join(f"{resource.kind} {resource.name}" for resource in closings)


def _others_use_them(engine: Engine) -> bool:
    return not engine.project.runtime.starts_servers
