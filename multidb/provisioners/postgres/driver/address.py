"""What libpq is told of an address: all of it, so that no variable of the environment says where a password goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

__all__ = ["connection_parameters"]

# What no parameter overrides. https://www.postgresql.org/docs/current/libpq-envars.html
_BEYOND_PARAMETERS: Final = ("PGSERVICE", "PGDATESTYLE", "PGTZ", "PGGEQO")
# What is the same to libpq as no value, where it refuses an empty one. SSPI is of Windows' only.
_NEVER_EMPTY: Final = {
    "sslcertmode": "allow",
    "require_auth": "!sspi",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}


def connection_parameters(address: str = "", **parameters: Any) -> dict[str, Any]:
    """The parameters of a connection that depend on nothing but what is given.

    ``PGHOSTADDR`` would send an admin's login to another machine, ``PGTARGETSESSIONATTRS`` refuse the right one. What
    is not given is as libpq has it without any variable. The few of them that nothing overrides are taken out of the
    environment of this process.

    Args:
        address: a URL or ``name=value ..``, as libpq takes it.
        parameters: what goes before the address; None: nothing.
    """
    for variable in _BEYOND_PARAMETERS:
        os.environ.pop(variable, None)
    given = {name: value for name, value in parameters.items() if value is not None}
    given = {**(conninfo_to_dict(address) if address else {}), **given}
    return {**_of_variables(os.environ), **given}


def _of_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """For each parameter that a variable is set for, what it is without one."""
    set_ = [one for one in pq.Conninfo.get_defaults() if one.envvar and one.envvar.decode() in environment]
    names = {one.keyword.decode(): (one.compiled or b"").decode() for one in set_}
    return {name: _NEVER_EMPTY.get(name, value) for name, value in names.items()}
