"""Which files a VM uses, by its definition and by the headers of its images. Reads headers; changes nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import unescape

from services.node_agent.hypervisor.qcow2_header import header_or_none
from shared.domain import DomainSource, named_files

_PATH = re.compile(r"""['">](/[^'"<>]+)""")
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


def paths_in_text(xml: str) -> Iterator[str]:
    """Every absolute path that stands in a text, without symbolic links, and what lies beneath it if it is an image.

    For a definition that cannot be read: which of them are disks is not known. Blocking.
    """
    for found in _PATH.findall(xml):
        path = unescape(found, {"&apos;": "'", "&quot;": '"'})
        if "\0" not in path:
            yield os.path.realpath(path)
            yield from backing_chain(path)


def backing_chain(path: str) -> Iterator[str]:
    """Paths of the images beneath this one, top down, as far as they are files of this host; each image's external data
    file comes before what lies beneath it. Blocking.
    """
    for _ in range(MOST_LAYERS):
        header = header_or_none(path)
        if header is None:
            return
        # What a guest writes into its data file is no header, so nothing is looked for beneath one.
        data = _path_of(header.data_file, Path(path).parent) if header.data_file else None
        if data is not None:
            yield os.path.realpath(data)
        beneath = _path_of(header.backing_file, Path(path).parent) if header.backing_file else None
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
