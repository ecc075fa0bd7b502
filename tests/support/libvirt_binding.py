"""Which tests need libvirt's Python binding, and what becomes of them where it is not installed.

The binding is compiled from libvirt's headers, so a laptop may be without it: these tests, and no others, are skipped
there with a printed reason. In CI a missing binding is an error. tests/checks/test_libvirt_tests.py keeps the list of
modules complete.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

MODULES = frozenset(
    {
        "tests/services/node_agent/hypervisor/test_libvirt_cards.py",
        "tests/services/node_agent/hypervisor/test_libvirt_connection.py",
        "tests/services/node_agent/hypervisor/test_libvirt_inventory.py",
        "tests/services/node_agent/hypervisor/test_cpu_questions.py",
        "tests/services/node_agent/hypervisor/test_host_reader.py",
        "tests/services/node_agent/hypervisor/test_libvirt_mapping.py",
        "tests/services/node_agent/hypervisor/test_libvirt_secrets.py",
        "tests/services/node_agent/hypervisor/test_obstacles.py",
        "tests/integration/test_asking_libvirt.py",
        "tests/contract/test_hypervisor.py",
        "tests/integration/test_start_hook.py",
        "tests/integration/test_two_hypervisors.py",
        "tests/services/node_agent/test_main.py",
    }
)
"""Test modules that import the binding, directly or through what they import."""

TESTS = (
    "tests/packaging/test_deploy_files.py::test_sample_settings_are_what_the_program_prints[node]",
    "tests/packaging/test_deploy_files.py::test_sample_settings_are_valid[node]",
    "tests/packaging/test_wheel.py::test_console_scripts_run_from_the_wheel[vmport-node-",
    "tests/packaging/test_wheel.py::test_each_role_needs_only_its_extra[vmport-node]",
)
"""Beginnings of the ids of tests that start a node agent as a process of its own."""

REASON = "needs libvirt-python, which is not installed: install libvirt's headers and run deploy/venv"


def is_missing() -> bool:
    """Whether the binding is absent. Raises `pytest.UsageError` if it is absent in CI."""
    if importlib.util.find_spec("libvirt") is not None:
        return False
    if os.environ.get("CI") == "true":
        raise pytest.UsageError("CI=true, but libvirt-python is not installed: no test may be skipped in CI")
    return True


class SkippedModule(pytest.Module):
    """A test module that is reported as skipped without being imported."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """Skip the module as a whole; pytest would not print its name by itself."""
        pytest.skip(f"{self.path.name} {REASON}", allow_module_level=True)
