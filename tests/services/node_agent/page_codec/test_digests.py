"""Digests of contents as arrays: BLAKE3, cut, in order."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3

from services.node_agent.page_codec.contents import CONTENT_BYTES, ID_BYTES
from services.node_agent.page_codec.digests import digests_of, digests_of_pages


def test_one_digest_per_page() -> None:
    """Equal to BLAKE3 of each page, also where the pages are not contiguous."""
    pages = np.random.default_rng(1).integers(0, 256, (6, CONTENT_BYTES), dtype=np.uint8)
    for some in (pages, pages[::2], pages[:0]):
        expected = b"".join(blake3(page.tobytes()).digest(ID_BYTES) for page in some)
        found = digests_of_pages(some)
        assert found.shape == (len(some), 2)
        assert found.astype("<u8").tobytes() == expected
        assert np.array_equal(found, digests_of(expected))


def test_a_cut_digest_is_refused() -> None:
    """Bytes that are no whole digests are a mistake of the caller."""
    with pytest.raises(ValueError, match="size"):
        digests_of(bytes(ID_BYTES + 1))
