"""Measures the outage of a port from the donor's host: asks the guest by ARP over the guest's own bridge.

From when memory flows until the guest answers from the recipient's host, which it can do only where the providers have
joined the guest's network; where they have not, where its address is never heard, or where a raw socket is not allowed,
there is no figure. The guest's first card on a bridge stands for it. What frames mean and what an outage is, is
`outage_meter`'s. A measurement never fails a port and holds its end up by a second at most.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from services.node_agent.switchover.outage_meter import FRAME_BYTES, OutageMeter, neighbours, parse_mac, socket_filter
from shared.domain import DomainSource, NicFacts, describe
from shared.logs import get_logger
from shared.tasks import Tasks

log = get_logger(__name__)

FINISH_WITHIN_S = 1.0
"""How long the end of a port waits for the guest's answers from the recipient."""
LISTEN_S = 15.0
"""How long the bridge passes all frames up, when the guest's address is not known: at the start, and once more."""
LEARN_EVERY_S = 0.2
"""How often a candidate for the guest's address is tried before memory flows."""

_FRAMES_AT_ONCE = 64
_LATEST_S = 10.0
"""A kernel's time of arrival that lies further back is a clock that was set, not a late reader."""

# Of <linux/if_packet.h>, <linux/if_ether.h> and <asm/socket.h>; Python does not name them.
_SOL_PACKET, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _PROMISCUOUS = 263, 1, 2, 1
_MEMBERSHIP = struct.Struct("@iHH8s")
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_FILTER = struct.Struct("@HP")
_INSTRUCTION_BYTES = 8
_TIMESPEC = struct.Struct("@qq")


class OutageWatch(Protocol):
    """What an outbound transfer calls, in this order, and what it gets at the end."""

    def open(self, domain_xml: DomainSource) -> None:
        """The VM, running here, is about to leave. Learns its address meanwhile."""
        ...

    def memory_flows(self) -> None:
        """The switchover may come at any moment; idempotent."""
        ...

    async def finish(self, paused_at_s: float | None) -> int | None:
        """Milliseconds of outage once the guest has left; None where they were not measured."""
        ...

    async def close(self) -> None:
        """End, whatever became of the port; idempotent."""
        ...


class NoProbe:
    """Measures nothing: the settings say so."""

    def open(self, domain_xml: DomainSource) -> None:
        """Nothing to do."""

    def memory_flows(self) -> None:
        """Nothing to do."""

    async def finish(self, paused_at_s: float | None) -> int | None:  # noqa: ARG002  # OutageWatch
        """Not measured."""
        return None

    async def close(self) -> None:
        """Nothing to do."""


class BridgeSocket:
    """A raw packet socket on a bridge that hears one guest only. Needs CAP_NET_RAW; every call may raise `OSError`."""

    def __init__(self, bridge: str, guest: bytes) -> None:
        self._guest = guest
        self._index = socket.if_nametoindex(bridge)
        self._promiscuous = False
        # Bound after the filter is there, so that no other frame ever waits in it.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._attach(only_arp=False)
            self._socket.bind((bridge, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def source(self) -> bytes:
        """The bridge's MAC address now; a bridge may change it when a port leaves."""
        address: bytes = self._socket.getsockname()[4]
        return address

    def send(self, frame: bytes) -> None:
        """Send a frame; one that finds no room is one that is not answered."""
        try:
            self._socket.send(frame)
        except BlockingIOError:
            return

    def receive(self) -> tuple[bytes, float] | None:
        """A frame and how many seconds ago it came; None if none waits."""
        try:
            frame, extras, _, _ = self._socket.recvmsg(FRAME_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
        except BlockingIOError:
            return None
        for level, kind, data in extras:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                age_s = (time.time_ns() - seconds * 10**9 - nanoseconds) / 1e9
                return frame, age_s if 0 <= age_s <= _LATEST_S else 0.0
        return frame, 0.0

    def listen_to_all(self, *, wanted: bool) -> None:
        """Let the bridge pass up what the guest sends to others, too; costs a busy bridge something."""
        if wanted != self._promiscuous:
            self._promiscuous = wanted
            request = _MEMBERSHIP.pack(self._index, _PROMISCUOUS, 0, b"")
            self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP if wanted else _DROP_MEMBERSHIP, request)

    def hear_arp_only(self) -> None:
        """From now on; where the host is the guest's router, all its traffic comes by."""
        self._attach(only_arp=True)

    def close(self) -> None:
        """Close it; the kernel forgets its wishes."""
        self._socket.close()

    def _attach(self, *, only_arp: bool) -> None:
        program = socket_filter(self._guest, only_arp=only_arp)
        buffer = ctypes.create_string_buffer(program, len(program))
        pointer = _FILTER.pack(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


class ArpProbe:
    """The outage of one port; use as `OutageWatch` says."""

    def __init__(
        self,
        *,
        interval_s: float,
        open_socket: Callable[[str, bytes], BridgeSocket] = BridgeSocket,
        neighbour_table: Path = Path("/proc/self/net/arp"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._open_socket = open_socket
        self._neighbour_table = neighbour_table
        self._clock = clock
        self._flowing = asyncio.Event()
        self._heard = asyncio.Event()
        self._tasks = Tasks("outage probe")
        self._socket: BridgeSocket | None = None
        self._meter: OutageMeter | None = None
        self._narrowed = False

    def open(self, domain_xml: DomainSource) -> None:
        """Begin to listen. What cannot be is logged."""
        nic = next((nic for nic in describe(domain_xml).nics if nic.bridge is not None), None)
        if nic is None or nic.bridge is None:
            log.info("outage probe off", reason="no network card on a bridge")
            return
        guest = parse_mac(nic.mac)
        try:
            self._socket = self._open_socket(nic.bridge, guest)
        except OSError as error:
            log.warning("outage probe off: no raw socket", bridge=nic.bridge, error=str(error))
            return
        self._meter = OutageMeter(guest)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_readable, self._socket, self._meter)
        self._tasks.spawn(self._run(self._socket, self._meter, nic), name=nic.bridge)

    def memory_flows(self) -> None:
        """Probe from now on."""
        self._flowing.set()

    async def finish(self, paused_at_s: float | None) -> int | None:
        """Wait for steady answers, `FINISH_WITHIN_S` at most."""
        meter = self._meter
        if meter is None:
            return None
        if meter.address is None or paused_at_s is None:
            log.info("outage unknown", address_known=meter.address is not None, paused_at_s=paused_at_s)
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_WITHIN_S):
                while self._socket is not None and not meter.steady(paused_at_s):
                    self._heard.clear()
                    await self._heard.wait()
        outage_s = meter.outage_s(paused_at_s)
        if outage_s is None:
            log.info("outage unknown: no reply from the recipient", address=str(meter.address))
            return None
        return round(1000 * outage_s)

    async def close(self) -> None:
        """Give the socket back."""
        await self._tasks.close()
        self._hang_up()

    def _hang_up(self) -> None:
        self._heard.set()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # ---- sending ----

    async def _run(self, bridge: BridgeSocket, meter: OutageMeter, nic: NicFacts) -> None:
        try:
            await self._learn(bridge, meter, nic)
            await self._watch(bridge, meter, nic)
        except OSError as error:
            log.warning("outage probe stopped", error=str(error))
            self._hang_up()
        except Exception:  # a defect here must not cost the port
            log.exception("outage probe broke; this is a defect")
            self._hang_up()

    async def _learn(self, bridge: BridgeSocket, meter: OutageMeter, nic: NicFacts) -> None:
        """Find out the guest's address until memory flows."""
        listen_until_s = self._look_around(bridge, meter, nic)
        while not self._flowing.is_set():
            if meter.address is None:
                bridge.listen_to_all(wanted=self._clock() < listen_until_s)
                self._probe(bridge, meter)
            try:
                async with asyncio.timeout(LEARN_EVERY_S if meter.address is None else None):
                    await self._flowing.wait()
            except TimeoutError:
                continue

    async def _watch(self, bridge: BridgeSocket, meter: OutageMeter, nic: NicFacts) -> None:
        """Probe at the interval, until cancelled."""
        listen_until_s = self._look_around(bridge, meter, nic)
        due_s = self._clock()
        while True:
            if meter.address is None:
                bridge.listen_to_all(wanted=self._clock() < listen_until_s)
            self._probe(bridge, meter)
            # A late probe is not made up for: two at once tell no more than one.
            now_s = self._clock()
            due_s = due_s + self._interval_s if due_s + self._interval_s > now_s else now_s + self._interval_s
            await asyncio.sleep(due_s - now_s)

    def _look_around(self, bridge: BridgeSocket, meter: OutageMeter, nic: NicFacts) -> float:
        """Ask the kernel, and listen to everything for a while; returns until when."""
        if meter.address is None:
            for address in self._known_neighbours(nic):
                meter.learn(address)
            bridge.listen_to_all(wanted=True)
        return self._clock() + LISTEN_S

    def _known_neighbours(self, nic: NicFacts) -> tuple[IPv4Address, ...]:
        return neighbours(self._neighbour_table.read_text(encoding="ascii"), nic.mac, nic.bridge or "")

    def _probe(self, bridge: BridgeSocket, meter: OutageMeter) -> None:
        frame = meter.next_probe(bridge.source())
        if frame is not None:
            # Noted before it is sent: the reply can be there before `send` is back.
            meter.sent(self._clock())
            bridge.send(frame)

    # ---- receiving ----

    def _on_readable(self, bridge: BridgeSocket, meter: OutageMeter) -> None:
        try:
            for _ in range(_FRAMES_AT_ONCE):
                received = bridge.receive()
                if received is None:
                    break
                frame, age_s = received
                meter.received(frame, self._clock() - age_s)
                self._heard.set()
            if meter.address is not None and not self._narrowed:
                self._narrowed = True
                bridge.listen_to_all(wanted=False)
                bridge.hear_arp_only()
                log.info("guest address found", address=str(meter.address))
        except OSError as error:
            log.warning("outage probe stopped", error=str(error))
            self._hang_up()
