"""Addresses, prefixes and care-of addresses are read in one form only."""

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.messages.network import CareOf, IpAddress, IpNetwork, NetworkMode, NetworkTerms

ADDRESS: TypeAdapter[str] = TypeAdapter(IpAddress)
NETWORK: TypeAdapter[str] = TypeAdapter(IpNetwork)


@pytest.mark.parametrize("text", ["192.0.2.7", "2001:db8::7", "fe80::1"])
def test_canonical_addresses_are_taken(text: str) -> None:
    assert ADDRESS.validate_python(text) == text


@pytest.mark.parametrize("text", ["::", "127.0.0.1", "224.0.0.1", "2001:DB8::7", "fe80::1%eth0", "x", "1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        ADDRESS.validate_python(text)


@pytest.mark.parametrize("text", ["192.0.2.7/24", "2001:DB8::/32", "10.0.0.0/33", "10.0.0.0"])
def test_other_prefixes_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        NETWORK.validate_python(text)


def test_a_care_of_address_is_of_the_same_family() -> None:
    assert CareOf(address="192.0.2.7", real="198.51.100.7").real == "198.51.100.7"
    with pytest.raises(ValidationError, match="one family"):
        CareOf(address="192.0.2.7", real="2001:db8::7")


def test_announcing_carries_nothing_at_the_switchover() -> None:
    with pytest.raises(ValidationError):
        NetworkTerms.model_validate({"carry": NetworkMode.ANNOUNCE})
