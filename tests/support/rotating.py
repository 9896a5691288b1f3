"""The rotation of one app's credentials, where what goes wrong is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from multidb.engine import Engine
from multidb.rotation import Rotation
from multidb.rotation_state import StoreUse


class OneRotation:
    """As `Rotation`, of one app.

    Args:
        write: writes its variables, and says whether any was new.
    """

    def __init__(self, engine: Engine, app: str, write: Callable[[], bool]) -> None:
        def written(apps: Sequence[str]) -> dict[str, bool]:
            assert list(apps) == [app]
            return {app: write()}

        self._app, self._rotation = app, Rotation(engine, [app], None, written)
        self._require_none_wrong()

    def prepare(self) -> None:
        self._rotation.prepare([self._app])
        self._require_none_wrong()

    def revert(self) -> bool:
        given_out = self._app in self._rotation.revert([self._app])
        self._require_none_wrong()
        return given_out

    def uses(self) -> dict[str, StoreUse]:
        uses = self._rotation.uses([self._app])
        self._require_none_wrong()
        return uses.get(self._app, {})

    def finish(self, *, force: bool, after: timedelta | None = None) -> dict[str, StoreUse]:
        uses = self._rotation.finish([self._app], force=force, after=after)
        self._require_none_wrong()
        return uses.get(self._app, {})

    def _require_none_wrong(self) -> None:
        if (error := self._rotation.errors.pop(self._app, None)) is not None:
            raise error
