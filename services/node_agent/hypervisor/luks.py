"""LUKS inside QCOW2 images: how an image is encrypted, and a new one that is encrypted alike.

qemu-img reads the key from a file in memory, without a name, that only it and this process have open: the key is on no
disk and on no command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from services.node_agent.hypervisor.disk_images import DiskImageError, create_empty, qemu_img
from services.node_agent.hypervisor.qcow2_header import read_header
from services.node_agent.hypervisor.secret_values import SecretValue

_OPTIONS: Final = ("cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg")
"""What QEMU tells of an image and takes for a new one; the rest is drawn again: salts, the master key, its slots."""
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KEY: Final = "key"
_LUKS: Final = 2
"""In a QCOW2 header."""


@dataclass(frozen=True, slots=True)
class LuksOptions:
    """Cipher and hashes of an image, by QEMU's names. Raises ValueError for what can be no such name."""

    values: Mapping[str, str]

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in _OPTIONS or not isinstance(value, str) or _WORD.fullmatch(value) is None:
                raise ValueError("no option of LUKS")


async def luks_options(path: str) -> LuksOptions:
    """How an image is encrypted, also while a guest has it open. Raises `DiskImageError` where it is not by LUKS."""
    printed = await qemu_img(path, "info", "-U", "--output=json", "-f", "qcow2", path)
    try:
        encryption = json.loads(printed)["format-specific"]["data"]["encrypt"]
        if encryption["format"] != "luks":
            raise DiskImageError(path, f"is encrypted by {encryption['format']}, not by LUKS")
        return LuksOptions({name: encryption[name] for name in _OPTIONS if name in encryption})
    except (ValueError, KeyError, TypeError) as error:
        raise DiskImageError(path, "is not encrypted by LUKS, as far as qemu-img tells") from error


async def create_encrypted(path: str, size_bytes: int, key: SecretValue, options: LuksOptions) -> None:
    """Make an empty QCOW2 image with LUKS inside. Raises `DiskImageError`, with code `disk_exists` as `create`."""
    await asyncio.to_thread(create_empty, path, 0)
    chosen = "".join(f",encrypt.{name}={value}" for name, value in options.values.items())
    with _in_memory(key) as file:
        await qemu_img(
            path, "create", "-q", "-f", "qcow2",
            "--object", f"secret,id={_KEY},file=/dev/fd/{file}",
            "-o", f"encrypt.format=luks,encrypt.key-secret={_KEY}{chosen}",
            path, str(size_bytes),
            pass_fds=(file,),
        )  # fmt: skip
    if not await asyncio.to_thread(is_encrypted, path):
        raise DiskImageError(path, "was made, and is not encrypted")


def is_encrypted(path: str) -> bool:
    """Whether a QCOW2 image is encrypted by LUKS, as its header says. Blocking. Raises `DiskImageError`."""
    try:
        header = read_header(path)
    except OSError as error:
        raise DiskImageError(path, error.strerror or str(error)) from error
    return header is not None and header.encryption == _LUKS


@contextmanager
def _in_memory(key: SecretValue) -> Iterator[int]:
    file = os.memfd_create("vmport-key", os.MFD_CLOEXEC)
    try:
        os.write(file, key.reveal())
        yield file
    finally:
        os.close(file)
