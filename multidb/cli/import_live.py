"""The part of `multidb import` that follows a source while it is written, and cuts over to the copy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from multidb.backup.cut_over import CutOver, cut_over, stoppings
from multidb.backup.following import (
    FollowedImport,
    abort_following,
    begin_following,
    catch_up,
    followed_import,
    lags,
)
from multidb.backup.importing import ImportRequest
from multidb.backup.journal import exclusively
from multidb.backup.source_locations import source_location
from multidb.cli.env_files import write_env_files
from multidb.cli.import_data import (
    DataRequest,
    import_document,
    nothing_imported,
    obstacles_of,
    survey_document,
)
from multidb.cli.interruptions import finish_interrupted
from multidb.cli.options import ask
from multidb.cli.output import is_attended
from multidb.cli.plan_view import report_document, show_report
from multidb.cli.restore import audited, ready
from multidb.document import printable
from multidb.engine import Engine
from multidb.errors import Refused, UsageError
from multidb.history import RunRecord
from multidb.manifest import app_id
from multidb.model import Lag, Progress, Survey, listed, moment_in_words, size_in_words
from multidb.orphans import orphan

__all__ = ["LiveImport"]


@dataclass(frozen=True, slots=True)
class LiveImport:
    """What was asked for, of an import that follows its source."""

    asked: DataRequest

    def is_under_way(self, name: str) -> bool:
        """Whether the app has one."""
        return followed_import(self._engine(), app_id(name)) is not None

    def begin(self, name: str) -> int:
        """Copies the sources and has the copies follow them, where that can be and is agreed to."""
        asked, output = self.asked, self.asked.run.output
        engine = self._engine()
        request = asked.request(engine, app_id(name))
        seen = {
            store: replace(survey, obstacles=(*survey.obstacles, *_against_following(store, survey)))
            for store, survey in asked.surveyed(engine, request, output.progress).items()
        }
        if obstacles_of(seen):
            return asked.stand_against(request, seen)
        if not asked.yes:
            if not is_attended(sys.stdin):
                output.document(True, survey_document(request, seen))
                output.note("Nothing was changed. The same with --yes begins it.")
                return 0
            output.note("At the source, what it takes to follow changes is made, where its store needs that.")
            if not ask(f"Begin it for {request.app}?", yes=False):
                output.document(True, survey_document(request, seen))
                return 0
        with self._working(engine, request.app, "begin") as (engine, progress, record):
            record.applied(ready(engine, request.app))
            begin_following(engine, request, asked.typed, progress)
            record.add("begin", "import", listed([place.text for place in request.sources.values()]), request.app)
            behind = lags(engine, request, progress)
        document = survey_document(request, seen)
        document["data"] |= {"following": _lag_documents(behind)}
        output.document(True, document)
        output.say(f"{request.app}: copied, while its source is written.", style="green")
        self._show_lag(behind)
        output.say(f"Next: multidb import {request.app} --live (how far), --cutover (take its place), --abort")
        return 0

    def say_lag(self, name: str) -> int:
        """Says how far the copies are behind; before that, with --yes, those that do not follow by themselves are
        caught up."""
        output, engine = self.asked.run.output, self._engine()
        followed, request = self._followed(engine, app_id(name))
        if self.asked.yes:
            with self._working(engine, request.app, "catch up") as (engine, progress, record):
                catch_up(engine, request, progress)
                record.add(
                    "catch up", "import", listed([place.text for place in request.sources.values()]), request.app
                )
        with output.working():
            behind = lags(engine, request, output.progress)
        problems = [lag.problem for lag in behind.values() if lag.problem]
        document = {**nothing_imported(request.app), "following": _lag_documents(behind)}
        output.document(not problems, import_document(document))
        output.say(f"{request.app}: begun {moment_in_words(followed.since)}")
        self._show_lag(behind)
        return 1 if problems else 0

    def cut_over(self, name: str) -> int:
        """Takes the sources' place, where that is agreed to."""
        asked, output, engine = self.asked, self.asked.run.output, self._engine()
        _, request = self._followed(engine, app_id(name))
        for store, stopping in stoppings(engine, request).items():
            output.note(f"At {request.sources[store].text}: {printable(stopping, 2000)}.")
        if not ask(f"Stop writing there, and make the copy the place of {request.app}?", yes=asked.yes):
            output.document(True, import_document(nothing_imported(request.app)))
            return 0
        with self._working(engine, request.app, "cut over") as (engine, progress, record):
            done = cut_over(engine, request, progress, None if asked.yes else self._ask_stopped)
            for store in done.stores:
                record.add("import", "data", f"{store} from {request.sources[store].text}", request.app)
            record.applied(done.report)
        return self._say(engine, done)

    def _ask_stopped(self, places: Sequence[str]) -> None:
        with self.asked.run.output.asking():
            question = f"All but the last changes are here. Does nobody write at {listed(list(places))} any more?"
            if not ask(question, yes=False):
                raise Refused("its writers go on", where=listed(list(places)), hint="stop them, then run it again")

    def abort(self, name: str) -> int:
        """Gives it up, also where the manifest has the app, or one of the stores, no more."""
        output, engine = self.asked.run.output, self._engine(following=app_id(name))
        _, request = self._followed(engine, app_id(name))
        with self._working(engine, request.app, "give up", anyhow=True) as (engine, progress, record):
            left = abort_following(engine, request, progress)
            record.add("abort", "import", listed([place.text for place in request.sources.values()]), request.app)
        text = "given up; the app is as it was, and its source may be written"
        output.document(not left, import_document({**nothing_imported(request.app), "aborted": text, "left": left}))
        output.say(f"{request.app}: {text}")
        for why in left:
            output.note(why, style="red")
        return 1 if left else 0

    def _engine(self, *, following: str | None = None) -> Engine:
        """With the app that is `following` as if it used all that its import is of, whatever the manifest says now."""
        run, output = self.asked.run, self.asked.run.output
        engine = run.engine(output)
        followed = followed_import(engine, following) if following is not None else None
        if followed is None:
            return engine
        project = engine.fleet.project
        former = orphan(project, followed.app, followed.typed)
        app = project.apps.get(followed.app, former)
        return run.engine(output, project.including(replace(app, stores={**former.stores, **app.stores})))

    def _followed(self, engine: Engine, app: str) -> tuple[FollowedImport, ImportRequest]:
        followed = followed_import(engine, engine.fleet.app(app).id)
        if followed is None:
            raise UsageError(
                f"no import into app {app} follows its source",
                hint=f"begin one: multidb import {app} --from-STORE WHERE --live",
            )
        asked = self.asked
        sources = {
            store: replace(source_location(store, text, os.environ, Path.cwd()), followed_by=app)
            for store, text in followed.typed.items()
        }
        return followed, ImportRequest(app, sources, followed.options, asked.replace, asked.safety, asked.accept)

    @contextmanager
    def _working(
        self, engine: Engine, app: str, what: str, *, anyhow: bool = False
    ) -> Iterator[tuple[Engine, Progress, RunRecord]]:
        run, output = self.asked.run, self.asked.run.output
        with ExitStack() as stack:
            stack.enter_context(output.working())
            progress = stack.enter_context(exclusively(engine.state, "import", output.progress))
            engine.fleet.start(app)
            finish_interrupted(engine, None, output, going_on=[app])
            stack.enter_context(engine.state.lock_apps([app], f"multidb import into {app}, to {what}"))
            record = stack.enter_context(run.recorded(engine.state, [app]))
            yield self._engine(following=app if anyhow else None), progress, record

    def _show_lag(self, behind: Mapping[str, Lag]) -> None:
        output = self.asked.run.output
        for store, lag in behind.items():
            output.say(f"  {store}: {_lag_words(lag)}")
            if lag.problem:
                output.note(f"  {store}: {printable(lag.problem, 2000)}", style="red")

    def _say(self, engine: Engine, done: CutOver) -> int:
        output = self.asked.run.output
        code = show_report(output, done.report)
        written = write_env_files(engine.fleet, output, [done.app])
        openings = audited(engine, done.app, output)
        document = {
            **nothing_imported(done.app),
            "imported": True,
            "downtime": round(done.downtime, 3),
            "stopping": dict(done.stopping),
            "safety_set": done.safety.id if done.safety else None,
            "changes": report_document(done.report)["servers"],
            "written": [str(path) for path in written],
            "left": list(done.left),
            **openings.document(),
        }
        output.document(code == 0 and not openings.own and not done.left, import_document(document))
        output.say(
            f"{done.app}: {listed(list(done.stores))} imported; nobody could write for {done.downtime:.1f} s.",
            style="green",
        )
        if done.safety:
            output.say(f"What it had before is in set {done.safety.id}.")
        for store, stopping in done.stopping.items():
            output.note(f"{store}, at the source: {printable(stopping, 2000)}.")
        for why in done.left:
            output.note(why, style="red")
        return code or (1 if openings.own or done.left else 0)


def _against_following(store: str, survey: Survey) -> Sequence[str]:
    return [f"{store} cannot be followed: {survey.following}"] if survey.following else []


def _lag_words(lag: Lag) -> str:
    if lag.size is not None:
        return f"{size_in_words(lag.size)} behind"
    since = f"as its source was {moment_in_words(lag.as_of)}" if lag.as_of is not None else "copied"
    return f"{since}; --cutover brings it up to date before anybody has to wait"


def _lag_documents(behind: Mapping[str, Lag]) -> list[dict[str, object]]:
    return [
        {
            "store": store,
            "size": lag.size,
            "as_of": lag.as_of.isoformat() if lag.as_of is not None else None,
            "problem": lag.problem or None,
        }
        for store, lag in behind.items()
    ]
