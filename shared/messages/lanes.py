"""How a node agent proves itself on a port's lanes, and where it can be reached without the relay. Pure models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.messages.base import Value

Certificate = Annotated[
    str,
    Field(
        max_length=8192,
        pattern=r"^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,8000}\n-----END CERTIFICATE-----\n?$",
        description="One certificate, PEM.",
    ),
]
DirectAddress = Annotated[
    str,
    Field(
        max_length=270,
        pattern=r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$",
        description="HOST:PORT, an IPv6 address in brackets.",
    ),
]


class LaneEndpoint(Value):
    """What the other node agent must know of this one. An agreement pins both: nobody else is spoken to."""

    certificate: Certificate = Field(description="The very certificate that this node agent will show.")
    authority: Certificate = Field(description="The provider's own authority, which issued it.")
    direct: tuple[DirectAddress, ...] = Field(
        default=(), max_length=8, description="Where its lanes can be reached by TCP; empty: by the relay only."
    )
