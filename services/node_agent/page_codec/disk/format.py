"""The disk stream's batch: its columns and kinds of runs, shared by both ends."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.contents import Origin

_COLUMNS: Final = 6
_ORIGINS: Final = frozenset(Origin)


class Run(IntEnum):
    """What a run of a batch is."""

    PLAIN = 0
    ZERO = 1
    FULL = 2
    REFERENCE = 3


Kinds = NDArray[np.uint8]


MAX_OUT_BYTES: Final = 4 * MAX_CHUNK_BYTES
"""Most that one batch becomes."""
