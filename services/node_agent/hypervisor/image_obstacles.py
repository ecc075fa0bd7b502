"""What the VM's own images say against moving it live: what a copy of their contents would lose. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from services.node_agent.hypervisor.interface import Obstacle, ObstacleCode
from services.node_agent.hypervisor.qcow2_header import Qcow2Header, header_or_none
from shared.domain import VmFacts


def told_by_images(facts: VmFacts, layers: Mapping[str, object]) -> Iterator[Obstacle]:
    """What the headers of the VM's QCOW2 images say; `layers` has the targets of disks under which libvirt knows more.

    Blocking: reads files. What cannot be read says nothing here.
    """
    for disk in facts.disks:
        header = header_or_none(disk.source) if disk.format == "qcow2" else None
        if header is not None:
            yield from _of_image(disk.target, header, has_layers=disk.target in layers)


def _of_image(target: str, header: Qcow2Header, *, has_layers: bool) -> Iterator[Obstacle]:
    if header.internal_snapshots:
        yield Obstacle(
            ObstacleCode.INTERNAL_SNAPSHOTS,
            f"disk {target} has {header.internal_snapshots} internal snapshots in its image, which a live copy leaves "
            "behind; list them with qemu-img snapshot -l -U, and delete them",
        )
    if header.bitmaps:
        yield Obstacle(
            ObstacleCode.DIRTY_BITMAPS,
            f"disk {target} has {header.bitmaps} dirty bitmaps in its image, which a backup program keeps; they do not "
            "move. List them with qemu-img info -U, and remove them; the next backup is then a full one",
        )
    if header.has_data_file:
        yield Obstacle(
            ObstacleCode.EXTERNAL_DATA_FILE,
            f"disk {target} has its contents in another file than its image (data_file); convert it with "
            "qemu-img convert while the VM is off",
        )
    if header.encryption == 1:
        yield Obstacle(
            ObstacleCode.DISK_ENCRYPTION,
            f"disk {target} has the old AES encryption of QCOW2, which is not carried; convert it while the VM is off",
        )
    if header.has_backing_file and not has_layers:
        yield Obstacle(
            ObstacleCode.UNKNOWN_BACKING_FILE,
            f"disk {target} lies on another image by its header, and on none by libvirt; "
            "make them agree with qemu-img rebase while the VM is off",
        )
