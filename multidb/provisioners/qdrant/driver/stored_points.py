"""Points of local mode, unpickled without running anything.

The client library keeps points in its folder as pickles, and a pickle may call whatever it names: whoever can write a
file there would have code run by whoever opens the folder. Here only values come out.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

__all__ = ["Unpickled", "load_carefully"]

_VALUES: Final = frozenset(
    {
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("uuid", "SafeUUID"),
        ("uuid", "UUID"),
    }
)
"""What a payload or a vector may be made of beside Python's plain types; none of them does anything but hold it."""
_MODELS: Final = "qdrant_client.http.models.models"


class Unpickled(pickle.UnpicklingError):
    """A stored point names something that is no value."""


class _Points(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _VALUES:
            return super().find_class(module, name)
        if module == _MODELS and "." not in name:
            from pydantic import BaseModel

            loaded = super().find_class(module, name)
            if isinstance(loaded, type) and issubclass(loaded, BaseModel):
                return loaded
        raise Unpickled(f"{module}.{name}")


class _Pickle:
    """What the client library's module of storage uses of `pickle`."""

    dumps = staticmethod(pickle.dumps)

    @staticmethod
    def loads(content: bytes) -> Any:
        return _Points(io.BytesIO(content)).load()


def load_carefully() -> None:
    """From here on the client library unpickles points of local mode so, in this process."""
    from qdrant_client.local import persistence

    persistence.pickle = _Pickle  # type: ignore[assignment, attr-defined]
