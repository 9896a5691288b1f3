"""A plan and an apply's report as text: what a person reads before saying yes, and afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from multidb.cli.output import Output
from multidb.errors import MultidbError, one_line
from multidb.model import Action, Cause, Change, Move, Statement, counted, size_in_words
from multidb.plan import Plan, ServerPlan, plain
from multidb.provisioners import provisioner
from multidb.report import Report, ServerReport

__all__ = [
    "change_lines",
    "mention_lines",
    "move_lines",
    "plan_sentence",
    "report_document",
    "show_plan",
    "show_report",
    "show_sql",
]

_SIGN = {Action.CREATE: "+", Action.UPDATE: "~", Action.DELETE: "-", Action.CONFLICT: "!"}
_STYLE = {Action.CREATE: "green", Action.UPDATE: "yellow", Action.DELETE: "red", Action.CONFLICT: "bold red"}
_WIDEST_VALUE = 60
_MOST_MENTIONS = 12
_BY_OTHERS: Mapping[Cause | None, str] = {
    Cause.SERVER: "changed on the server, and not by multidb",
    Cause.BOTH: "changed on the server, and not by multidb; and something else is asked for now",
}


def show_plan(output: Output, plan: Plan) -> None:
    """The plan, server by server, with a closing line of counts."""
    for server in plan.servers:
        _show_server(output, server)
    if plan.in_sync:
        output.say(plan_sentence(plan), style="green" if plan.asked else None)
    elif plan.changes or plan.moves:
        output.say(plan_sentence(plan))
    for warning in plan.warnings:
        output.say(f"{warning.subject}: {warning.message}", style="yellow")
        output.say(f"  {warning.fix}")


def plan_sentence(plan: Plan) -> str:
    """What the plan comes to."""
    if plan.in_sync and not plan.asked:
        if plan.warnings:
            return "No changes. No app of the manifest needs a server that can be had here."
        return "No changes. No server was asked: no app needs one that can be had here. Next: multidb add-app NAME"
    if plan.in_sync and plan.left:
        return (
            f"No changes. {counted(len(plan.left), 'difference is', 'differences are')} left, by the mode of the apps."
        )
    if plan.in_sync:
        return "No changes. The servers are as the manifest says."
    if not plan.changes and plan.moves and not plan.errors:
        return f"Plan: {len(plan.moves)} to move, each by its own command."
    if not plan.changes:
        return "Not every server could be read, and there are no changes on the others."
    others = sum(change.cause in _BY_OTHERS for change in plan.changes)
    counts = plan.counts
    words = {"create": "to create", "update": "to update", "delete": "to remove", "conflict": "in conflict"}
    parts = [f"{counts[action]} {word}" for action, word in words.items() if counts[action] or action != "conflict"]
    since = f" Of these, {others} changed on the server since it was last as the manifest says." if others else ""
    parts += [f"{len(plan.moves)} to move, each by its own command"] * bool(plan.moves)
    return f"Plan: {', '.join(parts)}.{since}"


def change_lines(change: Change, *, verbose: bool) -> Iterator[str]:
    """A change as lines of text, its statements too where that is asked for."""
    yield f"{_SIGN[change.action]} {_headline(change)}"
    yield from (f"      {line}" for line in _details(change))
    if verbose:
        yield from (f"      {_on_a_line(statement)}" for statement in change.statements)


def move_lines(move: Move) -> Iterator[str]:
    """An app that is to go where the manifest has it, as lines of text."""
    size = f" ({size_in_words(move.size)})" if move.size is not None else ""
    yield f"> {move.app.id}: moves from {move.source_title}{size} to {move.destination_title}: {move.command}"
    yield from (f"      in its way: {obstacle}" for obstacle in move.obstacles)
    yield from mention_lines(move.mentions)


def mention_lines(mentions: Sequence[str]) -> Iterator[str]:
    """What would be otherwise once an app has another place, as lines of text."""
    yield from (f"      otherwise afterwards: {mention}" for mention in mentions[:_MOST_MENTIONS])
    if len(mentions) > _MOST_MENTIONS:
        yield f"      otherwise afterwards: {counted(len(mentions) - _MOST_MENTIONS, 'thing')} more"


def show_sql(output: Output, plan: Plan) -> None:
    """Every statement, as it is sent, ready to paste; secrets stand as parameters."""
    for server in plan.servers:
        scope = None
        for change in server.changes:
            for statement in change.statements:
                if statement.scope != scope:
                    output.say(f"-- {server.server}{': ' + statement.scope if statement.scope else ''}")
                    scope = statement.scope
                output.say(_pasteable(server.store, statement), verbatim=True)


def show_report(output: Output, report: Report) -> int:
    """What an apply did, per server, and what is left when something failed. Gives the exit code."""
    for server in report.servers:
        if not server.errors:
            output.say(f"{server.server}: {_changes(len(server.done))} made", style="green")
            continue
        if not server.done and not server.failures:
            if server.not_tried:  # else the plan has said already that it cannot be read
                output.say(f"{server.server}: nothing was changed; {server.error}", style="red")
            continue
        counts = f"{len(server.done)} done, {_failed(server)}, {len(server.not_tried)} not tried"
        output.say(f"{server.server}: {counts}", style="red")
        for change in server.done:
            output.say(f"  done: {_headline(change)}")
        for failure in server.failures if len(server.failures) > 1 or server.error is None else ():
            output.say(f"  failed: {_headline(failure.change)}: {failure.error.message}", style="red")
        for change in server.not_tried:
            output.say(f"  not tried: {_headline(change)}")
    error = report.error()
    if error is None:
        return 0
    output.note(f"Error: {error}", style="red")
    if error.hint:
        output.note(f"  {error.hint}")
    return error.exit_code


def report_document(report: Report) -> dict[str, Any]:
    """The report as plain JSON values; with `error` where something was left undone."""
    error = report.error()
    return {
        **({"error": error.document()} if error is not None else {}),
        "servers": [
            {
                "server": server.server,
                "store": server.store,
                "done": [_key(change) for change in server.done],
                "failed": _key(server.failed) if server.failed else None,
                "failures": [
                    {"change": _key(failure.change), "error": failure.error.document()} for failure in server.failures
                ],
                "not_tried": [_key(change) for change in server.not_tried],
                "error": server.errors[0].document() if server.errors else None,
            }
            for server in report.servers
        ],
    }


def _show_server(output: Output, server: ServerPlan) -> None:
    if server.skipped:
        output.say(f"{server.server}: skipped, {server.skipped}", style="yellow")
        return
    if server.error is not None:
        output.say(_problem(server.server, server.error), style="red")
        if server.error.hint:
            output.say(f"  {server.error.hint}")
        return
    for app, error in server.unread.items():
        output.say(_problem(f"{app} on {server.server}", error), style="red")
        if error.hint:
            output.say(f"  {error.hint}")
    for note in server.notes:
        output.say(f"{server.server}: {note}", style="yellow")
    if server.changes or server.moves:
        output.say(f"{server.server} ({server.version})", style="bold")
        _show_moves(output, server.moves.values())
        _show_changes(output, server.changes)
        output.say()
    if server.left:
        output.say(f"{server.server}: left as it is, by the mode of the app", style="bold")
        for change in server.left:
            _show_change(output, change)
        output.say()


def _show_moves(output: Output, moves: Iterable[Move]) -> None:
    for move in moves:
        for number, line in enumerate(move_lines(move)):
            output.say(f"  {line}", style="yellow" if not number else None)


def _show_changes(output: Output, changes: Sequence[Change]) -> None:
    """Those of apps, and apart from them those by which every app of the server, or somebody else, may lose or gain."""
    summarised = () if output.verbose else _whole_apps(changes)
    for app in summarised:
        made = [change.resource.kind for change in changes if change.resource.app == app]
        output.say(f"  + {app}: {_counted(made)}", style=_STYLE[Action.CREATE])
    for change in changes:
        if change.resource.app is not None and change.resource.app not in summarised:
            _show_change(output, change)
    shared = [change for change in changes if change.resource.app is None]
    if shared:
        output.say("  the server as a whole:")
    for change in shared:
        _show_change(output, change)


def _problem(subject: str, error: MultidbError) -> str:
    """An error of a server, or of an app on one, which most errors name themselves."""
    named = set(subject.split()) <= set((error.where or "").split())
    return str(error) if named else f"{subject}: {error}"


def _show_change(output: Output, change: Change) -> None:
    output.say(f"  {_SIGN[change.action]} {_headline(change)}", style=_STYLE[change.action])
    for line in _details(change):
        output.say(f"      {line}")
    if output.verbose:
        for statement in change.statements:
            output.say(f"      {_on_a_line(statement)}", style="dim", verbatim=True)


def _on_a_line(statement: Statement) -> str:
    """Whatever names are in it; `--sql` has it as it is sent."""
    return f"{statement.scope + ': ' if statement.scope else ''}{one_line(statement.text)}"


def _whole_apps(changes: Sequence[Change]) -> tuple[str, ...]:
    """The apps that are new on a server: nothing of theirs is there, so one line tells it all."""
    actions: dict[str, set[Action]] = {}
    for change in changes:
        if change.resource.app is not None:
            actions.setdefault(change.resource.app, set()).add(change.action)
    return tuple(app for app, actions_of_app in actions.items() if actions_of_app == {Action.CREATE})


def _counted(kinds: Iterable[str]) -> str:
    counts = Counter(kinds)
    return ", ".join(kind if count == 1 else f"{count} {_plural(kind)}" for kind, count in counts.items())


def _plural(kind: str) -> str:
    head, of, rest = kind.partition(" of ")
    return (head if head.endswith("s") else f"{head}s") + of + rest


def _headline(change: Change) -> str:
    resource = change.resource
    owner = f"  ({resource.app})" if resource.app and resource.app not in resource.name else ""
    return f"{resource.kind} {resource.name}{owner}"


def _details(change: Change) -> Iterable[str]:
    if change.cause in _BY_OTHERS:
        yield _BY_OTHERS[change.cause]
    if change.action is Action.CONFLICT:
        yield change.reason
    for field in change.fields if change.action is Action.UPDATE else ():
        old, new = field.old, field.new
        if isinstance(old, frozenset) and isinstance(new, frozenset):
            gone, come = plain(old - new), plain(new - old)
            parts = [f"without {_short(gone)}"] * bool(gone) + [f"with {_short(come)}"] * bool(come)
            yield f"{field.field}: {', '.join(parts)}"
        else:
            yield f"{field.field}: {_short(plain(old))} -> {_short(plain(new))}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(" ".join(map(str, item)) if isinstance(item, list) else _short(item) for item in value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key}={_short(item)}" for key, item in value.items())
    else:
        words = {None: "nothing", "": "nothing", True: "yes", False: "no"}
        text = words[value] if value is None or value == "" or isinstance(value, bool) else str(value)
    return text if len(text) <= _WIDEST_VALUE else text[: _WIDEST_VALUE - 1] + "…"


def _pasteable(store: str, statement: Statement) -> str:
    end = provisioner(store).statement_end
    return statement.text if statement.text.rstrip().endswith(end) else statement.text + end


def _changes(count: int) -> str:
    return counted(count, "change")


def _failed(server: ServerReport) -> str:
    if len(server.failures) > 1:
        return f"{len(server.failures)} failed"
    return f"failed at {_headline(server.failed)}" if server.failed else "stopped"


def _key(change: Change) -> dict[str, Any]:
    return {
        "action": change.action.value,
        "kind": change.resource.kind,
        "name": change.resource.name,
        "app": change.resource.app,
    }
