"""What a tenant is told about VMs and providers."""

from __future__ import annotations

import json

import pytest

from shared.exit_codes import ExitCode
from tests.support.scripted_broker import (
    WEB,
    Cli,
)


def test_vm_list(vmport: Cli) -> None:
    """A table for people, the registry's own values for programs."""
    assert vmport("vm", "list") == ExitCode.OK
    assert "web" in vmport.out
    assert "512 MiB" in vmport.out
    assert vmport("vm", "list", "--format", "json") == ExitCode.OK
    assert [vm["name"] for vm in json.loads(vmport.out)] == ["web", "shop"]
    assert vmport.err == ""


def test_vm_show_and_where(vmport: Cli) -> None:
    """One VM by name, id or beginning of an id."""
    assert vmport("vm", "show", "web") == ExitCode.OK
    assert str(WEB.uuid) in vmport.out
    assert vmport("vm", "where", "aaaa1") == ExitCode.OK
    assert vmport.out == "alpha/alpha-1\n"
    assert vmport("--format", "json", "vm", "where", str(WEB.uuid)) == ExitCode.OK
    assert json.loads(vmport.out) == {
        "uuid": str(WEB.uuid),
        "name": "web",
        "provider": "alpha",
        "node": "alpha-1",
        "epoch": 1,
        "port_id": None,
    }


def test_unknown_vm(vmport: Cli) -> None:
    """What is not there has its own exit code, and the sentence says where to look."""
    assert vmport("vm", "show", "nothing") == ExitCode.NOT_FOUND
    assert "vmport: you have no VM 'nothing'; 'vmport vm list' shows yours" in vmport.err
    assert vmport.out == ""


def test_ambiguous_vm(vmport: Cli) -> None:
    """A beginning of two ids is a wrong command line."""
    assert vmport("vm", "show", "aaaa") == ExitCode.USAGE
    assert "web" in vmport.err
    assert "shop" in vmport.err


def test_provider_list(vmport: Cli) -> None:
    """Providers with what is free."""
    assert vmport("provider", "list") == ExitCode.OK
    assert "beta" in vmport.out
    assert "8 GiB" in vmport.out


@pytest.mark.parametrize("command", [("vm", "show", "aaa"), ("port", "show", "b")])
def test_beginning_that_is_too_short(vmport: Cli, command: tuple[str, ...]) -> None:
    """Too few characters of an id are not a wrong id: the minimum is named."""
    assert vmport(*command) == ExitCode.NOT_FOUND
    assert "of an id, give at least 4 characters" in vmport.err
