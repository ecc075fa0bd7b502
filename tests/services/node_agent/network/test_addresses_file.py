"""The operator's list of addresses, while it changes and while it is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.network import addresses_file
from services.node_agent.network.addresses_file import AddressesError, AddressesFile, read_addresses

MAC = "52:54:00:00:00:01"
GOOD = f"""
[cards."{MAC}"]
addresses = ["192.0.2.7", "2001:db8::7"]
on_link = ["192.0.2.0/24"]
gateways = [{{ address = "192.0.2.1", mac = "02:00:00:00:00:01" }}]
holder = "acme"
firewall = [{{ direction = "in", action = "accept", protocol = "tcp", first_port = 443, last_port = 443 }}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good list."""
    path = tmp_path / "addresses.toml"
    path.write_text(GOOD)
    return path


def test_a_good_list_is_read(path: Path) -> None:
    """By the card's MAC."""
    card = read_addresses(path).cards[MAC]
    assert (card.addresses, card.holder) == (("192.0.2.7", "2001:db8::7"), "acme")
    assert (card.gateways[0].mac, card.firewall[0].first_port) == ("02:00:00:00:00:01", 443)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cards", "is not TOML"),
        ("[vms]", "is no key of a list of addresses"),
        ('[cards."52:54:00:00:00:01"]\naddresses = ["2001:DB8::7"]', "addresses.0"),
        ('[cards."52-54"]\n', "52-54"),
        (GOOD + '[cards."52:54:00:00:00:02"]\naddresses = ["192.0.2.7"]', "given to both"),
    ],
)
def test_what_is_wrong_is_named(path: Path, text: str, says: str) -> None:
    """With the file, and where in it."""
    path.write_text(text)
    with pytest.raises(AddressesError) as caught:
        read_addresses(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_bad_file_changes_nothing(path: Path) -> None:
    """What was read last stays, and the problem is known until the file is good again."""
    file = AddressesFile(path)
    file.check()
    path.write_text("nonsense")
    file.check()
    assert (list(file.cards), "is not TOML" in (file.problem or "")) == ([MAC], True)
    path.unlink()
    file.check()
    assert (list(file.cards), "cannot be read" in (file.problem or "")) == ([MAC], True)
    path.write_text("")
    file.check()
    assert (list(file.cards), file.problem) == ([], None)


def test_no_file_is_no_problem() -> None:
    """Nothing is declared then."""
    file = AddressesFile(None)
    file.check()
    assert (dict(file.cards), file.problem) == ({}, None)


async def test_changes_are_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the node runs."""
    monkeypatch.setattr(addresses_file, "CHECK_EVERY_S", 0.005)
    file = AddressesFile(path)
    task = asyncio.get_running_loop().create_task(file.run())
    async with asyncio.timeout(10):
        while not file.cards:  # noqa: ASYNC110  # the file has no event
            await asyncio.sleep(0.005)
        await asyncio.to_thread(path.write_text, "")
        while file.cards:  # noqa: ASYNC110  # the file has no event
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
