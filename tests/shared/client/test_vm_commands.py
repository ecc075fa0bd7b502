"""What a tenant is told about VMs and providers."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from shared.exit_codes import ExitCode
from shared.messages import Message, Refusal
from shared.messages.addresses import VmLocated
from shared.messages.queries import QueryFailed, VmShown
from shared.messages.quote_lines import Part
from shared.messages.service_change import PortFailed, PortPhase, PortPlanned, PortRefused, PortRequested
from tests.support.scripted_broker import (
    DETAILS,
    NOW,
    QUOTE,
    REFUSAL,
    WEB,
    Cli,
    ScriptedBroker,
    answering,
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
    assert vmport.out.splitlines()[0] == "alpha/alpha-1"
    assert vmport("--format", "json", "vm", "where", str(WEB.uuid)) == ExitCode.OK
    assert json.loads(vmport.out) == {
        "uuid": str(WEB.uuid),
        "name": "web",
        "provider": "alpha",
        "node": "alpha-1",
        "epoch": 1,
        "port_id": None,
        "since": "2026-01-02T03:04:05Z",
        "addresses": [],
        "dns_name": "",
        "dns_epoch": None,
    }


def test_where_tells_addresses_and_the_name(vmport: Cli, broker: ScriptedBroker) -> None:
    """One line each, and whether DNS is as new as the registry."""
    broker.located = VmLocated(
        vm_uuid=WEB.uuid,
        vm_name="web",
        provider="beta",
        node="beta-1",
        epoch=2,
        since=NOW,
        addresses=("192.0.2.7", "2001:db8::7"),
        dns_name="web.vm.example",
        dns_epoch=1,
    )
    assert vmport("vm", "where", "web") == ExitCode.OK
    first, epoch, *rest = vmport.out.splitlines()
    assert (first, epoch.split(" since ")[0]) == ("beta/beta-1", "epoch 2")
    assert rest == ["address 192.0.2.7", "address 2001:db8::7", "name web.vm.example (still by epoch 1)"]
    broker.located = broker.located.model_copy(update={"dns_epoch": 2})
    assert vmport("vm", "where", "web") == ExitCode.OK
    assert vmport.out.splitlines()[-1] == "name web.vm.example"


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


def test_vm_list_hides_no_problem(vmport: Cli, broker: ScriptedBroker) -> None:
    """A VM that cannot be read says why, and a size that is unknown is not shown as nothing."""
    unreadable = WEB.model_copy(update={"disk_bytes": 0, "unsized_disks": ("all",), "problem": "no machine type"})
    partly = WEB.model_copy(update={"unsized_disks": ("vdb",)})
    broker.vms = (unreadable, partly)
    assert vmport("vm", "list") == ExitCode.OK
    assert "cannot be read: no machine type" in vmport.out
    assert "size unknown: vdb" in vmport.out
    assert "0 B" not in vmport.out
    assert "2 GiB + ?" in vmport.out
    assert vmport("--format", "json", "vm", "list") == ExitCode.OK
    assert [(vm["problem"], vm["unsized_disks"]) for vm in json.loads(vmport.out)] == [
        ("no machine type", ["all"]),
        ("", ["vdb"]),
    ]


def test_vm_show_tells_all(vmport: Cli) -> None:
    """Disks, cards, firmware, CPU, sizes now and at most, and that nothing speaks against a port."""
    assert vmport("vm", "show", "web") == ExitCode.OK
    for word in ("qcow2", "52:54:00:00:00:01", "7, 8 (trunk)", "secure boot", "Skylake-Server", "1 (at most 8)", "yes"):
        assert word in vmport.out
    assert vmport.err == ""
    assert vmport("--format", "json", "vm", "show", "web") == ExitCode.OK
    shown = json.loads(vmport.out)
    assert (shown["vm"]["name"], shown["refusals"]) == ("web", [])
    assert [disk["target"] for disk in shown["details"]["disks"]] == ["vda", "sda"]


def test_vm_show_what_speaks_against_it(vmport: Cli, broker: ScriptedBroker) -> None:
    """Reasons are the answer, not an error."""
    reason = Refusal(code="vm_blocked", rule="all of it can be moved", evidence="hostdev: a GPU [/bold]\x1b[2J")
    broker.show_vm = lambda _: VmShown(vm=WEB, details=DETAILS, refusals=(reason,))
    assert vmport("vm", "show", "web") == ExitCode.OK
    assert "no, for 1 reason" in vmport.out
    assert "a GPU [/bold]" in vmport.out
    assert "\x1b" not in vmport.out


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("donor_silent", ExitCode.TIMED_OUT),
        ("node_unreachable", ExitCode.TIMED_OUT),
        ("unreadable", ExitCode.REFUSED),
        ("not_owner", ExitCode.NOT_FOUND),
    ],
)
def test_vm_show_without_details(vmport: Cli, broker: ScriptedBroker, code: str, exit_code: ExitCode) -> None:
    """The registry's facts are shown, the reason is said, and the exit code tells it from an answer."""
    reason = Refusal(code=code, rule="the node must answer", evidence="node alpha-1 was not heard for 300 s")
    broker.show_vm = lambda _: VmShown(vm=WEB, refusals=(reason,))
    assert vmport("vm", "show", "web") == exit_code
    assert str(WEB.uuid) in vmport.out
    assert "the details of web are not known" in vmport.err
    assert "300 s" in vmport.err


def test_vm_show_of_what_has_gone_meanwhile(vmport: Cli, broker: ScriptedBroker) -> None:
    """The broker's word counts, not the list that was read a moment before."""
    broker.show_vm = lambda vm_uuid: QueryFailed(code="not_found", detail=f"there is no VM {vm_uuid} of yours")
    assert vmport("vm", "show", "web") == ExitCode.NOT_FOUND
    assert f"there is no VM {WEB.uuid} of yours" in vmport.err


def test_vm_check(vmport: Cli, broker: ScriptedBroker) -> None:
    """A dry run of a port: each provider's verdict, and what becomes of the VM there."""
    broker.on_command = answering(
        lambda port: (PortPlanned(port_id=port, quotes=(QUOTE,), declined={"gamma": (REFUSAL,)}),)
    )
    assert vmport("vm", "check", "web", "--require", "filter", "--eject", "sda") == ExitCode.OK
    assert isinstance(broker.requested, PortRequested)
    assert (broker.requested.dry_run, broker.requested.recipient, broker.requested.donor) == (True, "best", "alpha")
    assert (broker.requested.limits.require, broker.requested.limits.eject) == ((Part.FILTER,), ("sda",))
    assert "CAN TAKE IT" in vmport.out
    assert "gamma cannot take it" in vmport.out
    assert vmport("--format", "json", "vm", "check", "web") == ExitCode.OK
    check = json.loads(vmport.out)
    assert [(each["provider"], each["can_take"]) for each in check["providers"]] == [("beta", True), ("gamma", False)]
    assert (check["possible"], check["refused_by"]) == (True, "")


def test_vm_check_of_one_provider(vmport: Cli, broker: ScriptedBroker) -> None:
    """Whether this one can take it is the exit code."""
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(), declined={"beta": (REFUSAL,)}),))
    assert vmport("vm", "check", "web", "--to", "beta") == ExitCode.REFUSED
    assert broker.requested.recipient == "beta"
    assert "memory_short" in vmport.out


@pytest.mark.parametrize(
    ("by", "code", "exit_code"),
    [
        ("donor.alpha", "vm_blocked", ExitCode.REFUSED),
        ("donor.alpha", "node_unreachable", ExitCode.TIMED_OUT),
        ("broker", "recipient_unknown", ExitCode.NOT_FOUND),
    ],
)
def test_vm_check_that_is_refused_before_the_quotes(
    vmport: Cli, broker: ScriptedBroker, by: str, code: str, exit_code: ExitCode
) -> None:
    """The answer says who refuses and why; it is on standard output, as any other."""
    reason = Refusal(code=code, rule="a rule", evidence="a GPU is passed through")

    def refuse(port: UUID) -> tuple[Message, ...]:
        return (PortRefused(port_id=port, refused_by=by, refusals=(reason,)),)

    broker.on_command = answering(refuse)
    assert vmport("vm", "check", "web") == exit_code
    assert f"{by} refuses" in vmport.out
    assert "a GPU is passed through" in vmport.out


def test_vm_check_whose_donor_is_silent(vmport: Cli, broker: ScriptedBroker) -> None:
    """Nobody knows then."""
    silent = {"phase": PortPhase.APPROVAL, "code": "donor_silent", "detail": "no answer", "vm_runs_at": "alpha"}
    broker.on_command = answering(lambda port: (PortFailed(port_id=port, **silent),))
    assert vmport("vm", "check", "web") == ExitCode.TIMED_OUT
    assert "donor_silent" in vmport.out
