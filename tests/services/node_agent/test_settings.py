"""The node agent's settings: defaults that work on a stock host, and only a node may speak."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.node_agent.settings import NetworkSection, NodeSection, NodeSettings
from shared.config import BusSettings

URL = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"


def test_only_the_bus_is_required() -> None:
    """Everything else has a default, and the party is the URL's user."""
    settings = NodeSettings(bus=BusSettings.model_validate({"url": URL}))
    assert (settings.party.owner, settings.party.node) == ("alpha", "alpha-1")
    assert str(settings.node.run_dir) == "/run/vmport"


def test_another_role_is_refused() -> None:
    """A donor's login does not run a node."""
    with pytest.raises(ValidationError, match="donor"):
        NodeSettings(bus=BusSettings.model_validate({"url": URL.replace("node.alpha.alpha-1", "donor.alpha")}))


@pytest.mark.parametrize(
    "section", [{"lane_silence_s": 1}, {"accelerators": ["xen"]}, {"memory_window_bytes": 1}, {"x": 1}]
)
def test_values_that_cannot_work_are_refused(section: dict[str, object]) -> None:
    """Bounds and unknown keys."""
    with pytest.raises(ValidationError):
        NodeSection.model_validate(section)


def test_every_setting_is_described() -> None:
    """An operator reads these."""
    assert all(field.description for field in NodeSection.model_fields.values())


@pytest.mark.parametrize(
    "section",
    [{"modes": ["translate"]}, {"modes": ["anchor"]}, {"modes": []}, {"segments": {"x" * 16: "a"}}, {"mtu": 100}],
)
def test_network_settings_that_cannot_work_are_refused(section: dict[str, object]) -> None:
    """A mode that translates needs addresses to translate to; a device has a short name."""
    with pytest.raises(ValidationError):
        NetworkSection.model_validate(section)
