"""``vmport-broker check-rules``: whether files of rules can be used, alone and beside the regimes that ship."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.broker.rules import regime_files
from shared.exit_codes import ExitCode
from shared.rules.regime import Regime, RegimeError, check_together

ABOUT = "Check files of rules: syntax, keys, values, and that no two rules of one id are in force on the same day."


def main(argv: Sequence[str]) -> int:
    """Check each file; returns the exit code. What is wrong is written to standard error: file, key, reason."""
    parser = argparse.ArgumentParser(prog="vmport-broker check-rules", description=ABOUT, allow_abbrev=False)
    parser.add_argument("file", nargs="+", type=Path, metavar="FILE", help="a regime (TOML)")
    parser.add_argument("--alone", action="store_true", help="do not look at the regimes that ship")
    options = parser.parse_args(argv)
    shipped = [] if options.alone else sorted(regime_files.SHIPPED.glob("*.toml"))
    read: list[tuple[str, Regime]] = [(str(file), regime_files.read_file(file)) for file in shipped]
    failed = False
    for file in options.file:
        try:
            regime = regime_files.read_file(file)
            check_together([*read, (str(file), regime)])
        except RegimeError as error:
            sys.stderr.write(f"{error}\n")
            failed = True
        else:
            read.append((str(file), regime))
            enforced = sum(rule.enforced for rule in regime.rules)
            sys.stdout.write(f"{file}: {regime.name}: {len(regime.rules)} rules, {enforced} enforced\n")
    return ExitCode.CONFIG if failed else ExitCode.OK
