"""Each party refuses what breaks its rules, with a code, the rule and the evidence, and nothing moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.labkit.guests import GuestSpec
from deploy.labkit.lab import Lab
from deploy.labkit.state import GuestRecord
from shared.exit_codes import ExitCode

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

Start = Callable[..., GuestRecord]
Edit = Callable[[str, str, str], None]


@pytest.fixture(scope="module")
def resting(lab: Lab) -> Any:
    """One guest for all refusals: none of them touches it."""
    record = lab.guest_start(GuestSpec(name="resting", provider="alpha", memory_mib=192))
    yield record
    lab.guest_remove(record.name)


def test_the_broker_refuses_a_recipient_that_it_does_not_serve(tenant: Any, resting: GuestRecord) -> None:
    """A recipient's name must be one of the broker's providers."""
    tenant.wait_until_known(resting, "alpha")
    assert tenant.refused(resting, to="nowhere", code=ExitCode.NOT_FOUND) == {"recipient_unknown"}


def test_the_broker_refuses_a_port_to_where_the_vm_is(tenant: Any, resting: GuestRecord) -> None:
    """Donor and recipient must differ."""
    tenant.wait_until_known(resting, "alpha")
    assert tenant.refused(resting, to="alpha") == {"same_provider"}


def test_the_command_line_knows_only_the_tenants_own_vms(tenant: Any) -> None:
    """A VM that is not there, or somebody else's, is the same to a tenant: not found."""
    done = tenant.run("port", "create", "11111111-2222-4333-8444-555555555555", "--to", "beta")
    assert done.returncode == ExitCode.NOT_FOUND
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("contract_start = 2024-01-15", 'contract_start = 2024-01-15\nlegal_hold = "court order"', "legal_hold"),
        ("contract_start = 2024-01-15", 'contract_start = 2024-01-15\nowner_change = "sale"', "owner_change_under_way"),
        ("contract_start = 2024-01-15", "contract_start = 2999-01-01", "minimum_stay"),
        (
            "contract_start = 2024-01-15",
            'contract_start = 2024-01-15\ndues = [{invoice = "7", amount = "9", currency = "EUR", due = 2024-02-01}]',
            "dues_open",
        ),
        ("minimum_stay_days = 90", 'minimum_stay_days = 90\npartners = ["gamma"]', "partner_not_allowed"),
    ],
)
def test_the_donor_refuses_by_its_policy(
    tenant: Any, resting: GuestRecord, edit_policy: Edit, old: str, new: str, code: str
) -> None:
    """A change of the policy file holds from the next request on; the refusal names rule and evidence."""
    tenant.wait_until_known(resting, "alpha")
    edit_policy("alpha", old, new)
    assert code in tenant.refused(resting)


def test_no_offer_within_the_tenants_price_is_a_refusal(tenant: Any, resting: GuestRecord) -> None:
    """The tenant's own limit refuses, too."""
    tenant.wait_until_known(resting, "alpha")
    assert tenant.refused(resting, "--max-price", "0.01")


def test_a_dry_run_prints_offers_and_moves_nothing(tenant: Any, resting: GuestRecord) -> None:
    """A dry run ends with offers; the VM stays where it is and no port is under way."""
    tenant.wait_until_known(resting, "alpha")
    plan = tenant.ask("port", "create", resting.uuid, "--to", "best", "--dry-run")
    assert [quote["provider"] for quote in plan["quotes"]] == ["beta"]
    assert tenant.ask("port", "list", "--active") == []
    assert tenant.ask("vm", "where", resting.uuid)["provider"] == "alpha"


@pytest.mark.parametrize("short_of", ["memory", "disk"])
def test_a_recipient_without_room_refuses_in_writing(
    lab: Lab, tenant: Any, start_guest: Start, provider: Callable[[str], Any], tmp_path: Path, short_of: str
) -> None:
    """A VM that fits no instance type, or not onto the recipient's disks, is declined before anything moves."""
    facts: dict[str, Any] = {"memory_mib": 12 * 1024}
    if short_of == "disk":
        (tmp_path / "huge.raw").touch()
        os.truncate(tmp_path / "huge.raw", 2 * shutil.disk_usage(tmp_path).total)
        facts = {"disk": tmp_path / "huge.raw"}
    images = provider("beta").images()
    guest = start_guest(f"giant-{short_of}", **facts)
    assert {f"{short_of}_short", "disk_space_short", "no_instance_type"} & tenant.refused(guest)
    assert guest.uuid not in provider("beta").domains()
    assert provider("beta").images() == images
    assert lab.guest_place(guest.name).provider == "alpha"
