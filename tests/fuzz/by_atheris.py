"""The engine atheris, in a process of its own: `python -m tests.fuzz.by_atheris TARGET [libFuzzer's options] CORPUS`.

Only the code under test is instrumented, so that coverage leads there and not through the harness.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import atheris

_UNDER_TEST: Final = (
    "services.node_agent.lanes",
    "services.node_agent.network.extension",
    "services.node_agent.page_codec",
    "shared.page_stream",
)


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=list(_UNDER_TEST)):
        target = importlib.import_module(f"tests.fuzz.{name}")
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
