"""What a host knows of a VM's network cards beyond their definition. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeenCard:
    """What the host knows of a network card beyond its definition. Addresses are as whoever knows them writes them."""

    mac: str
    guest_mac: str | None = None
    """Where the guest itself has set another one."""
    device: str | None = None
    leased: tuple[str, ...] = ()
    told_by_guest: tuple[str, ...] = ()
    """By the guest's agent."""


@dataclass(frozen=True, slots=True)
class SeenCards:
    """A VM's cards, in their order, and what could not be read."""

    cards: tuple[SeenCard, ...]
    problems: tuple[str, ...] = ()

    def at(self, place: int, mac: str) -> SeenCard:
        """The card at this place of the VM, if it is the one of this MAC; else nothing is known of it."""
        card = self.cards[place] if place < len(self.cards) else None
        return card if card is not None and card.mac == mac else SeenCard(mac)
