"""`multidb rotate --certificates`: new certificates for the servers that multidb runs in containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multidb.cli.options import Run, ask
from multidb.cli.output import Output
from multidb.deployment import Deployment, containers
from multidb.errors import Refused, UsageError
from multidb.fleet import Fleet
from multidb.model import listed
from multidb.model.container import poolers
from multidb.runtime import ServerState, ServerStatus

__all__ = ["rotate_certificates"]


@dataclass(frozen=True, slots=True)
class _Certified:
    """A server, or a pooler before one, that has a certificate.

    Args:
        name: of its container.
        server: the server's name, also of the one behind a pooler.
        live: it takes another certificate while it runs.
    """

    name: str
    server: str
    live: bool


def rotate_certificates(run: Run, stores: frozenset[str] | None, *, authority: bool, yes: bool) -> int:
    """Makes new certificates, gives them to the servers that run, and says until when they last.

    Killed anywhere, the same again does the rest. A former authority is trusted until every server has a certificate of
    the other: multidb itself could not reach them otherwise.

    Args:
        stores: of which servers; None: of all.
        authority: make another authority, too, and trust the former no more.

    Returns:
        The exit code.

    Raises:
        Refused: another run is at it, or nothing here is made by multidb.
        RuntimeUnavailable: Docker does not answer; nothing was changed.
    """
    output = run.output
    fleet = run.fleet(output, run.project(offline=True))
    if fleet.project.deploy.tls != "own":
        raise Refused(
            "multidb makes no certificates here",
            where=f"{fleet.project.file}: deploy.tls",
            hint="tls: own has it make them; given ones are renewed by whoever made them, then: multidb up",
        )
    if authority and stores is not None:
        raise UsageError("an authority is every server's", hint="leave --store out")
    certified = _certified(fleet, stores)
    with fleet.state.lock("certificates", "multidb rotate --certificates"):
        running = {status.name for status in fleet.runtime.status() if _speaks_tls(status)}
        restarted = [one.name for one in certified if not one.live and one.server in running]
        _announce(output, certified, restarted, authority=authority)
        cut_off = f" and start {listed(restarted)} anew" if restarted else ""
        if not certified or not ask(f"Make new certificates{cut_off}?", yes=yes):
            output.note("Nothing was changed.")
            return 3 if certified else 0
        with output.working(), run.recorded(fleet.state, ()) as record:
            for name in ["the authority"] * authority + [one.name for one in certified]:
                record.add("rotate", "certificate", f"of {name}")
            deployment = Deployment(fleet.project, fleet.state)
            deployment.forget_certificates([one.name for one in certified])
            if authority:
                deployment.replace_authority()
            started = sorted({one.server for one in certified} & running)
            statuses = _given(fleet, output, deployment, started)
            if authority and not any(status.state is ServerState.FAILED for status in statuses):
                deployment.distrust_former()
                statuses = _given(fleet, output, deployment, started)
    return _show(output, deployment, certified, restarted, statuses, authority=authority)


def _certified(fleet: Fleet, stores: frozenset[str] | None) -> list[_Certified]:
    """Every server of these stores and what stands before it."""
    certified = []
    for container in containers(fleet.project):
        if stores is None or container.store in stores:
            certified.append(_Certified(container.name, container.server, bool(container.takes_certificate)))
            for name, (pooler, _) in poolers([container], fleet.project.deploy.profiles).items():
                certified.append(_Certified(name, container.server, bool(pooler.takes_certificate)))
    return certified


def _given(fleet: Fleet, output: Output, deployment: Deployment, servers: Sequence[str]) -> list[ServerStatus]:
    """Makes the certificates that are missing, and gives them to these servers and what stands before them."""
    deployment.write(deployment.files(new_secrets=True))
    return fleet.runtime.up(output.progress, servers) if servers else []


def _speaks_tls(status: ServerStatus) -> bool:
    """Whether it runs and shows a certificate; the embedded ones show none, whatever is rendered for containers."""
    return status.state is ServerState.RUNNING and status.server is not None and status.server.endpoint.tls


def _announce(output: Output, certified: list[_Certified], restarted: list[str], *, authority: bool) -> None:
    if authority:
        output.note("the authority: another one, and the former is trusted no more", style="yellow")
        output.note("  apps are refused by the former ca.crt: make their containers anew afterwards", style="yellow")
    for one in certified:
        output.note(f"{one.name}: a new certificate")
        if one.name in restarted:
            output.note("  the server is started anew: whoever is connected is cut off for a moment", style="yellow")


def _show(
    output: Output,
    deployment: Deployment,
    certified: list[_Certified],
    restarted: list[str],
    statuses: list[ServerStatus],
    *,
    authority: bool,
) -> int:
    ends, failed = deployment.certificates(), {one.name: one for one in statuses if one.state is ServerState.FAILED}
    documents: list[dict[str, Any]] = []
    for name, of in [("authority", "")] * authority + [(one.name, one.server) for one in certified]:
        end, wrong = ends.get(name), failed.get(name) or failed.get(of)
        until = end.isoformat(timespec="seconds") if end is not None else None
        message = wrong.message if wrong is not None else None
        documents.append({"name": name, "until": until, "restarted": name in restarted, "error": message})
        if message is not None:
            again = "multidb rotate --certificates --authority" if authority else "multidb up"
            output.say(f"{name}: has a new certificate and did not take it: {message}; then: {again}", style="red")
        else:
            output.say(
                f"{name}: a new certificate, until {end:%Y-%m-%d}" if end else f"{name}: a new one", style="green"
            )
    output.document(not failed, {"apps": [], "servers": [], "certificates": documents})
    if authority:
        output.say("Next: make the containers of your apps anew, which trust the former authority until then.")
    return 4 if failed else 0
