"""Ports of a local cluster: free, different, and the same again after a restart."""

import socket
from pathlib import Path

import pytest
from localcluster.ports import RANGE, NoPorts, free_ports, is_free, kept_ports


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_ports_are_below_those_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANGE, raising=False)
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < ephemeral for port in free_ports(20))


def test_a_range_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANGE, "21000-21019")
    assert set(free_ports(5)) <= set(range(21000, 21020))
    with pytest.raises(NoPorts, match="21000-21019"):
        free_ports(21)


@pytest.mark.parametrize("text", ["", "21000", "21000-", "x-y", "21019-21000", "0-5", "1-65536", "-1-5"])
def test_a_range_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(RANGE, text)
    with pytest.raises(NoPorts, match="BELLWETHER_PORTS"):
        free_ports(1)


def test_kept_ports_stay_and_new_names_get_others(tmp_path: Path) -> None:
    first = kept_ports(tmp_path / "ports.json", ["p1", "p2"])
    again = kept_ports(tmp_path / "ports.json", ["p1", "p2", "p3"])
    assert {name: again[name] for name in first} == first
    assert again["p3"] not in first.values()
