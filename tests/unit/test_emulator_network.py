"""Which subnets and addresses an emulated fleet takes."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import islice

import pytest

from muster.emulator.network import POOL, assign_addresses, free_subnets, host_routes

SUBNET = IPv4Network("10.200.1.0/24")


def test_a_site_gets_the_same_subnet_each_time_it_is_free() -> None:
    assert next(free_subnets("lab-plant", [])) == next(free_subnets("lab-plant", []))
    assert next(free_subnets("lab-plant", [])) != next(free_subnets("lab-depot", []))


def test_a_subnet_overlaps_nothing_that_is_used() -> None:
    first, second = islice(free_subnets("lab-plant", []), 2)
    larger = first.supernet(new_prefix=23)
    for used in ([first], [larger], [IPv4Network(f"{first.network_address}/30")]):
        assert not any(next(free_subnets("lab-plant", used)).overlaps(each) for each in used)
    assert next(free_subnets("lab-plant", [first])) == second


def test_every_subnet_lies_in_the_pool_and_a_full_pool_gives_none() -> None:
    subnets = list(free_subnets("lab-plant", []))
    assert len(subnets) == len(set(subnets)) == 2 ** (24 - POOL.prefixlen)
    assert all(subnet.subnet_of(POOL) for subnet in subnets)
    assert list(free_subnets("lab-plant", [POOL])) == []


def test_routes_of_this_machine_are_read_without_the_default_route() -> None:
    header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    default = "eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n"
    lan = "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    tunnel = "tun0 0080DB0A 00000000 0001 0 0 0 0080FFFF 0 0 0\n"
    assert host_routes(header + default + lan + tunnel) == [
        IPv4Network("192.0.2.0/24"),
        IPv4Network("10.219.128.0/17"),
    ]
    assert host_routes("") == []


def test_devices_keep_their_addresses_when_others_come_and_go() -> None:
    first = assign_addresses(SUBNET, ["a", "b", "c"], {})
    assert first == {"a": "10.200.1.10", "b": "10.200.1.11", "c": "10.200.1.12"}
    later = assign_addresses(SUBNET, ["new", "c", "a"], first)
    assert later == {"new": "10.200.1.11", "c": "10.200.1.12", "a": "10.200.1.10"}


def test_an_address_of_another_subnet_is_not_kept() -> None:
    assert assign_addresses(SUBNET, ["a"], {"a": "10.9.9.9"}) == {"a": "10.200.1.10"}


def test_a_subnet_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/28 is too small for 6 devices"):
        assign_addresses(IPv4Network("10.0.0.0/28"), list("abcdef"), {})
