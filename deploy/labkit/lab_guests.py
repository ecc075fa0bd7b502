"""`LabGuests`: the guests of a lab. They are built, started, found, asked and removed here."""

from pathlib import Path
from typing import Any

from deploy.labkit import guest_images, guests, services, switches
from deploy.labkit.errors import LabError
from deploy.labkit.guest_images import GuestImage
from deploy.labkit.guests import GuestPlace, GuestSpec
from deploy.labkit.lab_base import LabBase, need_root
from deploy.labkit.state import GuestRecord

UEFI_TAKES = 3
"""How much longer than BIOS it takes to boot by UEFI under software emulation."""


class LabGuests(LabBase):
    """What `Lab` does with guests."""

    def guest_build(self, *, debian: bool = False) -> GuestImage:
        """Build the tiny guest's image, or the Debian one; nothing to do if it is built."""
        need_root()
        return guest_images.build(self.plan, guest_images.DEBIAN if debian else guest_images.TINY)

    def guest_start(self, spec: GuestSpec, *, ready_s: float | None = 180.0) -> GuestRecord:
        """Define and boot a guest, and wait until it answers (`ready_s` None: do not wait). Raises `LabError`."""
        need_root()
        with self._locked():
            self._need_host(spec.provider)
            if spec.vlan is not None:
                self._ensure_switches()
            record = guests.start(self.plan, self._state, spec)
            self._state.guests[spec.name] = record
            self._save()
            services.write_guest_lists(self.plan, self._state)
        if ready_s is not None:
            if spec.firmware is not None:
                ready_s *= UEFI_TAKES
            guests.wait_until_ready(self.plan, record, timeout_s=ready_s)
        return record

    def _ensure_switches(self) -> None:
        """An Open vSwitch bridge at every provider: a guest with a VLAN may go to any of them."""
        for provider in self.plan.providers:
            database = switches.start_database(self.plan, self._state, provider)
            self._record(switches.process_name(switches.DATABASE, provider), database)
            daemon = switches.start_daemon(self.plan, self._state, provider)
            self._record(switches.process_name(switches.DAEMON, provider), daemon)
            switches.ensure_ports(self.plan, self._state, provider)

    def guest_stop(self, name: str) -> None:
        """Pull the guest's plug; its definition stays where it is."""
        guests.stop(self.plan, self.guest(name))

    def guest_remove(self, name: str) -> None:
        """Stop the guest, undefine it and delete its disks, wherever it is."""
        with self._locked():
            guests.remove(self.plan, self.guest(name))
            del self._state.guests[name]
            self._save()
            services.write_guest_lists(self.plan, self._state)

    def guest(self, name: str) -> GuestRecord:
        """What is recorded of a guest. Raises `LabError` for an unknown name."""
        try:
            return self._state.guests[name]
        except KeyError:
            raise LabError(
                f"lab {self.plan.name} has no guest {name!r}; it has {', '.join(self._state.guests) or 'none'}"
            ) from None

    @property
    def guests(self) -> dict[str, GuestRecord]:
        """Every guest that was started and not removed, by name."""
        return dict(self._state.guests)

    def host_path(self, provider: str, path: str) -> Path:
        """Where a path of a provider's host is for this process."""
        for source, target in self.plan.binds(provider).items():
            if Path(path).is_relative_to(target):
                return source / Path(path).relative_to(target)
        return Path(path)

    def guest_list(self) -> list[tuple[GuestRecord, list[GuestPlace]]]:
        """Every guest with the providers that know it."""
        return [(record, guests.places(self.plan, record)) for record in self._state.guests.values()]

    def guest_place(self, name: str) -> GuestPlace:
        """The one provider where the guest runs. Raises `LabError` if it runs nowhere, or at more than one."""
        found = guests.places(self.plan, self.guest(name))
        running = [place for place in found if place.state not in {"shut off", "crashed"}]
        if len(running) != 1:
            shown = ", ".join(f"{place.provider}: {place.state}" for place in found) or "defined nowhere"
            raise LabError(f"guest {name} runs at {len(running)} providers, not at one ({shown})")
        return running[0]

    def guest_report(self, name: str, command: str = "report", *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Ask guestd in the guest: `report`, `disk-sha256`, `pause-disk`, `resume-disk`, `freeze`, `thaw`;
        `efi-read NAME`, `efi-write NAME HEX`, `tpm HEX`, `sha256 DEVICE MIB` or `fill DEVICE MIB`.

        Raises `LabError` if the guest refuses or does not answer.
        """
        record = self.guest(name)
        try:
            return guests.ask(self.plan, record, command, timeout_s=timeout_s)
        except OSError as error:
            raise LabError(f"guest {name} does not answer at {record.address}: {error}") from error

    def guest_console(self, name: str) -> str:
        """The end of the guest's console output."""
        return guests.console(self.plan, self.guest(name))

    def guest_console_ask(self, name: str, command: str = "report") -> dict[str, Any]:
        """Ask guestd on the guest's serial console. Raises `LabError` if nothing comes back."""
        return guests.ask_console(self.plan, self.guest(name), command)
