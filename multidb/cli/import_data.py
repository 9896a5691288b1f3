"""The part of `multidb import` that gives an app of the manifest data that is elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from multidb.backup.importing import (
    Imported,
    ImportRequest,
    abort_import,
    bring_in,
    is_exchanging,
    is_going_on,
    surveys,
)
from multidb.backup.journal import exclusively
from multidb.backup.source_locations import source_location
from multidb.cli.env_files import write_env_files
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import Run, ask
from multidb.cli.output import Output, is_attended
from multidb.cli.plan_view import report_document, show_report
from multidb.cli.restore import Openings, audited, ready
from multidb.document import printable
from multidb.engine import Engine
from multidb.errors import Refused, UsageError, one_line
from multidb.manifest import app_id
from multidb.model import ImportOptions, Progress, Survey, listed, size_in_words, time_in_words
from multidb.provisioners import known_stores, provisioner

__all__ = [
    "AppOrNoneArgument",
    "DataRequest",
    "Sources",
    "import_document",
    "names_of",
    "nothing_imported",
    "obstacles_of",
    "survey_document",
    "with_source_options",
]

AppOrNoneArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The app that is to have data from elsewhere.", show_default=False)
]
Sources = Annotated[dict[str, str] | None, "by store, what was typed"]

_SHOWN: Final = 20  # counts, renames and sentences of a store that people see


def with_source_options(work: Callable[..., int]) -> Callable[..., int]:
    """Gives the command an option ``--from-<store>`` for each store into which data can be imported; it is told what
    was typed, by store, as ``sources``."""
    own = signature(work, eval_str=True)
    stores = {f"from_{store}": store for store in known_stores() if _takes_data(store)}

    @wraps(work)
    def with_sources(run: Run, *arguments: Any, **options: Any) -> int:
        typed = {store: options.pop(option) for option, store in stores.items()}
        return work(run, *arguments, sources={store: text for store, text in typed.items() if text}, **options)

    options = [
        Parameter(option, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=_source_option(store))
        for option, store in stores.items()
    ]
    parameters = [*own.parameters.values()]
    place = next(number for number, parameter in enumerate(parameters) if parameter.name == "sources")
    with_sources.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*parameters[:place], *options, *parameters[place + 1 :]]
    )
    return with_sources


def _takes_data(store: str) -> bool:
    try:
        return provisioner(store).source is not None
    except UsageError:  # a package that cannot be used says so when it is
        return False


def _source_option(store: str) -> Any:
    title = provisioner(store).title
    return Annotated[
        str | None, typer.Option(f"--from-{store}", metavar="WHERE", help=f"Where the app's data of {title} is now.")
    ]


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What was asked for on the command line.

    Args:
        typed: by store, what stood after ``--from-<store>``.
        options: what of the sources, under which names.
    """

    run: Run
    typed: Mapping[str, str]
    options: ImportOptions
    replace: bool
    safety: bool
    accept: bool
    yes: bool

    def carry_out(self, name: str) -> int:
        """Shows what there is to import, and imports it where that is agreed to."""
        output = self.run.output
        engine = self.run.engine(output)
        request = self.request(engine, app_id(name))
        seen: Mapping[str, Survey] = {}
        if not self.yes:
            if not is_exchanging(engine, request):
                seen = self.surveyed(engine, request, output.progress)
            if obstacles_of(seen):
                return self.stand_against(request, seen)
            if not self._agreed(engine, request):
                output.document(True, survey_document(request, seen))
                return 0
        return self._carry_out(engine, request, seen)

    def _carry_out(self, engine: Engine, request: ImportRequest, seen: Mapping[str, Survey]) -> int:
        output, app, begun = self.run.output, request.app, time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(output.working())
            progress = stack.enter_context(exclusively(engine.state, "import", output.progress))
            engine.fleet.start(app)
            finishing = is_exchanging(engine, request)
            own = [app] if is_going_on(engine, request) and not finishing else []
            finish_interrupted(engine, None, output, going_on=own)
            if finishing:
                if not is_exchanging(engine, request):
                    output.document(True, import_document({**nothing_imported(app), "imported": True}))
                    return 0
                if not request.replace:
                    return Refused.exit_code  # why was said
            stack.enter_context(engine.state.lock_apps([app], f"multidb import into {app}"))
            seen = seen or self.surveyed(engine, request, progress)
            if obstacles_of(seen):
                return self.stand_against(request, seen)
            record = stack.enter_context(self.run.recorded(engine.state, [app]))
            engine = self.run.engine(output)
            record.applied(ready(engine, app))
            done = bring_in(engine, request, progress)
            for store in done.stores:
                record.add("import", "data", f"{store} from {request.sources[store].text}", app)
            record.applied(done.report)
        return _say(engine, output, request, seen, done, time.monotonic() - begun)

    def surveyed(self, engine: Engine, request: ImportRequest, progress: Progress) -> Mapping[str, Survey]:
        """Looks at the sources and shows what is there."""
        output = self.run.output
        with output.working():
            seen = surveys(engine, request, progress)
        if not output.json:
            _show(output, request, seen)
        return seen

    def stand_against(self, request: ImportRequest, seen: Mapping[str, Survey]) -> int:
        """Says what stands against it. Gives the exit code."""
        output = self.run.output
        output.document(False, survey_document(request, seen))
        for obstacle in obstacles_of(seen)[:_SHOWN]:
            output.note(f"Nothing was changed: {one_line(printable(obstacle, 2000))}", style="red")
        return Refused.exit_code

    def abort(self, name: str) -> int:
        """Gives up an import that has begun and does not follow its source."""
        run, output = self.run, self.run.output
        engine, app = run.engine(output), app_id(name)
        with ExitStack() as stack:
            progress = stack.enter_context(exclusively(engine.state, "import", output.progress))
            stack.enter_context(engine.state.lock_apps([app], f"multidb import into {app}"))
            engine.fleet.start(engine.fleet.app(app).id)
            done = abort_import(engine, app, progress)
            with run.recorded(engine.state, [app]) as record:
                record.add("abort", "import", done, app)
        output.document(True, import_document({**nothing_imported(app), "aborted": done}))
        output.say(f"{app}: {done}")
        return 0

    def request(self, engine: Engine, app: str) -> ImportRequest:
        """What is asked for, understood. `UsageError` where it makes no sense."""
        if not self.typed:
            options = [f"--from-{store}" for store in engine.fleet.app(app).stores if _takes_data(store)]
            raise UsageError("nothing says where the data is", hint=f"multidb import {app} {options[0]} WHERE")
        understood = {option for store in self.typed for option in provisioner(store).source_options}
        for option, given in (
            ("pattern", self.options.pattern),
            ("prefix", self.options.prefix),
            ("name", self.options.names),
        ):
            if given and option not in understood:
                raise UsageError(
                    f"--{option} is for stores that have other things than these: {listed(list(self.typed))}",
                    hint=f"leave out --{option}",
                )
        locations = {store: source_location(store, text, os.environ, Path.cwd()) for store, text in self.typed.items()}
        return ImportRequest(app, locations, self.options, self.replace, self.safety, self.accept)

    def _agreed(self, engine: Engine, request: ImportRequest) -> bool:
        if not is_attended(sys.stdin):
            self.run.output.note("Nothing was changed. The same with --yes imports it.")
            return False
        begun = "Go on with the import" if is_going_on(engine, request) else "Import it"
        return ask(f"{begun} into {request.app}?", yes=False)


def obstacles_of(seen: Mapping[str, Survey]) -> list[str]:
    return [obstacle for survey in seen.values() for obstacle in survey.obstacles]


def _show(output: Output, request: ImportRequest, seen: Mapping[str, Survey]) -> None:
    for store, survey in seen.items():
        size = f", {size_in_words(survey.size)}" if survey.size is not None else ""
        output.say(f"{store}: {printable(survey.product)} at {request.sources[store].text}{size}", style="bold")
        about = "about " if survey.estimated else ""
        rows = [(printable(name), f"{about}{count:,}") for name, count in list(survey.counts.items())[:_SHOWN]]
        if rows:
            output.table(("what", "how many"), rows)
        _more(output, len(survey.counts))
        for old, new in list(survey.renames.items())[:_SHOWN]:
            output.say(f"  {printable(old)} becomes {printable(new)}")
        _more(output, len(survey.renames))
        for sentence in survey.losses[:_SHOWN]:
            output.say(f"  does not come along: {one_line(printable(sentence, 2000))}", style="yellow")
        _more(output, len(survey.losses))
        for sentence in survey.warnings:
            output.note(f"  {one_line(printable(sentence, 2000))}", style="yellow")


def _more(output: Output, count: int) -> None:
    if count > _SHOWN:
        output.say(f"  and {count - _SHOWN} more (--json has all)")


def _say(
    engine: Engine,
    output: Output,
    request: ImportRequest,
    seen: Mapping[str, Survey],
    done: Imported,
    seconds: float,
) -> int:
    """Writes the app's env file, looks whether its walls are whole, and says what came of it. Gives the exit code."""
    code = show_report(output, done.report)
    written = write_env_files(engine.fleet, output, [done.app])
    openings = audited(engine, done.app, output)
    document = survey_document(request, seen)
    document["data"] |= {
        "imported": True,
        "seconds": round(seconds, 3),
        "safety_set": done.safety.id if done.safety else None,
        "differences": {store: list(other) for store, other in done.differences.items()},
        "changes": report_document(done.report)["servers"],
        "written": [str(path) for path in written],
        **openings.document(),
    }
    output.document(code == 0 and not openings.own, document)
    took = time_in_words(timedelta(seconds=seconds))
    same = "" if done.differences else ", and is what the source has"
    output.say(f"{done.app}: {listed(list(done.stores))} imported in {took}{same}.", style="green")
    for store, other in done.differences.items():
        output.note(f"{store}, changed at the source meanwhile: {printable(listed(other, _SHOWN), 2000)}")
    if done.safety:
        output.say(f"What it had before is in set {done.safety.id}.")
    return code or (1 if openings.own else 0)


def survey_document(request: ImportRequest, seen: Mapping[str, Survey]) -> dict[str, Any]:
    surveyed = [
        {
            "store": store,
            "source": request.sources[store].text,
            "product": survey.product,
            "counts": dict(survey.counts),
            "estimated": survey.estimated,
            "size": survey.size,
            "renames": dict(survey.renames),
            "losses": list(survey.losses),
            "obstacles": list(survey.obstacles),
            "warnings": list(survey.warnings),
            "following": survey.following or None,
        }
        for store, survey in seen.items()
    ]
    return import_document({**nothing_imported(request.app), "sources": surveyed})


def nothing_imported(app: str) -> dict[str, Any]:
    return {
        "app": app,
        "sources": [],
        "imported": False,
        "seconds": None,
        "safety_set": None,
        "differences": {},
        "changes": [],
        "written": [],
        **Openings((), ()).document(),
        "following": [],
        "downtime": None,
        "stopping": {},
        "left": [],
        "aborted": None,
    }


def import_document(data: dict[str, Any]) -> dict[str, Any]:
    return {"entries": {}, "managed": [], "servers": [], "accounts": {}, "written": [], "data": data}


def names_of(pairs: Sequence[str] | None) -> dict[str, str]:
    """``OLD=NEW`` as it was typed, several times. `UsageError` for anything else."""
    names = {}
    for pair in pairs or ():
        old, sign, new = pair.partition("=")
        if not (old and sign and new):
            raise UsageError(f"{printable(pair)!r} is no pair of names", hint="--name OLD=NEW")
        names[old] = new
    return names
