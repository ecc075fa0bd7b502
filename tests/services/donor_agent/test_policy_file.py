"""The policy file: re-read when it changes, never worse than the last good reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.donor_agent.policy import PolicyError
from services.donor_agent.policy_file import PolicyFile

GOOD = "[accounts.acme]\ncontract_start = 2024-01-01\n"


def put(path: Path, content: str | bytes | None) -> None:
    """Write the file, or remove it."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good policy file."""
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    return path


async def test_an_unchanged_file_is_not_read_again(path: Path) -> None:
    """Nothing happened, no policy is loaded again."""
    policy = PolicyFile.open(path)

    assert not policy.refresh()
    assert await policy.readiness() is None


async def test_a_changed_file_comes_into_force(path: Path) -> None:
    """An operator edits the file and that is all."""
    policy = PolicyFile.open(path)
    put(path, GOOD + "legal_hold = 'x'\n")

    assert policy.refresh()
    assert policy.policy.accounts["acme"].legal_hold == "x"
    assert not policy.refresh()


@pytest.mark.parametrize("broken", ["[accounts", "surprise = 1", None, b"\xff\xfe"])
async def test_a_broken_file_keeps_the_old_policy_and_says_so(path: Path, broken: str | bytes | None) -> None:
    """Syntax, content, encoding, or no file at all: the last good policy stays in force, /readyz has the reason."""
    policy = PolicyFile.open(path)
    put(path, broken)

    assert not policy.refresh()
    assert not policy.refresh()
    assert "acme" in policy.policy.accounts
    assert str(path) in (await policy.readiness() or "")

    put(path, GOOD)
    assert not policy.refresh()
    assert await policy.readiness() is None


def test_a_service_does_not_start_without_a_policy(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(PolicyError, match=r"nowhere\.toml"):
        PolicyFile.open(tmp_path / "nowhere.toml")
