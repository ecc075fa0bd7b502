"""An instance of the placement problem as plain numbers, the columns of its first stage, and what a solution is. Pure.

First stage, decided now for the whole horizon: ``x``, how many VMs of a class to reserve by a contract that begins in
a month, and how many of the VMs that run now leave a provider or come to one by a port. Second stage, per scenario and
month: which reserved VMs are used and how many are bought on demand. Since months are independent of each other, a
later month knows nothing that would change a reservation, so deciding all of them now loses nothing.

Money is integers: price x ``Instance.scale``. Months, classes, providers and slots are counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHORTAGE_FACTOR = 100
"""A VM that cannot be placed costs so many times the dearest price; any plan that avoids it is better."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One way of reserving a VM of a class: a contract of a provider."""

    provider: int
    months: int
    upfront: int
    use: int
    """Per month in which the VM runs."""


@dataclass(frozen=True)
class VmClass:
    """VMs of one size."""

    name: str
    providers: tuple[int, ...]
    """Who offers a type that fits."""
    on_demand: tuple[int, ...]
    """Price per month at each of `providers`."""
    slots: tuple[Slot, ...]
    """Ordered by the price of their use. ``provider`` is a place in `providers`."""
    today: tuple[int, ...]
    """VMs that run at each of `providers` now."""
    porting: int = 0
    """Cost of moving one VM."""
    needs: tuple[float, ...] = ()
    """Of each resource, per VM."""

    @property
    def running(self) -> int:
        """VMs that run now."""
        return sum(self.today)


@dataclass(frozen=True)
class Instance:
    """The problem without its uncertainty."""

    horizon: int
    classes: tuple[VmClass, ...]
    providers: tuple[str, ...]
    scale: int = 100
    limits: tuple[tuple[float, ...], ...] = ()
    """Per provider the most of each resource; inf is no limit. Empty: nobody states any."""

    @cached_property
    def shortage(self) -> int:
        """Price of a VM that cannot be placed, per month."""
        dearest = max((price for each in self.classes for price in each.on_demand), default=1)
        upfront = max((slot.upfront for each in self.classes for slot in each.slots), default=0)
        return SHORTAGE_FACTOR * max(1, dearest + upfront + max((each.porting for each in self.classes), default=0))

    @property
    def has_limits(self) -> bool:
        """Whether capacity couples the classes."""
        return any(np.isfinite(limit) for limits in self.limits for limit in limits)

    def without_reservations(self) -> Instance:
        """The same problem where nothing can be reserved."""
        return replace(self, classes=tuple(replace(each, slots=()) for each in self.classes))


@dataclass(frozen=True)
class Scenarios:
    """Equally likely futures. ``demand`` is VMs by [scenario, month, class]; ``factor`` multiplies on-demand prices, by
    [scenario, month, provider].
    """

    demand: Floats
    factor: Floats

    def __len__(self) -> int:
        return int(self.demand.shape[0])

    def some(self, wanted: Ints) -> Scenarios:
        """These of them."""
        return Scenarios(self.demand[wanted], self.factor[wanted])

    def mean(self) -> Scenarios:
        """One future, in which everything is as it is in the mean."""
        return Scenarios(self.demand.mean(axis=0, keepdims=True), self.factor.mean(axis=0, keepdims=True))

    def highest(self) -> Scenarios:
        """One future with each class's highest demand in every month, and mean prices."""
        top = np.broadcast_to(self.demand.max(axis=(0, 1)), self.demand.shape[1:])
        return Scenarios(top[None].copy(), self.factor.mean(axis=0, keepdims=True))


@dataclass(frozen=True)
class Risk:
    """What is minimised: (1 - weight) x mean + weight x CVaR, the mean of the dearest 1 - level of all scenarios."""

    weight: float = 0.0
    level: float = 0.95

    def weights(self, costs: Floats) -> Floats:
        """The scenarios' weights for these costs; the risk measure is the largest sum over all weights of this kind."""
        count = len(costs)
        even = np.full(count, 1 / count)
        if self.weight <= 0:
            return even
        tail, left = np.zeros(count), 1.0
        cap = 1 / (count * (1 - self.level))
        for number in np.argsort(-costs, kind="stable"):
            tail[number] = min(cap, left)
            left -= tail[number]
            if left <= 0:
                break
        return (1 - self.weight) * even + self.weight * tail

    def of(self, costs: Floats) -> float:
        """The risk measure of these costs."""
        return float(self.weights(costs) @ costs)

    def worst(self, costs: Floats) -> float:
        """The mean of the dearest scenarios."""
        return Risk(1.0, self.level).of(costs)


NEUTRAL = Risk()


@dataclass(frozen=True)
class Columns:
    """The first stage's variables: their order, prices, bounds, and what they mean for reservations and places."""

    instance: Instance
    price: Floats
    of_class: Ints
    slot: Ints
    """-1 for a port."""
    start: Ints
    """The month in which the contract begins; -1 for a port."""
    source: Ints
    """The place in the class's `providers` that VMs leave; else -1."""
    target: Ints
    """The place that they come to; else -1."""
    parts: tuple[slice, ...] = field(default=())
    """Each class's columns."""

    def __len__(self) -> int:
        return len(self.price)

    def reserved(self, number: int, values: Floats) -> Floats:
        """How many VMs of a class are reserved, by [slot, month]."""
        each, horizon = self.instance.classes[number], self.instance.horizon
        steps = np.zeros((len(each.slots), horizon + 1))
        part = self.parts[number]
        is_x = self.slot[part] >= 0
        slots, starts, wanted = self.slot[part][is_x], self.start[part][is_x], values[part][is_x]
        np.add.at(steps, (slots, starts), wanted)
        ends = starts + np.array([slot.months for slot in each.slots], dtype=np.int64)[slots] if len(slots) else starts
        np.add.at(steps, (slots, ends), -wanted)
        held: Floats = np.cumsum(steps, axis=1)[:, :horizon]
        return np.maximum(held, 0.0)

    def placed(self, number: int, values: Floats) -> Floats:
        """Where the VMs of a class that run now are after the ports, by place in the class's providers."""
        part = self.parts[number]
        at = np.array(self.instance.classes[number].today, dtype=np.float64)
        for place, sign in ((self.source[part], -1.0), (self.target[part], 1.0)):
            is_one = place >= 0
            np.add.at(at, place[is_one], sign * values[part][is_one])
        return np.maximum(at, 0.0)

    def rounded(self, values: Floats) -> Floats:
        """Whole numbers near ``values``, by which as many VMs of a class come somewhere as leave somewhere."""
        found: Floats = np.round(values)
        for number, each in enumerate(self.instance.classes):
            if not each.running:
                continue
            part = self.parts[number]
            at = self.placed(number, values)
            whole = np.floor(at + 1e-9)
            missing = each.running - int(whole.sum())
            whole[np.argsort(whole - at, kind="stable")[:missing]] += 1
            change = whole - np.array(each.today, dtype=np.float64)
            source, target = self.source[part], self.target[part]
            found[part] = np.where(source >= 0, np.maximum(0, -change[source]), found[part])
            found[part] = np.where(target >= 0, np.maximum(0, change[target]), found[part])
        return found

    def slopes(self, number: int, month: int, of_slots: Floats, of_places: Floats) -> tuple[Ints, Floats]:
        """Columns of a class, and by how much one more of each changes a cost in this month that changes by
        ``of_slots`` per reserved VM and by ``of_places`` per VM that runs at a provider.
        """
        part = self.parts[number]
        slot, start = self.slot[part], self.start[part]
        found = np.zeros(part.stop - part.start)
        is_x = slot >= 0
        if is_x.any():
            months = np.array([each.months for each in self.instance.classes[number].slots], dtype=np.int64)
            serves = (start[is_x] <= month) & (month < start[is_x] + months[slot[is_x]])
            found[is_x] = np.where(serves, of_slots[slot[is_x]], 0.0)
        for place, sign in ((self.source[part], -1.0), (self.target[part], 1.0)):
            is_one = place >= 0
            found[is_one] = sign * of_places[place[is_one]]
        return np.arange(part.start, part.stop), found


def columns_of(instance: Instance) -> Columns:
    """The first stage's columns: contracts that end within the horizon, and ports of VMs that run now."""
    rows: list[tuple[float, int, int, int, int, int]] = []
    parts = []
    for number, each in enumerate(instance.classes):
        first = len(rows)
        rows += [
            (float(slot.upfront), number, place, start, -1, -1)
            for place, slot in enumerate(each.slots)
            for start in range(instance.horizon - slot.months + 1)
        ]
        if each.running:
            places = range(len(each.providers))
            rows += [(float(each.porting), number, -1, -1, place, -1) for place in places if each.today[place]]
            rows += [(0.0, number, -1, -1, -1, place) for place in places]
        parts.append(slice(first, len(rows)))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    whole = table[:, 1:].astype(np.int64)
    return Columns(
        instance=instance,
        price=table[:, 0].copy(),
        of_class=whole[:, 0].copy(),
        slot=whole[:, 1].copy(),
        start=whole[:, 2].copy(),
        source=whole[:, 3].copy(),
        target=whole[:, 4].copy(),
        parts=tuple(parts),
    )


def most_of(columns: Columns, scenarios: Scenarios) -> Floats:
    """No more of a column is ever of use: the class's highest demand, or the VMs that run at the source."""
    top = np.ceil(scenarios.demand.max(axis=(0, 1)))
    found: Floats = top[columns.of_class]
    for number, each in enumerate(columns.instance.classes):
        part = columns.parts[number]
        here = np.array(each.today, dtype=np.float64)[columns.source[part]]
        leaves, comes = columns.source[part] >= 0, columns.target[part] >= 0
        found[part] = np.where(leaves, here, np.where(comes, float(each.running), found[part]))
    return found


def moves_of(columns: Columns, number: int, values: Floats) -> list[tuple[int, int]]:
    """The ports of a class, each as two places in its providers. What leaves and comes back stays."""
    part = columns.parts[number]
    sources: list[int] = []
    targets: list[int] = []
    change = columns.placed(number, values) - np.array(columns.instance.classes[number].today, dtype=np.float64)
    for place, count in enumerate(np.round(change).astype(int).tolist()):
        (targets if count > 0 else sources).extend([place] * abs(count))
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} VMs leave and {len(targets)} come, of columns {part}")
    return list(zip(sources, targets, strict=True))
