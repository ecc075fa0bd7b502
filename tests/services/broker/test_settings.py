"""The broker's settings reach the saga and the rules in their units."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.broker.settings import DnsSettings, LimitSettings, RuleSettings, TimingSettings


def test_limits_are_durations_for_the_rules() -> None:
    """Days and seconds become durations."""
    limits = LimitSettings(
        max_active_ports_per_tenant=3, farthest_window_days=0.5, shortest_deadline_s=40, window_tolerance_s=5
    ).limits()
    assert limits.max_active_ports_per_tenant == 3
    assert limits.farthest_window == timedelta(hours=12)
    assert (limits.shortest_deadline, limits.window_tolerance) == (timedelta(seconds=40), timedelta(seconds=5))


def test_every_phase_has_its_time() -> None:
    """Each setting of the section is one of the saga's."""
    timing = TimingSettings(approval_s=7, seed_ahead_s=0).timing()
    assert (timing.approval, timing.seed_ahead) == (timedelta(seconds=7), timedelta())


@pytest.mark.parametrize("wrong", [{"approval_s": 0}, {"transfer_s": -1}, {"first_retry_s": 31 * 24 * 3600}])
def test_a_time_without_sense_is_refused(wrong: dict[str, float]) -> None:
    """A phase takes some time, and less than a month."""
    with pytest.raises(ValidationError):
        TimingSettings(**wrong)


def test_dns_is_off_by_default_and_given_as_a_whole(tmp_path: Path) -> None:
    """A server without a key, or a key without a zone, is a mistake."""
    assert not DnsSettings().is_on
    key = tmp_path / "dns.key"
    key.write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
    settings = DnsSettings(server="192.0.2.53", zone="vm.example", key_file=key)
    assert settings.is_on
    assert settings.problems() == []
    server = settings.name_server()
    assert (server.shown, server.zone, server.ttl_s) == ("192.0.2.53@53", "vm.example", 10)
    for partial in ({"server": "192.0.2.53"}, {"zone": "vm.example"}, {"server": "192.0.2.53", "zone": "vm.example"}):
        with pytest.raises(ValidationError, match="give server, zone and key_file"):
            DnsSettings.model_validate(partial)


@pytest.mark.parametrize("wrong", [{"server": "ns.example"}, {"zone": "vm.example."}, {"zone": "a" * 200}])
def test_what_is_no_server_or_zone_is_refused(wrong: dict[str, str]) -> None:
    """A name server is an address; a zone has no dot at its end, and leaves room for labels."""
    with pytest.raises(ValidationError, match=r"server|zone"):
        DnsSettings.model_validate(wrong)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe", b"not base64 at all!"])
def test_a_key_that_cannot_be_used_is_found_before_the_start(tmp_path: Path, content: bytes) -> None:
    """``--check-config`` names the key."""
    key = tmp_path / "dns.key"
    key.write_bytes(content)
    (found,) = DnsSettings(server="192.0.2.53", zone="vm.example", key_file=key).problems()
    assert found.location == ("key_file",)


def test_rules_come_from_the_folder_and_the_regions(tmp_path: Path) -> None:
    """Whose region is not given has none."""
    book = RuleSettings(tenants={"acme": "EU-DE"}, providers={"alpha": "UK"}).book()
    assert (book.tenants, book.providers) == ({"acme": "EU-DE"}, {"alpha": "UK"})
    assert {"default", "eu-data-act"} <= {regime.name for regime in book.regimes}
    assert RuleSettings(regimes_dir=tmp_path).problems() == []


@pytest.mark.parametrize(
    "wrong", [{"tenants": {"acme": "Europe"}}, {"providers": {"Alpha": "EU"}}, {"regime_dir": "/"}]
)
def test_what_is_no_region_is_refused(wrong: dict[str, object]) -> None:
    """Nor is a name that nobody can have, or a key that there is not."""
    with pytest.raises(ValidationError):
        RuleSettings.model_validate(wrong)


def test_a_regime_that_cannot_be_used_is_found_before_the_start(tmp_path: Path) -> None:
    """``--check-config`` names file, key and reason."""
    (tmp_path / "house.toml").write_text('name = "house"\n')
    (found,) = RuleSettings(regimes_dir=tmp_path).problems()
    assert found.location == ("regimes_dir",)
    assert f"{tmp_path}/house.toml: title: is required" in found.what
