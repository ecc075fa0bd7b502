"""Which files a VM uses, by its definition and by the headers of its images. Reads headers; changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from services.node_agent.hypervisor.disk_images import backing_file
from shared.domain import DomainSource, named_files

MOST_LAYERS = 200
"""libvirt's own limit; it also ends a chain that is a circle."""


def files_of(xml: DomainSource, volume_path: Callable[[str, str], str | None]) -> Iterator[str]:
    """Paths without symbolic links of all files and devices that this definition uses, whole backing chains included.

    A definition of a VM that is off names no backing chain, so images are asked. `volume_path` says where a storage
    pool's volume lies. Blocking. Raises `DomainXmlError`.
    """
    for file in named_files(xml):
        path = file.path or volume_path(file.pool, file.volume)
        if path is None:
            continue
        yield os.path.realpath(path)
        if file.may_have_backing:
            yield from backing_chain(path)


def backing_chain(path: str) -> Iterator[str]:
    """Paths of the images beneath this one, top down, as far as they are files of this host. Blocking."""
    for _ in range(MOST_LAYERS):
        named = backing_file(path)
        beneath = _path_of(named, Path(path).parent) if named else None
        if beneath is None:
            return
        path = os.path.realpath(beneath)
        yield path


def _path_of(name: str, folder: Path) -> Path | None:
    """The file that a backing file's name means: a path, relative to the image's own, or QEMU's JSON."""
    if name.startswith("json:"):
        return _path_in(name.removeprefix("json:"), folder)
    plain = name.removeprefix("file:")
    if "\0" in plain:
        return None
    return folder / plain


def _path_in(text: str, folder: Path) -> Path | None:
    try:
        node = json.loads(text)
    except ValueError:
        return None
    # Nested as {"driver": "qcow2", "file": {"driver": "file", "filename": …}}, or flat as {"file.filename": …}.
    while isinstance(node, dict):
        found = node.get("filename") or node.get("file.filename")
        if isinstance(found, str) and "\0" not in found:
            return folder / found
        node = node.get("file")
    return None
