"""Fixtures that every test may use, one of each per test session; and skipping where libvirt's binding is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from shared.parties import BROKER, donor, node, recipient, tenant
from shared.topology import urgent_queue
from tests.support import libvirt_binding
from tests.support.lane_credentials import Pair, make_pair
from tests.support.postgres_server import PostgresServer
from tests.support.rabbitmq_node import RabbitNode

WITHOUT_LIBVIRT = pytest.StashKey[bool]()

# A slow machine is no counterexample; what else is in force (CI derandomizes) stays.
settings.register_profile("vmport", parent=settings(), deadline=None)
settings.load_profile("vmport")

PARTIES = (
    BROKER,
    tenant("acme"),
    tenant("globex"),
    *(party for name in ("alpha", "beta") for party in (donor(name), recipient(name), node(name, f"{name}-1"))),
)


def pytest_configure(config: pytest.Config) -> None:
    """Remember whether libvirt's binding is missing; in CI that is an error."""
    config.stash[WITHOUT_LIBVIRT] = libvirt_binding.is_missing()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the modules that cannot be imported without libvirt's binding."""
    name = module_path.relative_to(parent.config.rootpath).as_posix()
    if parent.config.stash[WITHOUT_LIBVIRT] and name in libvirt_binding.MODULES:
        skipped: pytest.Module = libvirt_binding.SkippedModule.from_parent(parent, path=module_path)
        return skipped
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that start a node agent, which needs libvirt's binding."""
    if config.stash[WITHOUT_LIBVIRT]:
        for item in items:
            if item.nodeid.startswith(libvirt_binding.TESTS):
                item.add_marker(pytest.mark.skip(reason=libvirt_binding.REASON))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A test that sets up logging, as a service's start does, writes to a stream that is closed after it."""
    yield
    root = logging.getLogger()
    for handler in tuple(root.handlers):
        if isinstance(handler.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def rabbitmq_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """The node of this session; use `rabbitmq`."""
    server = RabbitNode(tmp_path_factory.mktemp("rabbitmq"), PARTIES)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def rabbitmq(rabbitmq_session: RabbitNode) -> RabbitNode:
    """A running node with empty queues, on which the parties of alpha, beta, acme and globex are set up."""
    connection = rabbitmq_session.connect()
    channel = connection.channel()
    for party in rabbitmq_session.parties:
        channel.queue_purge(f"vmport.inbox.{party}")
        channel.queue_purge(f"vmport.dead.{party}")
    channel.queue_purge(urgent_queue(BROKER))
    connection.close()
    return rabbitmq_session


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL cluster; `new_database` gives an empty database."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents that pin each other; made once, key generation is slow enough."""
    return make_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once per engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()
