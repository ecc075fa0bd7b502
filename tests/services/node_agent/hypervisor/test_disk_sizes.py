"""Disks are counted with what they hold, whatever they lie on; what nobody knows is not taken for nothing."""

from __future__ import annotations

from pathlib import Path

from services.node_agent.hypervisor.disk_sizes import disk_places, size_bytes

XML = """<domain type='kvm'><devices>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda'/></disk>
<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='fast' volume='v1'/>
<target dev='vdb'/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'>
<host name='mon.example'/></source><target dev='vdc'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}.gone'/>
<target dev='vdd'/></disk>
</devices></domain>"""


def test_each_kind_of_disk_has_its_size(tmp_path: Path) -> None:
    """A file by itself, a volume by its pool; a network disk and a missing image are unknown; a drive is empty."""
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(4096))
    pools = {("fast", "v1"): 1 << 30}
    places = list(disk_places(XML.format(image=image)))
    sizes = {place.target: size_bytes(place, lambda pool, volume: pools.get((pool, volume))) for place in places}
    assert sizes == {"vda": 4096, "vdb": 1 << 30, "vdc": None, "vdd": None}
    assert [place.name for place in places if place.kind == "network"] == ["pool/image"]
