"""Where a secret of the manifest is read from. The manifest itself never holds one: it is committed and shared."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from multidb.errors import UsageError
from multidb.secrets import Secret

__all__ = ["SecretSource"]


class SecretSource(BaseModel):
    """Where a secret is read from when it is needed: ``{env: NAME}`` or ``{file: PATH}``."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    env: str | None = Field(default=None, description="Environment variable that holds it.")
    file: str | None = Field(
        default=None, description="File that holds it, relative to the manifest; a final newline is dropped."
    )

    @field_validator("env")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable, not the secret itself")
        return value

    @model_validator(mode="after")
    def _one(self) -> SecretSource:
        if (self.env is None) == (self.file is None):
            raise ValueError("must be either {env: NAME} or {file: PATH}")
        return self

    def read(self, root: Path, where: str, what: str) -> Secret:
        """The secret.

        Args:
            root: the folder of the manifest.
            where: for the error: where it is wanted.
            what: for the error: what it is (``the admin's password``).

        Raises:
            UsageError: the variable is not set, the file cannot be read, or there is nothing in it.
        """
        if self.env is not None:
            value, source = os.environ.get(self.env, ""), f"the environment variable {self.env}"
            hint = f"export {self.env} (its value is never stored), then run the command again"
        else:
            path = root / Path(self.file or "").expanduser()
            source, hint = str(path), "put it there, readable only by you"
            try:
                value = path.read_text(encoding="utf-8").rstrip("\r\n")
            except FileNotFoundError:
                value = ""
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise UsageError(f"{what} cannot be read from {source}: {reason}", where=where) from None
        if not value:
            raise UsageError(f"{what} is expected in {source}, which is empty or missing", where=where, hint=hint)
        return Secret(value)
