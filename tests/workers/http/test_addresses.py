import ipaddress

import pytest

from inngest_temporal_workers.http.addresses import ALLOW_VARIABLE, AddressPolicy, is_public

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.128.0.1"]
PUBLIC += ["2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "198.20.0.1"]
SPECIAL = ["0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1"]
SPECIAL += ["169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.0.192"]
SPECIAL += ["198.18.0.1", "203.0.113.5", "224.0.0.1", "255.255.255.255", "168.63.129.16"]
SPECIAL += ["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"]
SPECIAL += ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "::127.0.0.1"]
SPECIAL += ["2001:db8::1", "2001::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "3fff::1", "4000::1"]
SPECIAL += ["64:ff9b:1::1", "100::1", "5f00::1"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert AddressPolicy().permits("x.example", address)


@pytest.mark.parametrize("address", SPECIAL)
def test_special_addresses_are_refused_unless_everything_is_permitted(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not AddressPolicy().permits("x.example", address)
    assert AddressPolicy(everything=True).permits("x.example", address)


def policy(text: str, *, dev: bool = False) -> AddressPolicy:
    return AddressPolicy.from_env(dev=dev, environ={ALLOW_VARIABLE: text})


@pytest.mark.parametrize("text", ["", " ", ",, ,"])
def test_an_empty_variable_allows_nothing(text: str) -> None:
    assert policy(text) == AddressPolicy() == AddressPolicy.from_env(dev=False, environ={})


def test_everything_is_allowed_in_dev_mode() -> None:
    assert policy("", dev=True).permits("x", "127.0.0.1")


def test_hosts_addresses_and_networks_can_be_allowed() -> None:
    given = policy("10.1.0.0/16, Internal.Example.,127.0.0.1,fd00::/8,::1")
    assert given.permits("x", "10.1.2.3")
    assert not given.permits("x", "10.2.2.3")
    assert given.permits("x", "127.0.0.1")
    assert given.permits("x", "::ffff:127.0.0.1")
    assert not given.permits("x", "127.0.0.2")
    assert given.permits("x", "::1")
    assert given.permits("x", "fd12::1")
    assert given.permits("internal.example", "10.9.9.9")
    assert given.permits("INTERNAL.example.", "10.9.9.9")
    assert not given.permits("x.internal.example", "10.9.9.9")
    assert not given.permits("x", "nonsense")


@pytest.mark.parametrize("text", ["10.0.0.0/99", "a/b", "fd00::g", "10.0.0.0/8,x/y"])
def test_an_invalid_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=ALLOW_VARIABLE):
        policy(text)
