"""The classified table of libvirt's domain definition: what happens to every element and attribute in a port.

`rows` is the grammar of a row and the search, `values` are the kinds of values; the rows themselves stand in one module
per area, and `AREAS` names them. Pure.
"""

from collections.abc import Mapping

from shared.domain.table import (
    addresses,
    boot,
    character_devices,
    cpu_and_clock,
    disks,
    displays,
    memory,
    namespaces,
    network_cards,
    other_devices,
    top_level,
)
from shared.domain.table.rows import Fate, Row, Table, TableError, read_rows
from shared.domain.table.values import KINDS, Kind

AREAS: Mapping[str, tuple[Row, ...]] = {
    "Name, life cycle and resources": read_rows(top_level.ROWS),
    "Memory": read_rows(memory.ROWS),
    "CPU, features and clock": read_rows(cpu_and_clock.ROWS),
    "Machine, firmware and boot": read_rows(boot.ROWS),
    "Disks and drives": read_rows(disks.ROWS),
    "Network cards": read_rows(network_cards.ROWS),
    "Controllers and addresses": read_rows(addresses.ROWS),
    "Serial ports, consoles and channels": read_rows(character_devices.ROWS),
    "Graphics, video, sound and input": read_rows(displays.ROWS),
    "Other devices": read_rows(other_devices.ROWS),
    "Options of one hypervisor": read_rows(namespaces.ROWS),
}
"""The rows of each area."""

TABLE = Table(row for rows in AREAS.values() for row in rows)
"""All of them."""

__all__ = ["AREAS", "KINDS", "TABLE", "Fate", "Kind", "Row", "Table", "TableError", "read_rows"]
