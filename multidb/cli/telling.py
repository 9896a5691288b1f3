"""`--notify`: whom the manifest names is told what a command has found. Never changes the command's exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from multidb.cli.output import Output
from multidb.engine import Engine
from multidb.errors import MultidbError
from multidb.notification import Delivery, Notifier

__all__ = ["NotifyOption", "tell"]

NotifyOption = Annotated[
    bool, typer.Option("--notify", help="Tell whom the manifest names (notify) what began, what goes on, what is over.")
]


def tell(output: Output, engine: Engine, about: Callable[[Notifier], list[Delivery]]) -> None:
    """Tells the receivers; who could not be told is said on stderr."""
    try:
        notifier = Notifier(engine.project, engine.state)
    except MultidbError as error:
        output.note(f"Nobody was told: {error}", style="yellow")
        return
    if not notifier.wanted:
        output.note("Nobody was told: the manifest has no notify section.", style="yellow")
    for delivery in about(notifier):
        if not delivery.ok:
            output.note(f"{delivery.receiver} could not be told: {delivery.detail}", style="yellow")
