"""Reads the regimes that ship, and those of the operator's own folder. Files only; what they mean is `shared.rules`."""

from __future__ import annotations

from pathlib import Path

from shared.rules.regime import Regime, RegimeError, check_together, parse

SHIPPED = Path(__file__).parent / "regimes"
LARGEST_BYTES = 1024 * 1024


def load(own: Path | None = None) -> tuple[Regime, ...]:
    """All regimes, by name; several files of one name are one regime. Raises `RegimeError` for the first bad file."""
    shipped = sorted(SHIPPED.glob("*.toml"))
    if not shipped:
        raise RegimeError(str(SHIPPED), "regime", "the files that ship are missing; install vmport again")
    files = shipped + (_own(own) if own is not None else [])
    read = [(str(file), read_file(file)) for file in files]
    check_together(read)
    joined: dict[str, Regime] = {}
    for _, regime in read:
        before = joined.get(regime.name)
        joined[regime.name] = regime if before is None else _with_rules_of(before, regime)
    return tuple(joined[name] for name in sorted(joined))


def _with_rules_of(regime: Regime, other: Regime) -> Regime:
    return Regime.model_validate({**dict(regime), "rules": (*regime.rules, *other.rules)})


def _own(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RegimeError(str(folder), "rules.regimes_dir", "there is no such folder")
    return sorted(folder.glob("*.toml"))


def read_file(file: Path) -> Regime:
    """One file. Raises `RegimeError`."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RegimeError(str(file), "regime", f"it cannot be read: {error}") from error
    if len(content) > LARGEST_BYTES:
        raise RegimeError(str(file), "regime", f"it has more than {LARGEST_BYTES} bytes")
    return parse(text, str(file))
