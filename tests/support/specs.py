"""What a manifest says of servers, as a test writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multidb.model import ServerSpec
from multidb.provisioners import provisioner


def spec(store: str, address: Mapping[str, Any] | None = None, **options: Any) -> ServerSpec:
    """One server of a store, with the store's own models of its options and address."""
    record = provisioner(store)
    at = None if address is None or record.address is None else record.address.model_validate(address)
    return ServerSpec(store, store, record.server_options.model_validate(options), at)
