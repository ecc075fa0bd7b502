"""The console script `vmport`: imports the command line, then runs it.

What is imported is no garbage, yet the collector would look through it dozens of times: a fifth of the time from the
shell to the first message.
"""

from __future__ import annotations

import gc


def main() -> int:
    """Run the command line on this process's arguments; its exit code."""
    gc.disable()
    try:
        from shared.client import cli  # noqa: PLC0415  # with the collector off
    finally:
        gc.freeze()
        gc.enable()
    return cli.main()
