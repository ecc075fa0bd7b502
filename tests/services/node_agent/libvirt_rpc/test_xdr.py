"""XDR: every value comes back, and nothing is read past its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.libvirt_rpc.xdr import XdrError, XdrReader, XdrWriter


@given(
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.binary(max_size=50),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20),
)
def test_values_roundtrip(
    uint: int,
    sint: int,
    hyper: int,
    uhyper: int,
    double: float,
    flag: bool,  # noqa: FBT001  # from hypothesis
    opaque: bytes,
    text: str,
) -> None:
    """What the writer wrote, the reader reads, to the last byte."""
    writer = XdrWriter().uint32(uint).int32(sint).hyper(hyper).uhyper(uhyper).double(double).boolean(value=flag)
    writer.opaque(opaque).string(text).optional_string(None).optional_string(text)
    data = bytes(writer)
    assert len(data) % 4 == 0
    reader = XdrReader(data)
    assert (uint, sint, hyper, uhyper) == (reader.uint32(), reader.int32(), reader.hyper(), reader.uhyper())
    assert (double, flag, opaque, text) == (reader.double(), reader.boolean(), reader.opaque(), reader.string())
    assert (None, text) == (reader.optional_string(), reader.optional_string())
    reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\0\0\0\5abc",
        b"\0\0\0\1a\0\0\1",
        b"\xff\xff\xff\xff",
        b"\0\0\0\2\xff\xff\0\0",
        b"\0\0\0\2a\0\0\0",
    ],
)
def test_a_damaged_string_is_rejected(data: bytes) -> None:
    """Short, padded wrongly, announced too long, no UTF-8 or with a NUL: each is a typed error."""
    with pytest.raises(XdrError):
        XdrReader(data).string()


def test_a_boolean_is_0_or_1() -> None:
    """Two is no boolean."""
    with pytest.raises(XdrError):
        XdrReader(b"\0\0\0\2").boolean()


def test_left_over_bytes_are_rejected() -> None:
    """A payload longer than its procedure's values is an error."""
    with pytest.raises(XdrError):
        XdrReader(b"\0\0\0\0").end()
