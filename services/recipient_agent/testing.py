"""Values for tests of the recipient agent: a VM in order, a node that can take it, terms that allow it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import GIB, MIB, NodeView, Overcommit, Quota
from services.recipient_agent.network_map import NetworkMap
from services.recipient_agent.network_terms import ExtensionTerms
from services.recipient_agent.places import NodePlaces
from services.recipient_agent.pricing import InstanceType
from services.recipient_agent.quote import Promise
from shared.domain import DomainXmlError, describe, portable
from shared.messages.nodes import NodeHeartbeat
from shared.messages.porting import Reserved, ServiceChangeAgreement
from shared.messages.service_change import PortLimits, Quote
from shared.messages.vm import (
    Firmware,
    HostCapacity,
    HostPlatform,
    HypervisorVersions,
    IdentityBundle,
    VmDescription,
    VmState,
    VmSummary,
)
from shared.testing import make_lane_endpoint

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VM_UUID = UUID("0d5c3e6a-8a53-4a55-9a0e-5b6f2f3d7c11")
MAC = "52:54:00:00:00:01"
VERSIONS = HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0))
XML = f"""<domain type='qemu' id='3'>
  <name>web-1</name><uuid>{VM_UUID}</uuid><memory unit='MiB'>512</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <emulator>/opt/donor/qemu</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/donor/a.raw'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='{MAC}'/><source bridge='br-donor'/><model type='virtio'/></interface>
    <serial type='pty'><log file='/donor/log/web-1.log' append='on'/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>"""


def make_vm(**changes: Any) -> VmDescription:
    """The VM of `XML`."""
    return describe_as_donor(XML).model_copy(update=changes)


def describe_as_donor(xml: str) -> VmDescription:
    """What a donor tells of a VM; each disk of 1 GiB."""
    facts = describe(xml)
    return facts.told(
        state=VmState.RUNNING,
        disks=tuple(
            disk.told(virtual_size_bytes=GIB, allocated_bytes=256 * MIB, file_bytes=GIB) if disk.source else disk.told()
            for disk in facts.drives
        ),
        autostart=True,
        persistent=True,
    )


def make_identity(xml: str = XML, *, portable_form: bool = True, **changes: Any) -> IdentityBundle:
    """The identity bundle of a VM whose live XML is ``xml``; ``changes`` are to its description.

    Without ``portable_form`` the XML is sent as it stands, as no honest donor does.
    """
    try:
        vm = describe_as_donor(xml)
    except DomainXmlError:
        vm = make_vm()
    sent = portable(xml) if portable_form else xml
    return IdentityBundle(
        vm=vm.model_copy(update=changes),
        domain_xml=sent,
        domain_xml_sha256=sha256(sent.encode()).hexdigest(),
        lasting_xml=sent if vm.persistent else None,
        versions=VERSIONS,
        node="alpha-1",
        lane=make_lane_endpoint(),
    )


def make_platform(**changes: Any) -> HostPlatform:
    """A host that can run the VM."""
    platform = HostPlatform(
        architecture="x86_64",
        versions=VERSIONS,
        accelerators=("qemu",),
        machines=("pc-q35-10.0", "pc-q35-9.2"),
        cpu_models=("EPYC", "qemu64"),
        firmwares=(Firmware.BIOS, Firmware.DIRECT_KERNEL),
        bridges=("vmbr0",),
        disk_formats=("raw", "qcow2"),
    )
    return platform.model_copy(update=changes)


def make_capacity(**changes: Any) -> HostCapacity:
    """Four CPUs, 8 GiB, 100 GiB."""
    capacity = HostCapacity(
        vcpus=4, memory_bytes=8 * GIB, memory_free_bytes=7 * GIB, disk_bytes=100 * GIB, disk_free_bytes=90 * GIB
    )
    return capacity.model_copy(update=changes)


def make_summary(**changes: Any) -> VmSummary:
    """A VM that is here already, and that collides with nothing."""
    summary = VmSummary(
        uuid=UUID(int=99),
        name="other",
        state=VmState.RUNNING,
        memory_bytes=GIB,
        vcpus=2,
        disk_bytes=10 * GIB,
        macs=("52:54:00:00:00:99",),
    )
    return summary.model_copy(update=changes)


def make_heartbeat(**changes: Any) -> NodeHeartbeat:
    """What a healthy, empty node says."""
    heartbeat = NodeHeartbeat(
        at=NOW,
        healthy=True,
        agent_version="0",
        platform=make_platform(),
        capacity=make_capacity(),
        lane=make_lane_endpoint(),
        vms=(),
    )
    return heartbeat.model_copy(update=changes)


def make_node(name: str = "beta-1", **changes: Any) -> NodeView:
    """A node, as last heard."""
    facts: dict[str, Any] = {
        "heard_at": NOW,
        "said_at": NOW,
        "problems": (),
        "platform": make_platform(),
        "capacity": make_capacity(),
        "lane": make_lane_endpoint(),
        "vms": (),
    }
    return NodeView(name, **{**facts, **changes})


def make_places(**changes: Any) -> NodePlaces:
    """Where things lie on the node."""
    facts: dict[str, Any] = {
        "image_dir": "/images",
        "emulator": "/usr/bin/qemu-system-x86_64",
        "uefi_loader": None,
        "nvram_dir": "/nvram",
        "boot_dirs": ("/boot-files",),
        "console_log_dir": None,
        "bridges": NetworkMap({"br-donor": "vmbr0"}),
    }
    return NodePlaces(**{**facts, **changes})


SMALL = InstanceType(name="small", vcpus=1, memory_mib=1024, disk_gib=20, price_per_month=Decimal("6.90"))
LARGE = InstanceType(name="large", vcpus=8, memory_mib=32_768, disk_gib=500, price_per_month=Decimal("139.00"))


def make_terms(**changes: Any) -> Terms:
    """Terms under which the VM can come."""
    facts: dict[str, Any] = {
        "overcommit": Overcommit(),
        "quota_total": Quota(),
        "quota_per_tenant": Quota(),
        "instance_types": (SMALL, LARGE),
        "promise": Promise(),
        "places": make_places(),
        "places_of": {},
        "node_silent_after_s": 30.0,
        "extension": ExtensionTerms(),
    }
    return Terms(**{**facts, **changes})


def make_agreement(reserved: Reserved, quote: Quote, now: datetime = NOW, **changes: Any) -> ServiceChangeAgreement:
    """The agreement that a broker makes of a reservation."""
    facts: dict[str, Any] = {
        "port_id": reserved.port_id,
        "tenant": "acme",
        "vm_uuid": VM_UUID,
        "vm_name": "web-1",
        "donor": "alpha",
        "donor_node": "alpha-1",
        "recipient": "beta",
        "recipient_node": reserved.node,
        "epoch": 2,
        "window_start": now,
        "deadline": now + timedelta(hours=1),
        "promised_total_s": quote.promised_total_s,
        "promised_downtime_ms": quote.promised_downtime_ms,
        "price_per_month": quote.price_per_month,
        "currency": quote.currency,
        "limits": PortLimits(),
        "donor_lane": make_lane_endpoint(),
        "recipient_lane": reserved.lane,
        "domain_xml": reserved.domain_xml,
        "domain_xml_sha256": sha256(reserved.domain_xml.encode()).hexdigest(),
        "disks": reserved.disks,
        "network": reserved.network,
        "fixed_at": now,
    }
    return ServiceChangeAgreement(**{**facts, **changes})
