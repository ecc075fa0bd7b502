"""The names of the package for users."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vmport
import vmport.client
import vmport.errors


def test_every_name_is_there() -> None:
    """What the package lists can be used, and it lists what its modules have."""
    for name in vmport.__all__:
        assert getattr(vmport, name)
        assert name in dir(vmport)
    assert set(vmport.__all__) == {*vmport.client.__all__, *vmport.errors.__all__, "__version__", "connect"}


def test_unknown_name() -> None:
    """A typing error is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = vmport.Clint  # type: ignore[attr-defined]  # the point of the test


def test_import_takes_no_time() -> None:
    """Importing vmport imports neither the models nor RabbitMQ's client library, a second between them."""
    code = (
        "import sys, vmport\n"
        "print([name for name in ('pydantic', 'structlog', 'aio_pika', 'prometheus_client', 'rich', 'shared')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
