"""Settings files of the lab's processes."""

import tomllib
from pathlib import Path

import pytest

from deploy.labkit import addressing, node_network, services
from deploy.labkit.plan import LabPlan
from deploy.labkit.rabbit import amqp_url, parties
from deploy.labkit.state import GuestRecord
from deploy.labkit.toml_text import to_toml
from services.broker.settings import BrokerSettings
from services.donor_agent.policy import parse_policy
from services.donor_agent.settings import DonorSettings
from services.node_agent.network.addresses_file import read_addresses
from services.node_agent.settings import NodeSettings
from services.recipient_agent.settings import RecipientSettings
from shared.config import ServiceSettings, load
from shared.messages.network import NetworkMode

_PLAN = LabPlan("lab")
_PLANS = [LabPlan("lab", network=mode) for mode in NetworkMode]
_MODELS: dict[str, type[ServiceSettings]] = {
    "broker": BrokerSettings,
    "donor": DonorSettings,
    "recipient": RecipientSettings,
    "node": NodeSettings,
    "gateway": NodeSettings,
}


@pytest.mark.parametrize(
    ("plan", "service"),
    [
        pytest.param(plan, service, id=f"{plan.network}-{service.name}")
        for plan in _PLANS
        for service in services.services(plan)
    ],
)
def test_each_process_accepts_its_settings(plan: LabPlan, service: services.Service, tmp_path: Path) -> None:
    """In every kind of lab the process's own model reads the rendered file, and it speaks as its party."""
    path = tmp_path / "settings.toml"
    url = amqp_url(plan, service.party, "secret")
    path.write_text(to_toml(services.settings(plan, service, url, accelerator="qemu")), encoding="utf-8")
    assert service.party == load(_MODELS[service.role], path).party


def test_the_node_agents_can_read_the_list_of_addresses(tmp_path: Path) -> None:
    """In every kind of lab, with a guest and without one."""
    for plan in _PLANS:
        first = addressing.guest(plan, "alpha", 10)
        guest = GuestRecord(
            "vm1", "u", "52:54:00:00:00:01", first.address, "tiny", "idle", 512, "alpha", address6=first.address6
        )
        path = tmp_path / f"{plan.network}.toml"
        path.write_text(to_toml(node_network.addresses(plan, "alpha", [guest])), encoding="utf-8")
        assert read_addresses(path).cards[guest.mac].addresses == (first.address, first.address6)
        path.write_text(to_toml(node_network.addresses(plan, "beta", [guest])), encoding="utf-8")
        assert read_addresses(path).cards == {}


def test_the_neutral_partys_gateways_may_speak_on_the_bus() -> None:
    """The broker tells them who serves which address."""
    anchor = LabPlan("lab", network=NetworkMode.ANCHOR)
    assert {str(party) for party in parties(anchor)} - {str(party) for party in parties(_PLAN)} == {
        "node.exchange.gw-1",
        "node.exchange.gw-2",
    }


def test_every_party_of_the_bus_is_a_process_or_the_tenant() -> None:
    """Nobody has a login that no one uses."""
    for plan in _PLANS:
        used = {str(service.party) for service in services.services(plan)} | {"tenant.acme"}
        assert used == {str(party) for party in parties(plan)}


def test_the_policy_lets_the_labs_guests_leave() -> None:
    """The tenant owns each guest by its UUID, under a contract older than the minimum stay."""
    guest = GuestRecord(
        "vm1", "51822974-d710-4fa1-8163-83b4fd1ccd7b", "52:54:00:00:00:01", "10.88.0.10", "tiny", "idle", 512, "alpha"
    )
    policy = parse_policy(to_toml(services.policy([guest])))
    assert [str(rule.uuid) for rule in policy.accounts["acme"].vms] == [guest.uuid]


def test_an_empty_lab_has_a_valid_policy() -> None:
    """Before the first guest the account owns nothing."""
    policy = parse_policy(to_toml(services.policy([])))
    assert policy.accounts["acme"].vms == ()
    assert tomllib.loads(to_toml(services.policy([])))["minimum_stay_days"] == 90
