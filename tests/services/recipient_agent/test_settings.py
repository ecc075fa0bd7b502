"""The recipient agent's settings and program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.recipient_agent.main import main
from services.recipient_agent.settings import RecipientSettings
from shared.config import ConfigError, load
from shared.exit_codes import ExitCode

MINIMAL = """
[bus]
url = "amqp://recipient.beta:secret@127.0.0.1:5672/vmport"
[store]
url = "sqlite:////var/lib/vmport/recipient.db"
[[instance_types]]
name = "small"
vcpus = 1
memory_mib = 1024
disk_gib = 20
price_per_month = "6.90"
"""


def written(folder: Path, text: str) -> Path:
    """A settings file."""
    path = folder / "recipient.toml"
    path.write_text(text)
    return path


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    """What must be set is the bus, the store and one price."""
    settings = load(RecipientSettings, written(tmp_path, MINIMAL))

    assert settings.terms().places.image_dir == "/var/lib/libvirt/images"
    assert settings.terms().places_on("beta-1") == settings.terms().places


def test_single_nodes_may_differ(tmp_path: Path) -> None:
    """What an override names it replaces, the rest is as for all nodes."""
    text = MINIMAL + (
        '[places]\nbridges = { vmbr0 = "br0" }\n[nodes.beta-2]\nimage_dir = "/srv"\nbridges = { vmbr0 = "br9" }\n'
    )
    terms = load(RecipientSettings, written(tmp_path, text)).terms()

    places = {name: terms.places_on(name) for name in ("beta-1", "beta-2")}
    assert [each.image_dir for each in places.values()] == ["/var/lib/libvirt/images", "/srv"]
    assert [each.bridges.here("vmbr0") for each in places.values()] == ["br0", "br9"]
    assert places["beta-2"].emulator == places["beta-1"].emulator


VLAN_42 = """[[network_map]]
bridge = "br0"
vlan = [42]
to_bridge = "br42"
to_vlan = "is_that_vlan"
"""


def test_networks_are_mapped_by_rules(tmp_path: Path) -> None:
    """For all nodes; the map of bridges stays for cards without a VLAN."""
    text = MINIMAL + '[places]\nbridges = { br0 = "br7" }\n' + VLAN_42
    bridges = load(RecipientSettings, written(tmp_path, text)).terms().places_on("beta-1").bridges

    assert [rule.to_bridge for rule in bridges.rules] == ["br42"]
    assert bridges.rules[0].vlan == (42,)
    assert bridges.here("br0") == "br7"


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (VLAN_42.replace('to_vlan = "is_that_vlan"\n', ""), r"network_map\.0.*say in to_vlan"),
        (VLAN_42.replace("[42]", "[4095]"), r"network_map\.0\.vlan"),
        (VLAN_42.replace("to_bridge", "to_brigde"), r"network_map\.0\.to_brigde"),
        (VLAN_42 + VLAN_42, "rule 2 is never reached, since rule 1 fits the same cards"),
    ],
)
def test_a_network_map_that_cannot_be_meant_is_an_error(tmp_path: Path, rules: str, reason: str) -> None:
    """--check-config says which rule, and what to write."""
    with pytest.raises(ConfigError, match=reason):
        load(RecipientSettings, written(tmp_path, MINIMAL + rules))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("recipient.beta", "donor.beta"), "bus"),
        (("6.90", "-1"), "instance_types.0.price_per_month"),
        (("[[instance_types]]", '[places]\nimage_dir = "images"\n[[instance_types]]'), "places.image_dir"),
        (("[[instance_types]]", '[places]\nimage_dir = "/a/../b"\n[[instance_types]]'), "places.image_dir"),
        (("[[instance_types]]", "[nodes.UPPER]\n[[instance_types]]"), "nodes.UPPER"),
        (("[[instance_types]]", "[quota.per_tenant]\nvms = -1\n[[instance_types]]"), "quota.per_tenant.vms"),
    ],
)
def test_a_mistake_is_named_by_its_key(tmp_path: Path, change: tuple[str, str], key: str) -> None:
    """The operator reads where it is."""
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load(RecipientSettings, written(tmp_path, MINIMAL.replace(*change)))


def test_price_list_names_each_type_once(tmp_path: Path) -> None:
    """Two lines of one name would make a quote ambiguous."""
    twice = MINIMAL + MINIMAL[MINIMAL.index("[[instance_types]]") :]

    with pytest.raises(ConfigError, match="each name stands once"):
        load(RecipientSettings, written(tmp_path, twice))


def test_a_price_list_is_needed(tmp_path: Path) -> None:
    """Nothing is sold without a price."""
    with pytest.raises(ConfigError, match="instance_types"):
        load(RecipientSettings, written(tmp_path, MINIMAL[: MINIMAL.index("[[instance_types]]")]))


def test_the_program_checks_and_prints_its_settings(tmp_path: Path, capsys: Any) -> None:
    """--check-config and --print-config end with success and start nothing."""
    text = MINIMAL.replace("/var/lib/vmport", str(tmp_path))
    assert main(["--config", str(written(tmp_path, text)), "--check-config"]) == ExitCode.OK
    assert main(["--print-config"]) == ExitCode.OK
    assert "[[instance_types]]" in capsys.readouterr().out


def test_a_store_that_is_no_database(tmp_path: Path, capsys: Any) -> None:
    """The check says so, and so does a start: it is a wrong configuration, which no restart can mend."""
    (tmp_path / "recipient.db").write_text("a letter")
    config = ["--config", str(written(tmp_path, MINIMAL.replace("/var/lib/vmport", str(tmp_path))))]

    for more in (["--check-config"], []):
        assert main([*config, *more]) == ExitCode.CONFIG
        said = capsys.readouterr().err
        assert f"store.url: {tmp_path}/recipient.db is no SQLite database: name another file in the URL" in said
        assert "Traceback" not in said
