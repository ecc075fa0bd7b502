"""What an operator copies from deploy/: it names what exists, and samples say what the programs say."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("broker", "donor", "recipient", "node")
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
HARDENING = {
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "ProtectSystem": "strict",
    "ProtectKernelModules": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
}


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def read_unit(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys are case-sensitive
    unit.read_string(path.read_text())
    return unit


def commands_before(path: Path) -> list[str]:
    """What a unit runs before its program; configparser keeps only the last of several."""
    lines = path.read_text().splitlines()
    return [line.removeprefix("ExecStartPre=") for line in lines if line.startswith("ExecStartPre=")]


@pytest.mark.parametrize("role", ROLES)
def test_sample_settings_are_what_the_program_prints(role: str) -> None:
    """deploy/config/ROLE.toml equals --print-config; deploy/config/render writes it anew."""
    assert (ROOT / f"deploy/config/{role}.toml").read_text() == printed(program(f"vmport-{role}"), "--print-config")


@pytest.mark.parametrize("role", ROLES)
def test_sample_settings_are_valid(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample is accepted as it stands, where the files and directories that it names exist."""
    monkeypatch.setenv("VMPORT_STORE__URL", f"sqlite:///{tmp_path}/state.db")
    monkeypatch.setenv("VMPORT_DONOR__POLICY_FILE", str(ROOT / "deploy/config/donor-policy.toml"))
    monkeypatch.setenv("VMPORT_NODE__STATE_DIR", str(tmp_path))
    monkeypatch.setenv("VMPORT_NODE__IMAGE_DIR", str(tmp_path))
    said = printed(program(f"vmport-{role}"), "--config", str(ROOT / f"deploy/config/{role}.toml"), "--check-config")

    assert "is valid" in said


def test_sample_settings_of_the_command_line() -> None:
    """The tenant's sample too."""
    text = (ROOT / "deploy/config/vmport.toml").read_text()

    assert text == printed(program("vmport"), "--print-config")
    assert "bus" in tomllib.loads(text)


def test_a_unit_per_service() -> None:
    """Each of the four services has its unit."""
    assert [unit.stem for unit in UNITS] == sorted(f"vmport-{role}" for role in ROLES)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_run_what_is_installed(path: Path) -> None:
    """A unit starts its console script, checks its settings first, and does not restart on a wrong configuration."""
    service = read_unit(path)["Service"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    executable, *arguments = service["ExecStart"].split()

    assert Path(executable).name == path.stem
    assert Path(executable).name in scripts
    assert arguments == ["--config", f"/etc/vmport/{path.stem.removeprefix('vmport-')}.toml"]
    install_hook = "+/opt/vmport/bin/vmport-node install-hook --config /etc/vmport/node.toml"
    more = [install_hook] if path.stem == "vmport-node" else []
    assert commands_before(path) == [service["ExecStart"] + " --check-config", *more]
    assert service["RestartPreventExitStatus"] == "78"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_hardened(path: Path) -> None:
    """No unit can write outside its own folders or gain rights; only the node agent is root."""
    service = read_unit(path)["Service"]

    assert HARDENING.items() <= dict(service).items()
    if path.stem == "vmport-node":
        assert service["User"] == "root"
        assert "CAP_SYS_ADMIN" not in service["CapabilityBoundingSet"]
    else:
        assert service["DynamicUser"] == "yes"
        assert service["CapabilityBoundingSet"] == ""
