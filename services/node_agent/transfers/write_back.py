"""Images of a guest that arrives, written to their disks while they still come.

The kernel leaves what QEMU writes in memory for half a minute, or until there are gigabytes of it. So when the donor's
mirror has copied everything and asks for a flush (NBD_CMD_FLUSH), which the transfer of memory waits for, the whole
image would have to be written. Here it is asked for all the time: at the end a fraction of a second's worth is left.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.logs import get_logger

log = get_logger(__name__)

PAUSE_S: Final = 0.2
"""Between two times. Shorter ones cost the disk flushes, longer ones leave more for the end."""


async def write_back(images: Sequence[Path], *, pause_s: float = PAUSE_S) -> None:
    """Keep little of these files unwritten, until cancelled. A file that cannot be written is left to QEMU, which
    tells the donor.
    """
    left = list(images)
    while left:
        for image in tuple(left):
            try:
                await asyncio.to_thread(_sync, image)
            except OSError as error:
                log.warning("write-back stopped", file=str(image), error=str(error))
                left.remove(image)
        await asyncio.sleep(pause_s)


def _sync(image: Path) -> None:
    file = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
