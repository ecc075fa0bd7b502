"""Values for tests of the donor agent: a VM in order, its node's heartbeat, an agreement about it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

from shared.messages.nodes import NodeHeartbeat
from shared.messages.porting import ReservedDisk, ServiceChangeAgreement
from shared.messages.service_change import PortLimits
from shared.messages.vm import (
    Disk,
    Firmware,
    HostCapacity,
    HostPlatform,
    HypervisorVersions,
    IdentityBundle,
    Nic,
    VmDescription,
    VmState,
    VmSummary,
)
from shared.testing import make_lane_endpoint

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VM = UUID("0d5c3e6a-8a53-4a55-9a0e-5b6f2f3d7c11")
PORT = UUID(int=7)
SUMMARY = VmSummary(uuid=VM, name="web-1", state=VmState.RUNNING, memory_bytes=1 << 29, vcpus=1, disk_bytes=1 << 28)
VERSIONS = HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0))
XML = f"""<domain type='qemu' id='3'>
  <name>web-1</name><uuid>{VM}</uuid><memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/images/a.raw'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='vmbr0'/>
      <model type='virtio'/></interface>
  </devices>
</domain>"""
DESCRIPTION = VmDescription(
    uuid=VM,
    name="web-1",
    state=VmState.RUNNING,
    memory_bytes=1 << 29,
    vcpus=1,
    architecture="x86_64",
    machine="pc-q35-10.0",
    cpu_model="qemu64",
    domain_type="qemu",
    firmware=Firmware.BIOS,
    disks=(Disk(target="vda", bus="virtio", format="raw", virtual_size_bytes=1 << 28, allocated_bytes=1 << 20),),
    nics=(Nic(mac="52:54:00:00:00:01", model="virtio", bridge="vmbr0"),),
    autostart=True,
    persistent=True,
)


def make_heartbeat(at: datetime = NOW, **changes: Any) -> NodeHeartbeat:
    """What a healthy node that runs the VM says."""
    heartbeat = NodeHeartbeat(
        at=at,
        healthy=True,
        agent_version="0",
        platform=HostPlatform(
            architecture="x86_64",
            versions=VERSIONS,
            accelerators=("qemu",),
            machines=("pc-q35-10.0",),
            cpu_models=("qemu64",),
            firmwares=(Firmware.BIOS,),
            bridges=("vmbr0",),
            disk_formats=("raw",),
        ),
        capacity=HostCapacity(vcpus=4, memory_bytes=1, memory_free_bytes=1, disk_bytes=1, disk_free_bytes=1),
        lane=make_lane_endpoint(),
        vms=(SUMMARY,),
    )
    return heartbeat.model_copy(update=changes)


def make_identity() -> IdentityBundle:
    """The bundle that was approved."""
    return IdentityBundle(
        vm=DESCRIPTION,
        domain_xml=XML,
        domain_xml_sha256=sha256(XML.encode()).hexdigest(),
        versions=VERSIONS,
        node="alpha-1",
        lane=make_lane_endpoint(),
    )


def make_agreement(**changes: Any) -> ServiceChangeAgreement:
    """An agreement about exactly what was approved."""
    xml = changes.pop("domain_xml", XML.replace("/images/a.raw", "/elsewhere/b.raw"))
    facts: dict[str, Any] = {
        "port_id": PORT,
        "tenant": "acme",
        "vm_uuid": VM,
        "vm_name": "web-1",
        "donor": "alpha",
        "donor_node": "alpha-1",
        "recipient": "beta",
        "recipient_node": "beta-1",
        "epoch": 2,
        "window_start": NOW,
        "deadline": NOW + timedelta(hours=1),
        "promised_total_s": 60,
        "promised_downtime_ms": 800,
        "price_per_month": Decimal("6.90"),
        "currency": "EUR",
        "limits": PortLimits(),
        "donor_lane": make_lane_endpoint(),
        "recipient_lane": make_lane_endpoint(),
        "domain_xml": xml,
        "domain_xml_sha256": sha256(xml.encode()).hexdigest(),
        "disks": (ReservedDisk(target="vda", path="/elsewhere/b.raw", format="raw", virtual_size_bytes=1 << 28),),
        "fixed_at": NOW,
    }
    return ServiceChangeAgreement(**{**facts, **changes})
