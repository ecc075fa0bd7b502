"""docs/ is whole and true: links lead somewhere, and names of settings, metrics, messages and symbols exist.

The site's own strict build (`zensical build --strict`) checks the links of docs/ once more, as tests/run's own step.
"""

from __future__ import annotations

import ast
import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, text

from services.broker import registry
from services.broker.migrate import migrate
from services.broker.tables import conflicts, epochs, vms
from shared.messages.base import MESSAGE_TYPES
from shared.parties import BROKER
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_samples import inventory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.glob("**/*.md")])
SITE = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
CODE = "\n".join(
    path.read_text() for package in ("services", "shared") for path in sorted((ROOT / package).glob("**/*.py"))
)
OPERATIONS = (DOCS / "operations.md").read_text()
SETTLED = UUID("fd5f84d2-0000-4000-8000-000000000001")
"""The VM that operations.md takes as its example."""


def id_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and the site's generator make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def pages_of(nav: object) -> list[str]:
    """The files in the site's navigation."""
    match nav:
        case str():
            return [nav]
        case list():
            return [page for item in nav for page in pages_of(item)]
        case dict():
            return [page for item in nav.values() for page in pages_of(item)]
    raise TypeError(nav)


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there and, after #, a heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


def test_all_pages_are_in_the_navigation() -> None:
    """No page of docs/ is forgotten, and none is named that is not there."""
    assert sorted(pages_of(SITE["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.glob("**/*.md"))


def test_site_loads_nothing_from_elsewhere() -> None:
    """No fonts of other hosts: a reader of the site is not told on."""
    assert SITE["theme"]["font"] is False


def test_settings_that_are_named_exist() -> None:
    """Each `[section] key` of a page stands so in a sample of deploy/config."""
    known: set[tuple[str, str]] = set()
    for sample in (ROOT / "deploy/config").glob("*.toml"):
        section = ""
        for line in sample.read_text().splitlines():
            if found := re.match(r"(?:# )?\[(\w+)\]$", line):
                section = found[1]
            elif found := re.match(r"(?:# )?(\w+) = ", line):
                known.add((section, found[1]))
    named = {pair for page in PAGES for pair in re.findall(r"`\[(\w+)\] (\w+)", page.read_text())}

    assert len(named) > 10
    assert named - known == set()


def test_metrics_that_are_named_exist() -> None:
    """Each vmport_… of a page is a metric of the code."""
    named = {name for page in PAGES for name in re.findall(r"`(vmport_[a-z_]+[a-z])`", page.read_text())}

    assert len(named) >= 3
    assert {name for name in named if f'"{name}"' not in CODE} == set()


def test_messages_that_are_named_exist() -> None:
    """Each message in the protocols' table is one of the vocabulary."""
    names = {kind.__name__ for kind in MESSAGE_TYPES.values()}
    table = [line for line in (DOCS / "protocols.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    named = {name for line in table for name in re.findall(r"`([A-Z]\w+)`", line)}

    assert len(named) > 20
    assert named - names == set()


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_symbols_are_in_the_files_that_are_named(page: Path) -> None:
    """Where a page says "`name` in `file.py`", the file has that name."""
    pairs = re.findall(r"`(\w+)`\s+in\s+`([\w./-]+\.py)`", page.read_text())

    assert [pair for pair in pairs if not re.search(rf"\b{pair[0]}\b", (ROOT / pair[1]).read_text())] == []


def test_python_examples_are_python() -> None:
    """The guide's example compiles; what it imports is tested with the client."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", (DOCS / "tenant-guide.md").read_text(), re.MULTILINE)
    examples = [block for block in blocks if "import asyncio" in block]

    assert len(examples) == 1
    ast.parse("\n".join(line.removeprefix("    ") for line in examples[0].splitlines()))


async def test_sql_that_settles_an_owner(tmp_path: Path) -> None:
    """The statements of operations.md turn a conflict into a new epoch of the provider that has the VM."""
    find, settle = sorted(re.findall(r"```sql\n(.+?)```", OPERATIONS, re.DOTALL), key=len)
    clock = ManualClock(datetime(2026, 7, 1, tzinfo=UTC))
    later = timedelta(minutes=1)
    async with Store(f"sqlite:///{tmp_path}/ledger.db", BROKER, clock=clock) as store:
        await migrate(store)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), SETTLED))
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "beta", inventory(clock() + later, SETTLED, provider="beta")) == 1
        async with store.reading() as connection:
            assert [row.claimed_by for row in await connection.execute(text(find))] == ["beta"]
        statements = [part.strip() for part in settle.split(";") if part.strip() not in {"", "BEGIN", "COMMIT"}]
        async with store.transaction() as tx:
            for statement in statements:
                await tx.execute(text(statement))
        async with store.reading() as connection:
            log = list(await connection.execute(select(epochs.c.epoch, epochs.c.owner).order_by(epochs.c.epoch)))
            row = (await connection.execute(select(vms.c.provider, vms.c.epoch).where(vms.c.uuid == SETTLED))).one()
            assert list(await connection.execute(select(conflicts))) == []

    assert [tuple(each) for each in log] == [(1, "alpha"), (101, "beta")]
    assert tuple(row) == ("beta", 101)
