"""A quote: price, promised time and promised downtime, with an expiry. Pure.

The promise, from figures that the operator sets and the VM's size:

    bandwidth      = the lower of the operator's figure and the tenant's limit
    bytes to move  = allocated disk, with what it lies on + memory * passes   (pre-copy sends rewritten memory again)
    total          = setup + margin * bytes to move / bandwidth
    last pass      = downtime_floor + last_pass bytes / bandwidth
    downtime       = last pass, but no more than the tenant's limit unless the floor itself is above it

That a disk becomes an overlay here is not promised: the node that will know is not asked before the transfer.

The last line holds because a node does not switch over before the remaining pages fit into the tenant's limit. The
floor is what no bandwidth shortens: device state, libvirt's hand-over and the broker's commit. Whether a promise is
good enough is for the broker to judge by the tenant's limits.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.recipient_agent.pricing import InstanceType
from services.recipient_agent.quote_lines import NO_LINES, Lines
from shared.messages.costs import JoiningTerms
from shared.messages.network import NetworkTerms
from shared.messages.service_change import PortLimits, Quote
from shared.messages.vm import VmDescription


class Promise(BaseModel):
    """The operator's figures from which promises are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bandwidth_bytes_per_s: Annotated[int, Field(ge=1024, le=2**40)] = Field(
        default=10_000_000, description="Bytes per second that this provider's uplink gives one port."
    )
    setup_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=20.0, description="Time that does not depend on size: hand-shakes, disks, provisioning."
    )
    margin: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=1.5, description="Factor on the time of the transfer."
    )
    memory_passes: Annotated[float, Field(ge=1, le=1000)] = Field(
        default=2.0, description="How often memory is sent on average, rewritten pages included."
    )
    downtime_floor_ms: Annotated[int, Field(ge=0, le=3_600_000)] = Field(
        default=500, description="Downtime that no bandwidth shortens."
    )
    last_pass_bytes: Annotated[int, Field(ge=0, le=2**40)] = Field(
        default=4 * 1024 * 1024, description="Bytes that remain for the last pass, while the guest is paused."
    )


def promised(vm: VmDescription, limits: PortLimits, promise: Promise) -> tuple[float, int]:
    """Total time in seconds and downtime in milliseconds, by the formula of the module's docstring."""
    bandwidth = min(promise.bandwidth_bytes_per_s, limits.bandwidth_bytes_per_s or promise.bandwidth_bytes_per_s)
    disks = sum(disk.allocated_bytes + disk.beneath_bytes for disk in vm.disks)
    to_move = disks + vm.memory_bytes * promise.memory_passes
    total_s = promise.setup_s + promise.margin * to_move / bandwidth
    last_pass_ms = promise.downtime_floor_ms + ceil(promise.last_pass_bytes * 1000 / bandwidth)
    downtime_ms = min(last_pass_ms, max(limits.max_downtime_ms, promise.downtime_floor_ms))
    return round(total_s, 1), downtime_ms


def make_quote(
    vm: VmDescription,
    limits: PortLimits,
    *,
    provider: str,
    instance_type: InstanceType,
    promise: Promise,
    now: datetime,
    valid_s: float,
    lines: Lines = NO_LINES,
    network: NetworkTerms | None = None,
    joining: JoiningTerms | None = None,
) -> Quote:
    """The offer."""
    total_s, downtime_ms = promised(vm, limits, promise)
    return Quote(
        provider=provider,
        price_per_month=instance_type.price_per_month,
        currency=instance_type.currency,
        instance_type=instance_type.name,
        promised_total_s=total_s,
        promised_downtime_ms=downtime_ms,
        valid_until=now + timedelta(seconds=valid_s),
        kept=lines.kept,
        made_anew=lines.made_anew,
        not_kept=lines.not_kept,
        network=network,
        joining=joining,
    )
