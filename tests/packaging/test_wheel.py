"""The built wheel: what is in it, and that it runs away from the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, str] = PROJECT["scripts"]
EXTRA_OF = {
    "vmport": "cli",
    "vmport-broker": "broker",
    "vmport-donor": "agent",
    "vmport-recipient": "agent",
    "vmport-node": "node",
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, by the installed build back-end: nothing is fetched."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [built] = target.glob("vmport-*.whl")
    return built


def test_wheel_holds_our_packages_only(wheel: Path) -> None:
    """Nothing of tests, deploy or caches is installed; types and migrations are."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"services", "shared", "vmport"}
    assert "shared/py.typed" in names
    assert "services/py.typed" in names
    assert "vmport/py.typed" in names
    assert any(name.startswith("services/broker/migrations/versions/") for name in names)
    assert "services/broker/rules/regimes/eu-data-act.toml" in names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


def test_no_other_distribution_owns_our_names() -> None:
    """services and shared are generic names: in an environment of ours all three are vmport's alone."""
    owners = metadata.packages_distributions()

    for package in ("services", "shared", "vmport"):
        assert set(owners.get(package, [])) <= {"vmport"}


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_console_scripts_run_from_the_wheel(wheel: Path, tmp_path: Path, script: str, option: str) -> None:
    """Every program starts in an empty directory with only the wheel's own code on the path."""
    module, _, function = SCRIPTS[script].partition(":")
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); sys.argv[:] = [{script!r}, {option!r}]\n"
        f"import {module} as program\n"
        f"assert program.__file__.startswith({str(wheel)!r}), program.__file__\n"
        f"sys.exit(program.{function}())"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VMPORT_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert script in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_package_for_users_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Its names are there without the command line's or any service's packages."""
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); sys.modules.update(dict.fromkeys(['rich', 'typer']))\n"
        "import vmport\n"
        f"assert vmport.__file__.startswith({str(wheel)!r}), vmport.__file__\n"
        "assert all(getattr(vmport, name) for name in vmport.__all__)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VMPORT_", "PYTHON"))}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def distributions(requirements: list[str]) -> set[str]:
    """The names in a list of requirements, in the form that compares; vmport's own extras count as what they bring."""
    found: set[str] = set()
    for requirement in requirements:
        if own := re.match(r"vmport\[([\w,-]+)\]", requirement):
            for extra in own[1].split(","):
                found |= distributions(PROJECT["optional-dependencies"][extra])
        elif name := re.match(r"[\w-]+", requirement):
            found.add(name[0].lower().replace("_", "-"))
    return found


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_each_role_needs_only_its_extra(script: str) -> None:
    """A broker starts without libvirt, a node without a database: what other roles' extras bring is not imported."""
    extras = {name: distributions(PROJECT["optional-dependencies"][name]) for name in set(EXTRA_OF.values())}
    own = distributions(PROJECT["dependencies"]) | extras[EXTRA_OF[script]]
    foreign = set().union(*extras.values()) - own
    owners = metadata.packages_distributions()
    blocked = [name for name, by in owners.items() if any(owner.lower().replace("_", "-") in foreign for owner in by)]
    module, _, function = SCRIPTS[script].partition(":")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.argv[:] = [{script!r}, '--version']\n"
        f"import {module} as program\nsys.exit(program.{function}())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)

    assert blocked
    assert done.returncode == 0, done.stderr
