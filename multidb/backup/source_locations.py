"""Where data to be imported is, as it was typed: a server's address, a file, or where the address is kept.

``postgresql://reader@db.example.com/shop``: an address; its password is in MULTIDB_IMPORT_POSTGRES_PASSWORD.
``env:SHOP_URL``, ``file:/run/secrets/shop_url``: where the whole address is, which may have the password in it.
``dumps/shop.dump``: a file or a folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from multidb.errors import UsageError
from multidb.model import SourceLocation, password_variable
from multidb.provisioners import provisioner
from multidb.secret_source import SecretSource
from multidb.secrets import Secret

__all__ = ["source_location"]

_REFERENCE: Final = re.compile(r"(env|file):(.+)", re.DOTALL)
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def source_location(store: str, text: str, environ: Mapping[str, str], root: Path) -> SourceLocation:
    """What was typed after ``--from-<store>``, understood.

    Args:
        root: the folder that paths are relative to.

    Raises:
        UsageError: it is no such thing, or carries a password. What it says has no secret in it.
    """
    option = f"--from-{store}"
    if (reference := _REFERENCE.fullmatch(text)) and not _ADDRESS.match(text):
        try:
            source = SecretSource(**{reference[1]: reference[2]})
        except ValueError:
            raise UsageError(f"{option} names no variable", hint=f"{option} env:NAME, with the address in it") from None
        address = source.read(root, option, "the source's address").reveal()
        if not _ADDRESS.match(address):
            raise UsageError("what is there is no address", where=f"{option} {text}", hint=_example(store))
        return _server(store, address, environ, typed=False)
    if _ADDRESS.match(text):
        return _server(store, text, environ, typed=True)
    path = root / Path(text).expanduser()
    if not path.exists():
        raise UsageError(
            "there is no such file", where=f"{option} {path}", hint=f"name a file that is there, or {_example(store)}"
        )
    return SourceLocation(str(path), path=path)


def _server(store: str, text: str, environ: Mapping[str, str], *, typed: bool) -> SourceLocation:
    option, variable = f"--from-{store}", password_variable(store)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UsageError("this is no address", where=option, hint=_example(store)) from None
    if host is None:
        raise UsageError("the address has no host", where=option, hint=_example(store))
    bare = _without_password(parts)
    shown = bare.partition("?")[0]
    if typed and parts.password is not None:
        raise UsageError(
            "an address on a command line is seen by everybody on this machine, and this one has a password in it",
            where=option,
            hint=f"put the password into the environment variable {variable}, then: {option} {shown}; or the whole "
            f"address into a variable or a file: {option} env:NAME, {option} file:PATH",
        )
    kind = provisioner(store).address
    if kind is not None and (refusal := kind.refusal(bare)):
        raise UsageError(f"the address {refusal}", where=option, hint=_example(store))
    password = unquote(parts.password) if parts.password is not None else environ.get(variable, "")
    return SourceLocation(shown, url=bare, password=Secret(password) if password else None)


def _without_password(parts: SplitResult) -> str:
    login, sign, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login.partition(':')[0]}{sign}{place}").geturl()


def _example(store: str) -> str:
    address = provisioner(store).address
    return f"--from-{store} {address.example() if address is not None else 'FILE'}"
