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
    ],
)
def test_the_row_that_names_most_counts(path: str, fate: Fate | None) -> None:
    """A literal name counts before a star, and both before the whole element."""
    row = Table(read_rows(ROWS)).find(path)
    assert (row.fate if row else None) == fate


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


def test_two_rows_for_one_path_are_refused() -> None:
    """A part has one fate."""
    with pytest.raises(TableError):
        Table(read_rows("vcpu abi number\nvcpu live number"))
