"""The telemetry endpoint of a process: ``/metrics``, ``/healthz``, ``/readyz``. Also measures the event loop's lag.

* ``/metrics``: Prometheus text, or OpenMetrics where the scraper asks for it.
* ``/healthz``: 200 as long as the event loop runs. A process that does not answer is stuck and has to be restarted.
* ``/readyz``: 200 when every named check holds, else 503; JSON with the reason of each check that does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from shared.config import TelemetrySettings
from shared.errors import VmportError
from shared.metrics import Metrics

Check = Callable[[], Awaitable[str | None]]
"""Returns None if all is well, else the reason why it is not."""

CHECK_TIMEOUT_S = 2.0
LAG_INTERVAL_S = 1.0


class TelemetryFailed(VmportError):
    """The telemetry endpoint cannot listen."""

    code = "telemetry_failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Results of the checks: reasons by name, None where all is well."""

    reasons: dict[str, str | None]

    @property
    def ready(self) -> bool:
        """Whether every check holds."""
        return all(reason is None for reason in self.reasons.values())

    def as_json(self) -> dict[str, object]:
        """The body of ``/readyz``."""
        checks = {
            name: {"ok": reason is None, **({"reason": reason} if reason else {})}
            for name, reason in self.reasons.items()
        }
        return {"ready": self.ready, "checks": checks}


class Health:
    """The named checks of a process, and its state: starting, running or stopping."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._state = "starting"

    def add(self, name: str, check: Check) -> None:
        """Add a check; one of the same name is replaced."""
        self._checks[name] = check

    def running(self) -> None:
        """Set the state to running: the service is set up."""
        self._state = "running"

    def stopping(self) -> None:
        """Set the state to stopping: the service takes no new work."""
        self._state = "stopping"

    async def verdict(self) -> Verdict:
        """Run all checks at the same time; one that fails or hangs is a reason, too."""
        names = list(self._checks)
        answers = await asyncio.gather(*(self._ask(self._checks[name]) for name in names))
        state = None if self._state == "running" else f"the service is {self._state}"
        return Verdict({"service": state, **dict(zip(names, answers, strict=True))})

    @staticmethod
    async def _ask(check: Check) -> str | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001  # a check that breaks is a reason, whatever broke it
            return f"{type(error).__name__}: {error}"


class TelemetryServer:
    """Serves one process's telemetry; an async context."""

    def __init__(self, settings: TelemetrySettings, metrics: Metrics, health: Health) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._runner: web.AppRunner | None = None
        self._lag: asyncio.Task[None] | None = None
        self._started = time.monotonic()

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 while it does not listen."""
        if self._runner is None or not self._runner.addresses:
            return 0
        return int(self._runner.addresses[0][1])

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_readiness)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._settings.host, self._settings.port).start()
        except OSError as error:
            await runner.cleanup()
            where = f"{self._settings.host}:{self._settings.port}"
            raise TelemetryFailed(
                f"cannot listen on {where}: {error.strerror}; set [telemetry] host and port to a free address"
            ) from error
        self._runner = runner
        self._lag = asyncio.get_running_loop().create_task(self._watch_lag(), name="telemetry: loop lag")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lag is not None:
            self._lag.cancel()
            await asyncio.gather(self._lag, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _watch_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_INTERVAL_S)
            self._metrics.event_loop_lag_seconds.set(max(0.0, time.monotonic() - before - LAG_INTERVAL_S))

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": content_type})

    async def _serve_health(self, _: web.Request) -> web.Response:
        return web.json_response({"ok": True, "uptime_s": round(time.monotonic() - self._started, 3)})

    async def _serve_readiness(self, _: web.Request) -> web.Response:
        verdict = await self._health.verdict()
        return web.json_response(verdict.as_json(), status=200 if verdict.ready else 503)
