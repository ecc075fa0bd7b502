"""What the measurement runs on: a RabbitMQ node of its own, a ledger, and the real `vmport-broker`.

PostgreSQL commits durably here, as it does in service. Everything listens on loopback or a socket and is ended by pid.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Self

from shared.parties import BROKER
from tests.bench.switchover_bench.players import everybody
from tests.support.postgres_server import PostgresServer
from tests.support.rabbitmq_node import RabbitNode, free_port

START_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0
RABBITMQ_MEMORY = "4GB"
_PROGRAM = "import sys; from services.broker.main import main; sys.exit(main())"


class BrokerProcess:
    """One ``vmport-broker``; only what a sample of its settings leaves open is set."""

    def __init__(
        self, directory: Path, rabbit: RabbitNode, store_url: str, name: str, wrapper: tuple[str, ...]
    ) -> None:
        self.log = directory / f"{name}.log"
        self._telemetry = free_port()
        self._config = directory / f"{name}.toml"
        self._wrapper = wrapper
        url = rabbit.settings(BROKER).url.get_secret_value()
        self._config.write_text(
            f'[bus]\nurl = "{url}"\n[log]\nformat = "json"\nfile = "{self.log}"\n'
            f'[telemetry]\nport = {self._telemetry}\n[store]\nurl = "{store_url}"\n'
            "[limits]\nmax_active_ports_per_tenant = 100000\n"
            # A machine that is busy otherwise makes the ports slow; none is to end for it.
            "[timing]\napproval_s = 600\nquoting_s = 600\nreserving_s = 600\npreparing_s = 600\nstarting_s = 600\n"
        )
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._wrapper,
                sys.executable,
                "-c",
                _PROGRAM,
                "--config",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        give_up_s = time.monotonic() + START_WITHIN_S
        while not await asyncio.to_thread(self._is_ready):
            is_alive = self._process.returncode is None
            assert is_alive and time.monotonic() < give_up_s, self.log.read_text()[-3000:]  # noqa: PT018
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End it in order; by force when it does not end."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._telemetry}/readyz", timeout=2) as answer:
                return int(answer.status) == 200
        except OSError:
            return False


class Servers:
    """Use as ``async with Servers("sqlite", 1) as servers``; at the end nothing of it is left."""

    def __init__(self, ledger: str, brokers: int, *, wrapper: tuple[str, ...] = ()) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="vmport-switchover-"))
        self.rabbit = RabbitNode(self._directory / "rabbitmq", everybody(), memory=RABBITMQ_MEMORY)
        self.postgres = PostgresServer(durable=True) if ledger == "postgresql" else None
        self.brokers: list[BrokerProcess] = []
        self._count = brokers
        self._wrapper = wrapper

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.rabbit.start)
            url = f"sqlite:///{self._directory}/ledger.db"
            if self.postgres is not None:
                await asyncio.to_thread(self.postgres.start)
                url = self.postgres.new_database()
            for number in range(1, self._count + 1):
                broker = BrokerProcess(self._directory, self.rabbit, url, f"broker{number}", self._wrapper)
                self.brokers.append(broker)
                await broker.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._close()

    async def _close(self) -> None:
        for broker in self.brokers:
            await broker.stop()
        if self.postgres is not None:
            await asyncio.to_thread(self.postgres.close)
        await asyncio.to_thread(self.rabbit.close)
        shutil.rmtree(self._directory, ignore_errors=True)

    def processes(self) -> dict[str, list[int]]:
        """The process ids of each server, and of this process."""
        found = {
            "players": [os.getpid()],
            "rabbitmq": self.rabbit.pids(),
            "broker": [each.pid for each in self.brokers],
        }
        if self.postgres is not None:
            found["postgresql"] = self.postgres.pids()
        return found
