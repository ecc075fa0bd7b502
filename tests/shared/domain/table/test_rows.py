"""The grammar of the table's rows, and the search for the row that counts."""

from __future__ import annotations

import pytest

from shared.domain.table import Fate, Table, TableError, read_rows

ROWS = """
# a comment
.@type                  abi      word
vcpu                    abi      number
vcpu@cpuset             host     cpus     the recipient chooses the CPUs
devices/*/alias/**      live     any
devices/disk/alias@name lasting  word
devices/hostdev/**      refused  -        a host device is passed through
devices/*/address@*     abi      hex
devices/disk@device     abi      =disk|cdrom
devices/disk@device=lun refused  any      a SCSI device of the host
devices/*/alias@name=ua-* lasting alias
backingStore            host     -        the contents come along
backingStore/source@file host    path     the contents come along
metadata/**             lasting  text
{http://a/b@1}line/**   refused  any      cannot be checked
"""


@pytest.mark.parametrize(
    ("path", "fate"),
    [
        (".@type", Fate.ABI),
        ("vcpu@cpuset", Fate.HOST),
        ("devices/disk/alias", Fate.LIVE),
        ("devices/disk/alias@name", Fate.LASTING),
        ("devices/interface/alias@name", Fate.LIVE),
        ("devices/hostdev/source/address@bus", Fate.REFUSED),
        ("devices/disk/address@slot", Fate.ABI),
        ("vcpu@else", None),
        ("cputune", None),
        ("backingStore/backingStore/backingStore/source@file", Fate.HOST),
        ("backingStore/backingStore/other", None),
        ("devices/devices/disk", None),
        ("metadata/{http://c/d}a/{http://c/d}b@{http://e@f}g", Fate.LASTING),
        ("{http://a/b@1}line/{http://a/b@1}arg@value", Fate.REFUSED),
        ("{http://a/b@1}other", None),
    ],
)
def test_the_row_that_names_most_counts(path: str, fate: Fate | None) -> None:
    """A literal name counts before a star, and both before the whole element."""
    row = Table(read_rows(ROWS)).find(path)
    assert (row.fate if row else None) == fate


@pytest.mark.parametrize(
    ("path", "value", "fate"),
    [
        ("devices/disk@device", "lun", Fate.REFUSED),
        ("devices/disk@device", "cdrom", Fate.ABI),
        ("devices/disk@device", "tape", Fate.ABI),
        ("devices/video/alias@name", "ua-card", Fate.LASTING),
        ("devices/video/alias@name", "video0", Fate.LIVE),
        ("devices/disk/alias@name", "ua-root", Fate.LASTING),
        ("vcpu", "2", Fate.ABI),
    ],
)
def test_a_row_of_a_value_counts_before_one_of_all(path: str, value: str, fate: Fate) -> None:
    """A value may have a fate of its own, and a reason of its own."""
    row = Table(read_rows(ROWS)).find(path, value)
    assert row is not None
    assert row.fate == fate


def test_the_search_is_fast_in_a_deep_document() -> None:
    """A hostile document that is as deep as parsers allow costs no more than its length."""
    table = Table(read_rows(ROWS))
    assert all(table.find("/".join(["a", "b"] * 128) + f"/c{i}@d") is None for i in range(1000))


@pytest.mark.parametrize(
    "line",
    [
        "vcpu abi",
        "vcpu kept number",
        "vcpu abi thing",
        "devices/disk/source@file abi path",
        "devices/disk/** abi -",
        "devices/disk@type abi -",
        "devices/hostdev/** refused -",
        "a//b abi -",
    ],
)
def test_a_row_that_is_none_is_refused(line: str) -> None:
    """A carried part is named one by one and holds no path; what is refused has a reason."""
    with pytest.raises(TableError):
        read_rows(line)


@pytest.mark.parametrize(
    "rows", ["vcpu abi number\nvcpu live number", "a@b=c|d live any\na@b=e|d abi =d", "a/** live any\na/** live any"]
)
def test_two_rows_for_one_part_are_refused(rows: str) -> None:
    """A part has one fate."""
    with pytest.raises(TableError, match="two rows"):
        Table(read_rows(rows))
