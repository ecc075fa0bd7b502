"""Where host-side parts lie."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.recipient_agent.places import file_stem
from services.recipient_agent.testing import make_places

PORT = UUID(int=7)


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("/boot-files/vmlinuz", True),
        ("/boot-files/sub/initrd", True),
        ("/boot-filesx/y", False),
        ("/boot-files/../etc/shadow", False),
        ("boot-files/x", False),
        ("/boot-files", False),
    ],
)
def test_boot_files(path: str, *, is_there: bool) -> None:
    """In a folder that the operator names, without a way out of it."""
    assert make_places().has_boot_file(path) is is_there


def test_each_device_has_a_log_of_its_own() -> None:
    """virtlogd refuses a second device with the file of the first."""
    places = make_places(console_log_dir="/logs")
    logs = {places.console_log("web 1", PORT, device) for device in ("serial 0", "serial 1", "console 0")}

    assert logs == {f"/logs/web_1-{PORT}-{device}.log" for device in ("serial-0", "serial-1", "console-0")}
    assert make_places().console_log("web", PORT, "serial 0") is None


def test_files_are_named_by_vm_and_port() -> None:
    """No character of a name gets out of the folder."""
    assert file_stem("../a/b c", PORT) == f"___a_b_c-{PORT}"
