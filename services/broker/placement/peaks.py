"""Whether a plan that was made without providers' limits keeps them all the same. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from services.broker.placement.model import Columns, Floats, Instance, Scenarios
from services.broker.placement.recourse import ClosedForm


def without_limits(instance: Instance) -> Instance:
    """The same problem where every provider takes whatever comes."""
    return replace(instance, limits=())


def binding(instance: Instance, columns: Columns, scenarios: Scenarios, values: Floats) -> bool:
    """Whether any scenario and month exceeds a limit of ``instance``; ``columns`` are those without limits."""
    runs = ClosedForm(columns, scenarios).runs(values)
    for provider, limits in enumerate(instance.limits):
        for resource, limit in enumerate(limits):
            if not np.isfinite(limit):
                continue
            needed = sum(
                each.needs[resource] * runs[number][:, :, each.providers.index(provider)]
                for number, each in enumerate(instance.classes)
                if provider in each.providers
            )
            if np.max(needed, initial=0.0) > limit:
                return True
    return False
