"""`--notify`: whom the manifest names is told what a command has found. Never changes the command's exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from multidb.cli.output import Output
from multidb.errors import MultidbError
from multidb.fleet import Fleet

if TYPE_CHECKING:
    from multidb.notification import Delivery, Notifier

__all__ = ["NotifyOption", "tell", "teller"]

NotifyOption = Annotated[
    bool, typer.Option("--notify", help="Tell whom the manifest names (notify) what began, what goes on, what is over.")
]

About: TypeAlias = "Callable[[Notifier], list[Delivery]]"


def tell(output: Output, fleet: Fleet, about: About) -> None:
    """Tells the receivers; who could not be told is said on stderr."""
    teller(output, fleet)(about)


def teller(output: Output, fleet: Fleet) -> Callable[[About], None]:
    """`tell` for a command that looks again and again: it leaves a receiver that does not answer alone for a while, and
    calls the heartbeat no more often than its service needs."""
    from multidb.notification import Notifier  # most runs tell nobody

    try:
        notifier = Notifier(fleet.project, fleet.state)
    except MultidbError as error:
        output.note(f"Nobody was told: {error}", style="yellow")
        return lambda about: None
    if not notifier.configured:
        output.note("Nobody was told: the manifest has no notify section.", style="yellow")

    def tell_about(about: About) -> None:
        for delivery in about(notifier):
            if not delivery.ok:
                output.note(f"{delivery.receiver} could not be told: {delivery.detail}", style="yellow")

    return tell_about
