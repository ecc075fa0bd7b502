"""What a quote says of the VM's host-bound parts."""

from __future__ import annotations

from typing import Any

import pytest

from services.recipient_agent.firmware_choice import ChosenFirmware
from services.recipient_agent.network_map import CardPlace
from services.recipient_agent.places import HostChoice
from services.recipient_agent.quote_lines import Lines, part_of, quote_lines, requirement_refusals
from services.recipient_agent.testing import MAC, make_platform, make_vm
from shared.messages.quote_lines import MAX_QUOTE_LINES, Part
from shared.messages.vm import Nic, Vlan


def nic(**changes: Any) -> Nic:
    """A card on br0."""
    return Nic(**{"mac": MAC, "model": "virtio", "bridge": "br0", **changes})


def lines_of(*places: CardPlace, firmware: ChosenFirmware | None = None, **vm: Any) -> Lines:
    """Of a VM with these cards."""
    bare = {"made_anew": (), "not_kept": ()}
    return quote_lines(make_vm(**{**bare, **vm}), make_platform(), HostChoice(firmware, places))


def words(lines: Lines) -> dict[str, list[str]]:
    """As a person reads them, without the card's name."""
    return {
        name: [str(line).replace(f"network card {MAC}: ", "") for line in getattr(lines, name)]
        for name in ("kept", "made_anew", "not_kept")
    }


@pytest.mark.parametrize(
    ("place", "kept", "changed", "lost"),
    [
        (CardPlace(nic(), bridge="br0"), ["bridge: bridge br0"], [], []),
        (CardPlace(nic(), bridge="br7"), [], ["bridge: bridge br0 becomes bridge br7"], []),
        (
            CardPlace(nic(vlan=Vlan(tags=(42,))), bridge="br42", is_that_vlan=True),
            [],
            ["bridge: bridge br0 becomes bridge br42", "vlan: VLAN 42 is all that bridge br42 carries: no tag"],
            [],
        ),
        (
            CardPlace(
                nic(vlan=Vlan(tags=(42,)), virtualport="openvswitch"),
                bridge="br0",
                openvswitch=True,
                vlan=Vlan(tags=(42,)),
            ),
            ["bridge: Open vSwitch bridge br0", "vlan: VLAN 42"],
            ["virtualport: a port of Open vSwitch with an id of its own"],
            [],
        ),
        (
            CardPlace(nic(vlan=Vlan(tags=(42,))), network="t", vlan=Vlan(tags=(1042,))),
            [],
            ["bridge: bridge br0 becomes network t", "vlan: VLAN 42 becomes 1042"],
            [],
        ),
        (
            CardPlace(nic(filter="clean-traffic", has_bandwidth=True, isolated=True), network="t"),
            [],
            ["bridge: bridge br0 becomes network t"],
            [
                "filter: its network filter is not kept",
                "bandwidth: its limit of bandwidth is not kept",
                "isolated: its isolation from other cards is not kept",
            ],
        ),
        (
            CardPlace(nic(isolated=True), bridge="br0"),
            ["bridge: bridge br0", "isolated: reaches no other isolated card of its bridge"],
            [],
            [],
        ),
        (
            CardPlace(nic(kind="network", network="ovs", port_group="gold"), network="ovs"),
            [],
            ["bridge: network ovs, port group gold becomes network ovs"],
            ["port-group: port group gold is not kept"],
        ),
    ],
)
def test_what_becomes_of_a_card(place: CardPlace, kept: list[str], changed: list[str], lost: list[str]) -> None:
    """Nothing of it is lost without a word."""
    assert words(lines_of(place)) == {"kept": kept, "made_anew": changed, "not_kept": lost}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("cputune: cputune: not kept: pinning, shares and quotas are the recipient's own", Part.PINNING),
        ("vcpu@cpuset: vcpu@cpuset was 0-3: not kept: the recipient chooses", Part.PINNING),
        ("numatune: numatune: not kept: the recipient places memory", Part.PLACEMENT),
        ("blkiotune: blkiotune: not kept: weights and limits", Part.WEIGHTS),
        ("disk vda: disk/iotune: not kept: limits of disks", Part.DISK_LIMITS),
        ("serial 0: serial/log: a log of the recipient", Part.SERIAL_LOG),
        ("graphics: graphics@passwd: not kept: a password never leaves its host", Part.DISPLAY),
        ("metadata: not kept: it has 2000000 bytes", Part.METADATA),
        ("on_lockfailure: not kept", Part.OTHER),
    ],
)
def test_lines_of_the_donor_have_stable_names(line: str, part: Part) -> None:
    """So that a tenant can require them."""
    assert part_of(line) is part
    assert [each.part for each in lines_of(not_kept=(line,)).not_kept] == [part]


def test_what_is_known_here_is_not_told_twice() -> None:
    """The donor says that the bridge will be another; here it is known which."""
    lines = lines_of(
        CardPlace(nic(), bridge="br7"),
        firmware=ChosenFirmware("60.json", "/OVMF.fd", "raw", None, "raw"),
        made_anew=(
            f"network card {MAC}: interface/source@bridge was br0: the bridge that the network map gives",
            "os/loader: os/loader: the recipient's own firmware",
            "disk vda: disk/source: a file of the recipient",
        ),
    )
    assert [line.part for line in lines.made_anew] == [Part.BRIDGE, Part.FIRMWARE, Part.DISK]


def test_a_machine_that_will_go_is_told() -> None:
    """It is kept now; the tenant should know that it will not be there for ever."""
    lines = quote_lines(make_vm(made_anew=()), make_platform(deprecated_machines=("pc-q35-10.0",)), HostChoice())
    assert [str(line) for line in lines.kept] == ["machine: pc-q35-10.0, which a later QEMU will not have"]


def test_lines_are_bounded() -> None:
    """A quote is small; how much is left out is said."""
    lines = lines_of(not_kept=tuple(f"part {number}" for number in range(200))).not_kept
    assert len(lines) == MAX_QUOTE_LINES
    assert lines[-1].text == f"and {200 - MAX_QUOTE_LINES + 1} more"


def test_requirements_are_refused_by_name() -> None:
    """Changed or lost is both against a requirement; `all` speaks of what is lost."""
    lines = lines_of(CardPlace(nic(filter="clean-traffic"), bridge="br7"))

    def found(*required: Part) -> list[str]:
        return [refusal.evidence.split(":")[0] for refusal in requirement_refusals(required, lines)]

    assert found() == found(Part.PINNING) == []
    assert found(Part.BRIDGE) == ["changed"]
    assert found(Part.FILTER) == found(Part.ALL) == ["not kept"]
