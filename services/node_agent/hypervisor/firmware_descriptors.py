"""Which firmwares a host has, by QEMU's descriptors, and how large their files are.

Source: QEMU's docs/interop/firmware.json. A descriptor is a JSON file; its name gives its rank, and a file in a folder
of higher priority replaces the one of the same name in a folder of lower priority, or hides it if it is empty. The
folders of a user (`~/.config/qemu/firmware`) are not read: libvirt's system daemon, which runs the guests, does not
read them either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from services.node_agent.hypervisor.disk_images import DiskImageError, virtual_size_bytes
from shared.messages.host import FirmwareOffer, FirmwareTarget

FOLDERS = (Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware"))
"""Lowest priority first."""
MAX_DESCRIPTORS = 64
MAX_DESCRIPTOR_BYTES = 64 << 10
MAX_DESCRIPTION = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class FirmwareFound:
    """A host's firmwares in order of rank, and one sentence for each descriptor that cannot be used."""

    offers: tuple[FirmwareOffer, ...]
    problems: tuple[str, ...]


def read_firmware(folders: Sequence[Path] = FOLDERS) -> FirmwareFound:
    """Read all descriptors and the sizes of their files. Blocking; never raises for a bad descriptor."""
    offers, problems = [], []
    for path in _ranked(folders)[:MAX_DESCRIPTORS]:
        try:
            offer = _read(path)
        except (OSError, ValueError, DiskImageError) as error:
            problems.append(f"{path}: {_reason(error)}")
        else:
            offers += [offer] if offer is not None else []
    return FirmwareFound(tuple(offers), tuple(problems))


def _ranked(folders: Sequence[Path]) -> list[Path]:
    by_name: dict[str, Path] = {}
    for folder in folders:
        by_name |= {path.name: path for path in folder.glob("*.json")} if folder.is_dir() else {}
    return [by_name[name] for name in sorted(by_name)]


def _read(path: Path) -> FirmwareOffer | None:
    with path.open("rb") as file:
        text = file.read(MAX_DESCRIPTOR_BYTES + 1)
    if len(text) > MAX_DESCRIPTOR_BYTES:
        raise ValueError(f"it is longer than {MAX_DESCRIPTOR_BYTES} bytes")
    return offer_of(path.name, text, size_of=virtual_size_bytes) if text.strip() else None


class _File(BaseModel):
    filename: str
    format: str = "raw"


class _Mapping(BaseModel):
    device: str
    mode: str = "split"
    filename: str | None = None
    executable: _File | None = None
    nvram_template: _File | None = Field(default=None, alias="nvram-template")

    @property
    def code(self) -> _File | None:
        """The image that the guest runs; None where there is none in a file that this module knows of."""
        if self.device == "memory" and self.filename is not None:
            return _File(filename=self.filename)
        return self.executable if self.device == "flash" else None


class _Target(BaseModel):
    architecture: str
    machines: tuple[str, ...]


class _Descriptor(BaseModel):
    description: str = ""
    interfaces: tuple[str, ...] = Field(alias="interface-types")
    mapping: _Mapping
    targets: tuple[_Target, ...]
    features: tuple[str, ...]


def offer_of(name: str, text: bytes, *, size_of: Callable[[str, str], int]) -> FirmwareOffer | None:
    """A descriptor as a value; None for one that is neither a flash nor a memory image. Raises `ValueError`.

    `size_of(path, format)` gives a file's size in bytes, as the guest sees it.
    """
    described = _Descriptor.model_validate_json(text)
    mapping, code = described.mapping, described.mapping.code
    if code is None:
        return None
    template = mapping.nvram_template if mapping.device == "flash" and mapping.mode == "split" else None
    return FirmwareOffer(
        name=name,
        description=_CONTROL.sub(" ", described.description).strip()[:MAX_DESCRIPTION],
        interfaces=described.interfaces,
        device=mapping.device,
        code=code.filename,
        code_format=code.format,
        code_bytes=size_of(code.filename, code.format),
        template=template.filename if template else None,
        template_format=template.format if template else "raw",
        template_bytes=size_of(template.filename, template.format) if template else None,
        targets=tuple(
            FirmwareTarget(architecture=target.architecture, machines=target.machines) for target in described.targets
        ),
        features=described.features,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
    return str(error)
