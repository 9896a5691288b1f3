"""Plain values of a document to what a schema allows. Loads pydantic, which reading a document's text does not need."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, TypeAdapter
from pydantic import ValidationError as _Invalid

from multidb.document import APP_ID, Unreadable, inside, moment, printable

__all__ = ["AppId", "Count", "Document", "Moment", "MomentText", "PathInside", "Sha256", "validated"]

T = TypeVar("T")


class Document(BaseModel):
    """Base of the schemas: nothing is converted, nothing unknown is passed over, no value stands in an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )


def validated(value: object, schema: type[T] | TypeAdapter[T]) -> T:
    """The plain values of `parse` as the schema has them.

    Raises:
        Unreadable: they are not; the place and the reason are named, and no value.
    """
    adapter: TypeAdapter[T] = schema if isinstance(schema, TypeAdapter) else TypeAdapter(schema)
    try:
        return adapter.validate_python(value, strict=True)
    except _Invalid as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise Unreadable(f"cannot be understood: {printable(place)}: {printable(reason)}") from None


def _natural(value: int) -> int:
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _moment_text(text: str) -> str:
    moment(text)
    return text


Count = Annotated[int, AfterValidator(_natural)]
"""A whole number, zero or more."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
"""A digest as it is printed."""

AppId = Annotated[str, StringConstraints(pattern=rf"\A{APP_ID}\z")]
"""The id of an app, as the manifest takes it."""

Moment = Annotated[datetime, BeforeValidator(moment)]
"""A time, read from its ISO text."""

MomentText = Annotated[str, AfterValidator(_moment_text)]
"""The ISO text of a time, left as text."""

PathInside = Annotated[str, AfterValidator(inside)]
"""A path that does not leave its folder."""
