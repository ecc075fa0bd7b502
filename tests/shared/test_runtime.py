"""The shell of a service process: command line, exit codes, signals, readiness."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import ClassVar

import aiohttp
import pytest
from pydantic import Field

from shared.config import ConfigError, Problem, Section, ServiceSettings
from shared.exit_codes import ExitCode
from shared.parties import Role
from shared.runtime import Action, Runtime, run_service, version
from tests.support.rabbitmq_node import free_port

URL = "amqp://donor.alpha:x@127.0.0.1:1/v"


class Toy(Section):
    """A section of its own."""

    size: int = Field(default=3, description="How many.")


class ToySettings(ServiceSettings):
    ROLES: ClassVar = frozenset({Role.DONOR})
    toy: Toy = Field(default=Toy())


async def never(_: Runtime[ToySettings]) -> None:
    raise AssertionError("was not to be started")


def broken(_: ToySettings | None) -> str:
    raise ConfigError((Problem("policy.toml", "accounts", "is empty"),))


ACTIONS: list[Action[ToySettings]] = [
    Action("--say-hello", "print a greeting", lambda _: "hello"),
    Action("--say-size", "print the size", lambda settings: f"{settings and settings.toy.size}", needs_settings=True),
    Action("--break", "fail", broken, needs_settings=True),
]


def run(*argv: str) -> int:
    return run_service("vmport-toy", ToySettings, never, about="A toy.", actions=ACTIONS, argv=argv)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VMPORT_CONFIG", "VMPORT_BUS__URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "toy.toml"
    path.write_text(f'[bus]\nurl = "{URL}"\n[toy]\nsize = 9\n')
    return str(path)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Name and release."""
    with pytest.raises(SystemExit) as ended:
        run("--version")
    assert ended.value.code == ExitCode.OK
    assert capsys.readouterr().out == f"vmport-toy {version()}\n"


def test_help_explains_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, with their meaning."""
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    for code in ExitCode:
        assert f"{code:>3}  {code.meaning}" in text


def test_wrong_option_is_a_usage_error() -> None:
    """Abbreviations are none of ours."""
    with pytest.raises(SystemExit) as ended:
        run("--check")
    assert ended.value.code == ExitCode.USAGE


def test_check_config(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A valid configuration is said to be valid, and whose it is."""
    assert run("--config", config, "--check-config") == ExitCode.OK
    assert "valid; it speaks as donor.alpha" in capsys.readouterr().out


def test_bad_config_is_explained(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 78; the text names file and key."""
    Path(config).write_text("[toy]\nsize = 'x'\n")
    assert run("--config", config) == ExitCode.CONFIG
    text = capsys.readouterr().err
    assert f"{config}: toy.size: " in text
    assert f"{config}: bus: is required" in text


def test_missing_password_file_is_a_configuration_error(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Found at the start, not at the first connect."""
    Path(config).write_text('[bus]\nurl = "amqp://donor.alpha@h/v"\npassword_file = "/no/such/file"\n')
    assert run("--config", config, "--check-config") == ExitCode.CONFIG
    assert "bus.password_file: /no/such/file cannot be read" in capsys.readouterr().err


def test_config_can_come_from_the_environment(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """VMPORT_CONFIG names the file, VMPORT_… single settings."""
    monkeypatch.setenv("VMPORT_CONFIG", config)
    monkeypatch.setenv("VMPORT_TOY__SIZE", "11")
    assert run("--say-size") == ExitCode.OK
    assert capsys.readouterr().out == "11\n"


def test_print_config_needs_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    """The sample is what a first user asks for."""
    assert run("--print-config") == ExitCode.OK
    assert "# size = 3" in capsys.readouterr().out


def test_actions(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a service can do instead of serving; with settings only where it needs them."""
    assert run("--say-hello") == ExitCode.OK
    assert run("--config", config, "--say-size") == ExitCode.OK
    assert capsys.readouterr().out == "hello\n9\n"
    assert run("--config", config, "--break") == ExitCode.CONFIG
    assert "policy.toml: accounts: is empty" in capsys.readouterr().err


SCRIPT = """
import asyncio, gc, sys
from shared.config import ConfigError, Problem, ServiceSettings
from shared.runtime import run_service

async def works(runtime):
    try:
        runtime.running()
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

async def crashes(runtime):
    raise ZeroDivisionError("oh")

async def ends(runtime):
    runtime.running()

async def settled(runtime):
    runtime.running()
    print(gc.get_freeze_count() > 10_000, flush=True)

async def misconfigured(runtime):
    raise ConfigError((Problem("policy.toml", "x", "is wrong"),))

async def stuck(runtime):
    runtime.running()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

sys.exit(run_service("vmport-toy", ServiceSettings, globals()[sys.argv[1]], about="A toy.", argv=[]))
"""


class Started:
    """A real process of the toy service."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.log = ""

    async def until_logged(self, text: str) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while text not in self.log:
                line = await self.process.stderr.readline()
                assert line, f"ended without {text!r}:\n{self.log}"
                self.log += line.decode()

    async def ended(self) -> tuple[int, str, str]:
        try:
            async with asyncio.timeout(20):
                out, err = await self.process.communicate()
        except TimeoutError:
            self.process.kill()
            raise
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), self.log + err.decode()


async def start(tmp_path: Path, serve: str, **environment: str) -> Started:
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        serve,
        env={"VMPORT_BUS__URL": URL, "VMPORT_TELEMETRY__PORT": str(port), "PATH": "/usr/bin:/bin", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return Started(process, port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, after the service cleaned up; readiness had named the missing bus meanwhile."""
    started = await start(tmp_path, "works")
    await started.until_logged("running")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{started.port}/readyz") as response,
    ):
        body = json.loads(await response.text())
    assert response.status == 503
    assert body["checks"]["service"] == {"ok": True}
    assert "publish: " in body["checks"]["bus"]["reason"]
    started.process.send_signal(number)
    code, out, log = await started.ended()
    assert (code, out) == (ExitCode.OK, "cleaned up\n")
    assert "stopped" in log


async def test_crash_is_a_crash(tmp_path: Path) -> None:
    """Exit code 1, with the traceback in the log."""
    code, _, log = await (await start(tmp_path, "crashes")).ended()
    assert code == ExitCode.CRASHED
    assert "ZeroDivisionError: oh" in log


async def test_service_that_ends_by_itself_is_done(tmp_path: Path) -> None:
    """Exit code 0."""
    assert (await (await start(tmp_path, "ends")).ended())[0] == ExitCode.OK


async def test_what_is_loaded_at_the_start_is_not_looked_at_again(tmp_path: Path) -> None:
    """The garbage collector would stop all work for it, again and again."""
    started = await start(tmp_path, "settled")
    code, out, _ = await started.ended()
    assert (code, out) == (ExitCode.OK, "True\n")


async def test_configuration_found_wrong_later(tmp_path: Path) -> None:
    """A service may find a mistake in a file of its own; that is exit code 78, too, without a traceback."""
    code, _, log = await (await start(tmp_path, "misconfigured")).ended()
    assert code == ExitCode.CONFIG
    assert "policy.toml: x: is wrong" in log
    assert "Traceback" not in log


async def test_service_that_does_not_stop_is_dropped(tmp_path: Path) -> None:
    """After the bound the process ends all the same, and says so."""
    started = await start(tmp_path, "stuck", VMPORT_STOP_WITHIN_S="0.3")
    await started.until_logged("running")
    started.process.terminate()
    code, _, log = await started.ended()
    assert code == ExitCode.CRASHED
    assert "did not stop in time" in log


async def test_taken_telemetry_port_is_a_configuration_error(tmp_path: Path) -> None:
    """Said before anything is done."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        taken = str(server.sockets[0].getsockname()[1])
        code, _, log = await (await start(tmp_path, "works", VMPORT_TELEMETRY__PORT=taken)).ended()
    assert code == ExitCode.CONFIG
    assert "[telemetry]" in log
