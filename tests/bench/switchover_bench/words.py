"""What the players say: real messages, sealed once with placeholders for ids and times, so that a player only replaces
bytes. Sizes are those of a small real guest: a live domain XML of about 6 KiB, two certificates per node.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from shared.messages import Message, seal
from shared.messages.approval import DonorApproved
from shared.messages.lanes import LaneEndpoint
from shared.messages.nodes import CapacityReported, InventoryReported, OwnedVm
from shared.messages.porting import QuoteOffered, Reserved, ReservedDisk
from shared.messages.service_change import (
    BEST,
    PortLimits,
    PortProgressed,
    PortRequested,
    Quote,
    StreamProgress,
    TransferPhase,
)
from shared.messages.vm import (
    Disk,
    Firmware,
    HypervisorVersions,
    IdentityBundle,
    Nic,
    VmDescription,
    VmState,
    VmSummary,
)
from shared.parties import Party

PORT = UUID("00000000-0000-4000-8000-0000000000f1")
VM = UUID("00000000-0000-4000-8000-0000000000f2")
_ID = UUID("00000000-0000-4000-8000-0000000000f3")
_NOW = datetime(2001, 1, 1, 1, 1, 1, 111111, tzinfo=UTC)
_LATER = datetime(2001, 1, 2, 2, 2, 2, 222222, tzinfo=UTC)
MIB = 1 << 20


def _iso(at: datetime) -> bytes:
    """As the envelope writes it."""
    return at.isoformat().replace("+00:00", "Z").encode()


def _controller(index: int) -> str:
    return (
        f"<controller type='pci' index='{index}' model='pcie-root-port'><model name='pcie-root-port'/>"
        f"<target chassis='{index}' port='0x{15 + index:x}'/><alias name='pci.{index}'/>"
        f"<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x{index % 8}' multifunction='on'/>"
        "</controller>\n"
    )


XML = f"""<domain type='kvm' id='7'>
  <name>web</name>
  <uuid>11111111-2222-4333-8444-555555555501</uuid>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>EPYC-Rome</model><vendor>AMD</vendor></cpu>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/></clock>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/images/web-vda.qcow2' index='1'/><target dev='vda' bus='virtio'/></disk>
    {"".join(map(_controller, range(1, 15)))}
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br-alpha'/><model type='virtio'/>
    </interface>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>"""


def _pem(size: int) -> str:
    text = base64.b64encode(bytes(size)).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


_LANE = LaneEndpoint(certificate=_pem(440), authority=_pem(400))


class Phrase:
    """One sealed message of one party; `body` fills in the port, the VM and the time."""

    def __init__(self, sender: Party, message: Message) -> None:
        self._lifetime = type(message).LIFETIME
        envelope = seal(
            message,
            source=sender,
            message_id=_ID,
            now=_NOW,
            correlation_id=PORT,
            deadline=_LATER if self._lifetime is not None else None,
        )
        self.sender = sender
        self.kind = type(message)
        self.type = envelope.type
        self._raw = envelope.to_json()

    def body(self, port: UUID, vm: UUID, message_id: UUID, now: datetime) -> bytes:
        """The bytes on the wire."""
        raw = self._raw
        for placeholder, value in ((_ID, message_id), (PORT, port), (VM, vm)):
            raw = raw.replace(str(placeholder).encode(), str(value).encode())
        raw = raw.replace(_iso(_NOW), _iso(now))
        return raw if self._lifetime is None else raw.replace(_iso(_LATER), _iso(now + self._lifetime))


def port_requested(donor: str) -> PortRequested:
    """A tenant asks for the best recipient, at once."""
    return PortRequested(port_id=PORT, vm_uuid=VM, donor=donor, recipient=BEST, limits=PortLimits())


def approved(node: str) -> DonorApproved:
    """The donor lets the VM go."""
    vm = VmDescription(
        uuid=VM,
        name="web",
        state=VmState.RUNNING,
        memory_bytes=2 << 30,
        vcpus=2,
        architecture="x86_64",
        machine="pc-q35-10.0",
        cpu_model="EPYC-Rome",
        domain_type="kvm",
        firmware=Firmware.BIOS,
        disks=(Disk(target="vda", bus="virtio", format="qcow2", virtual_size_bytes=20 << 30, allocated_bytes=3 << 30),),
        nics=(Nic(mac="52:54:00:00:00:01", model="virtio", bridge="br-alpha"),),
        autostart=True,
        persistent=True,
    )
    identity = IdentityBundle(
        vm=vm,
        domain_xml=XML,
        domain_xml_sha256=hashlib.sha256(XML.encode()).hexdigest(),
        versions=HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0)),
        node=node,
        lane=_LANE,
    )
    return DonorApproved(port_id=PORT, identity=identity)


def offered(provider: str, price: str) -> QuoteOffered:
    """A recipient's offer."""
    quote = Quote(
        provider=provider,
        price_per_month=Decimal(price),
        currency="EUR",
        instance_type="small",
        promised_total_s=600.0,
        promised_downtime_ms=500,
        valid_until=datetime.now(UTC) + timedelta(days=1),
    )
    return QuoteOffered(port_id=PORT, quote=quote)


def reserved(node: str) -> Reserved:
    """A recipient holds the place."""
    disk = ReservedDisk(target="vda", path=f"/images/{VM}-vda.qcow2", format="qcow2", virtual_size_bytes=20 << 30)
    until = datetime.now(UTC) + timedelta(days=1)
    return Reserved(port_id=PORT, node=node, lane=_LANE, domain_xml=XML, disks=(disk,), reserved_until=until)


def progressed(percent: int) -> PortProgressed:
    """The donor's node reports a transfer."""
    part = StreamProgress(total_bytes=2048 * MIB, processed_bytes=percent * MIB, remaining_bytes=(2048 - percent) * MIB)
    return PortProgressed(
        port_id=PORT,
        phase=TransferPhase.MEMORY,
        percent=percent,
        memory=part,
        disk=part,
        rate_bytes_per_s=100_000_000,
        wire_bytes=percent * MIB,
        eta_s=12.0,
    )


def inventory(vms: list[tuple[UUID, str]], node: str) -> InventoryReported:
    """The donor's VMs, each with its tenant."""
    owned = tuple(
        OwnedVm(
            vm=VmSummary(
                uuid=uuid,
                name=f"vm-{uuid.hex[:8]}",
                state=VmState.RUNNING,
                memory_bytes=2 << 30,
                vcpus=2,
                disk_bytes=20 << 30,
                macs=("52:54:00:00:00:01",),
            ),
            tenant=tenant,
            node=node,
        )
        for uuid, tenant in vms
    )
    return InventoryReported(at=datetime.now(UTC), vms=owned)


def capacity() -> CapacityReported:
    """What a recipient can take."""
    now = datetime.now(UTC)
    return CapacityReported(at=now, nodes_healthy=10, nodes=10, memory_free_bytes=1 << 40, disk_free_bytes=1 << 44)


def sealed_now(sender: Party, message: Message) -> tuple[str, bytes]:
    """Type and bytes of a message that needs no template."""
    envelope = seal(message, source=sender, message_id=uuid4(), now=datetime.now(UTC))
    return envelope.type, envelope.to_json()
