"""What an apply did: every change done, failed or not tried, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multidb.errors import MachineError, MultidbError, PartlyApplied, StatementFailed
from multidb.model import Change, Server
from multidb.plan import Plan
from multidb.secrets import redact

__all__ = ["Failure", "Report", "ServerReport", "account"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A change that could not be made, and why."""

    change: Change
    error: MultidbError


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What an apply did on one server. A change is in exactly one of `done`, `failures`, `not_tried`.

    What fails for one app costs the changes of that app that were still to come, and nobody else's. `error` is why the
    server as a whole was not finished: it could not be had, or it failed in something that is no single app's.
    """

    server: str
    store: str
    done: tuple[Change, ...] = ()
    failures: tuple[Failure, ...] = ()
    not_tried: tuple[Change, ...] = ()
    error: MultidbError | None = None
    unread: Mapping[str, MultidbError] = field(default_factory=dict)  # apps whose place could not be read

    @property
    def failed(self) -> Change | None:
        """The first change that could not be made."""
        return self.failures[0].change if self.failures else None

    @property
    def errors(self) -> tuple[MultidbError, ...]:
        """Everything that went wrong here, once each."""
        errors = [*(failure.error for failure in self.failures), *self.unread.values()]
        return tuple(dict.fromkeys([*errors, self.error] if self.error is not None else errors))

    def errors_of(self, app: str) -> tuple[MultidbError, ...]:
        """What went wrong here for one of the apps that the server serves, once each. Where the server as a whole was
        not finished, that is everybody's."""
        errors = [failure.error for failure in self.failures if failure.change.resource.app == app]
        errors += [error for name, error in self.unread.items() if name == app]
        return tuple(dict.fromkeys([*errors, self.error] if self.error is not None else errors))


@dataclass(frozen=True, slots=True)
class Report:
    """What an apply did, server by server."""

    plan: Plan
    servers: tuple[ServerReport, ...]

    @property
    def done(self) -> tuple[Change, ...]:
        """Every change that is now in effect."""
        return tuple(change for server in self.servers for change in server.done)

    def error(self) -> MultidbError | None:
        """None when everything was done; `PartlyApplied` when some was; else the first error."""
        errors = [(server.server, error) for server in self.servers for error in server.errors]
        if not errors:
            return None
        if not self.done:
            return errors[0][1]
        left = sum(len(server.not_tried) for server in self.servers)
        return PartlyApplied(
            "; ".join(f"{server}: {error}" for server, error in errors),
            hint=f"{len(self.done)} done, {left} not tried; correct the cause, then: multidb apply",
        )


def account(
    server: Server, changes: Sequence[Change], durable: int, failing: int, error: StatementFailed | MachineError | None
) -> ServerReport:
    """Sorts the changes into done, failed and not tried by how far the statements got."""
    done: list[Change] = []
    failures: list[Failure] = []
    not_tried: list[Change] = []
    position = 0
    if error is not None:
        error.message = redact(error.message)
    for change in changes:
        end = position + len(change.statements)
        if end <= durable:
            done.append(change)
        elif error is not None and position <= failing < end:
            failures.append(Failure(change, error))
        else:
            not_tried.append(change)
        position = end
    # Where the server itself goes on, what is one app's is that app's alone.
    contained = (
        isinstance(error, StatementFailed)
        and error.refused
        and bool(failures)
        and failures[0].change.resource.app is not None
    )
    whole = None if contained else error
    return ServerReport(server.name, server.store, tuple(done), tuple(failures), tuple(not_tried), whole)
