"""Lines of a quote, and the names that a tenant requires them by."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages.quote_lines import Part, QuoteLine
from shared.messages.service_change import PortLimits


def test_a_requirement_is_one_of_the_names() -> None:
    """A mistyped one would be kept by everybody."""
    assert PortLimits.model_validate({"require": ["filter", "all"]}).require == (Part.FILTER, Part.ALL)
    with pytest.raises(ValidationError):
        PortLimits.model_validate({"require": ["filtre"]})


def test_a_line_names_its_part() -> None:
    """As it is printed."""
    assert str(QuoteLine(part=Part.PINNING, text="vCPU 0 on CPU 3")) == "pinning: vCPU 0 on CPU 3"
