"""What an app has on the server: one box. Pure: options, names, secrets, the desired box, the variables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from multidb.model import App, DerivedName, Endpoint, Isolation, Owner, Resource, StoreContext
from multidb.model.options import ContainerOptions, Section
from multidb.secrets import Secret, SecretRef, SecretSpec

__all__ = ["STORE", "AppOptions", "Box", "ServerOptions", "derived_names", "desired", "env", "isolation", "secrets"]

STORE: Final = "toy"
_LONGEST: Final = 64  # bytes that the server takes for a box's name


class AppOptions(Section):
    """What ``apps.<app>.toy`` may say."""

    colour: Literal["red", "green", "blue"] = Field(default="red", description="What its box is painted.")


class ServerOptions(ContainerOptions):
    """What ``servers.toy`` may say."""

    port: int | None = Field(default=None, ge=1, le=65535, description="Where it listens on this machine.")


@dataclass(frozen=True, kw_only=True)
class Box(Resource):
    """An app's box. `opened_by`: the key that multidb gave is the ``current`` one, or the
    server has an ``other``, or it is ``lost`` here; ``off``: nothing opens it."""

    kind: ClassVar[str] = "box"
    rank: ClassVar[int] = 10
    marked: ClassVar[bool] = True
    colour: str
    opened_by: str = "current"
    sealed: bool = False


def key_of(app: str) -> SecretRef:
    return SecretRef(app, STORE, "key")


def digest_of(app: str) -> SecretRef:
    return SecretRef(app, STORE, "digest")


def secrets(app: App) -> Sequence[SecretSpec]:
    """The key, and its digest: the server is never given the key itself."""
    derived = SecretSpec(digest_of(app.id), key_of(app.id), lambda key: hashlib.sha256(key.encode()).hexdigest())
    return (SecretSpec(key_of(app.id)), derived)


def derived_names(app: App) -> Sequence[DerivedName]:
    """Its box, and those where its backups are tried and loaded."""
    return [DerivedName("toy box", f"{app.id}{suffix}", _LONGEST) for suffix in ("", "__scratch", "__new")]


def desired(apps: Sequence[App], context: StoreContext) -> Sequence[Resource]:
    """A box for each app: shut where its logins are off, sealed where it is over its quota."""
    return [
        Box(
            name=app.id,
            app=app.id,
            owner=Owner(context.project, app.id),
            colour=AppOptions.of(app.stores[STORE]).colour,
            opened_by="off" if app.id in context.closed else "current",
            sealed=app.id in context.read_only,
        )
        for app in apps
    ]


def env(
    app: App, context: StoreContext, endpoint: Endpoint, secret: Callable[[SecretRef], Secret]
) -> Mapping[str, str | Secret]:
    """Where the server is, which box is the app's, and what opens it."""
    return {"TOY_ADDRESS": str(endpoint), "TOY_BOX": app.id, "TOY_KEY": secret(key_of(app.id))}


def isolation(app: App, facts: Any) -> tuple[Isolation, str]:
    """The server itself refuses."""
    return Isolation.ENFORCED, "a box opens to its own key only"
