"""Who a caller is: the address that a connection comes from, or the one that a trusted proxy gives for it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from multidb.errors import UsageError

__all__ = ["Clients", "network_from"]

_FORWARDED = b"x-forwarded-for"


def network_from(text: str) -> IPv4Network | IPv6Network:
    """The address or network that `text` names.

    Raises:
        UsageError: it is neither.
    """
    try:
        return ip_network(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no address and no network",
            where="--trusted-proxy",
            hint="an address (127.0.0.1, ::1) or a network (10.4.0.0/24) that a proxy calls from",
        ) from None


class Clients:
    """Says which address a request comes from.

    ``X-Forwarded-For`` is read from its end, where the nearest proxy has written: past each trusted proxy, the address
    before it counts. What stands further left may be anything that a caller has sent.

    Args:
        trusted: where proxies call from whose ``X-Forwarded-For`` is believed.
        trust_socket: it is bound to a Unix socket, where callers have no address and may all be believed.
    """

    def __init__(self, trusted: Iterable[IPv4Network | IPv6Network] = (), *, trust_socket: bool = False) -> None:
        self._trusted = tuple(trusted)
        self._trust_socket = trust_socket

    def of(self, scope: Scope) -> str:
        """The client's address; ``-`` for a caller on a Unix socket that no proxy speaks for."""
        peer = scope.get("client")
        address = _address(peer[0]) if peer else None
        if address is None and not self._trust_socket:
            return "-"
        if address is not None and not self._is_trusted(address):
            return str(address)
        for forwarded in reversed(_forwarded(scope)):
            before = _address(forwarded)
            if before is None:  # not an address: whoever wrote it, the proxy is the last that is known
                break
            address = before
            if not self._is_trusted(before):
                break
        return "-" if address is None else str(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def _forwarded(scope: Scope) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == _FORWARDED]
    return [entry.strip() for entry in ",".join(values).split(",") if entry.strip()]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
