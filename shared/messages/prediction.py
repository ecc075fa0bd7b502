"""What is known of a port beforehand: how the VM behaves, and what its move will take. Pure models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.messages.base import Text, Value

MAX_UNKNOWN = 16


class Range(Value):
    """A figure that is not known exactly: half of all such ports stay below ``p50``, nine of ten below ``p90``."""

    p50: Annotated[float, Field(ge=0, le=2**63)]
    p90: Annotated[float, Field(ge=0, le=2**63)]


class Estimate(Value):
    """What one port is expected to take, made by the broker before anything moves."""

    wire_bytes: Range = Field(description="Bytes that will cross the network, after compression.")
    total_s: Range = Field(description="Seconds from the start of the window to the VM's completion.")
    downtime_ms: Range = Field(description="Milliseconds without a running vCPU.")
    outage_ms: Range = Field(description="Milliseconds for which a client of the VM gets no answer.")
    unknown: Annotated[tuple[Text, ...], Field(max_length=MAX_UNKNOWN)] = Field(
        default=(), description="What could not be measured; the ranges are wider for it."
    )
