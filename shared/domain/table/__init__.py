"""The classified table of libvirt's domain definition: what happens to every element and attribute in a port.

`rows` is the grammar of a row and the search, `values` are the kinds of values; the rows themselves stand in one module
per area. Pure.
"""

from shared.domain.table.rows import Fate, Row, Table, TableError, read_rows
from shared.domain.table.values import KINDS, Kind

__all__ = ["KINDS", "Fate", "Kind", "Row", "Table", "TableError", "read_rows"]
