"""Configuration of the routed lab's name servers."""

from pathlib import Path

from deploy.labkit.names import UpdateKey, broker_section, conf, servers, zone_text
from deploy.labkit.plan import LabPlan
from services.broker.settings import DnsSettings
from shared.messages.network import NetworkMode

_PLAN = LabPlan("lab", ("alpha", "beta"), NetworkMode.EXTEND)
_KEY = UpdateKey("vmport", "hmac-sha256", "c2VjcmV0")


def test_only_a_routed_lab_has_name_servers() -> None:
    """The primary is the hub's; each provider has a secondary."""
    assert servers(_PLAN) == ("hub", "alpha", "beta")
    assert servers(LabPlan("lab")) == ()


def test_only_the_key_may_change_the_zone_and_only_at_the_primary() -> None:
    """Secondaries take it from the primary and from nobody else."""
    primary = conf(_PLAN, "hub", _KEY, Path("/dns/hub"))
    assert "  - id: holder\n    key: vmport\n    action: [update, transfer]\n" in primary
    assert "notify: [alpha, beta]" in primary
    secondary = conf(_PLAN, "beta", _KEY, Path("/dns/beta"))
    assert "update" not in secondary
    assert "  - id: hub\n    address: 10.77.0.1@53\n    key: vmport\n" in secondary
    assert "master: hub" in secondary


def test_the_zone_names_every_server() -> None:
    """A resolver that knows one finds the others."""
    lines = zone_text(_PLAN).splitlines()
    assert lines[0] == "$ORIGIN vm.example."
    assert [line for line in lines if " NS " in line] == ["@ NS ns-hub", "@ NS ns-alpha", "@ NS ns-beta"]
    assert "ns-beta A 10.77.0.12" in lines


def test_the_broker_is_told_of_the_primary(tmp_path: Path) -> None:
    """As its settings have it, with the key that the name servers have."""
    assert broker_section(LabPlan("lab")) == {}
    told = broker_section(_PLAN)["dns"]
    key = tmp_path / "dns.key"
    key.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    settings = DnsSettings.model_validate({**told, "key_file": key})
    assert settings.is_on
    assert (settings.name_server().shown, settings.zone, settings.key_name) == ("10.77.0.1@53", "vm.example", "vmport")
