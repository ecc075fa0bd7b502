"""What a host offers, as a part of a message."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages.host import DeviceOffers, FirmwareOffer, HugePages


def test_what_a_node_reports_is_bounded() -> None:
    """A heartbeat cannot be filled with names, and a path is absolute and of one line."""
    with pytest.raises(ValidationError):
        DeviceOffers(accelerator="kvm", machines=("m",) * 1025, offers={})
    with pytest.raises(ValidationError):
        DeviceOffers(accelerator="kvm", machines=(), offers={"video": ("x" * 257,)})
    with pytest.raises(ValidationError):
        HugePages(size_bytes=0, total=1, free=1)
    for path in ("CODE.fd", "/a\nb"):
        with pytest.raises(ValidationError):
            FirmwareOffer(
                name="1.json", interfaces=("uefi",), device="flash", code=path, code_format="raw", code_bytes=1,
                targets=(), features=(),
            )  # fmt: skip
