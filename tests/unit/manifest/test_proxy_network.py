"""The addresses in the network between the proxy and multidb serve."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from multidb.model.options import Proxy


@pytest.mark.parametrize("subnet", ["172.31.86.0/28", "10.0.0.0/16", "192.168.5.8/29"])
def test_no_other_container_gets_the_address_of_the_proxy(subnet: str) -> None:
    """The engine takes the first free ones of the range: for its gateway, and for multidb, started before the proxy."""
    proxy = Proxy.model_validate({"subnet": subnet})
    address, others = ip_address(proxy.address), ip_network(proxy.others)

    assert address in proxy.subnet
    assert others.subnet_of(proxy.subnet)  # type: ignore[arg-type]
    assert address not in others
    assert len(list(others.hosts())) >= 2
