"""`vmport-node calibrate-energy` on a host of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.energy.model_file import ModelFile
from services.node_agent.energy_command import Means, main
from shared.exit_codes import ExitCode
from tests.services.node_agent.energy.test_rapl import zone

JOULES_PER_BYTE, WATTS, IDLE_WATTS = 4e-7, 6.0, 50.0


class Host:
    """Uses energy by the form, above its idle use; its counter is a file, and its time is its own."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.counter = zone(root, "intel-rapl:0", "package-0", 0, range_uj=10**15)
        self.used_uj, self.now_s = 0.0, 0.0
        self.means = Means(root, self.work, self.sleep, lambda: self.now_s)

    def use(self, joules: float, seconds: float) -> None:
        """Count it."""
        self.now_s += seconds
        self.used_uj += (joules + IDLE_WATTS * seconds) * 1e6
        self.counter.write_text(str(round(self.used_uj)))

    def sleep(self, seconds: float) -> None:
        """Idle."""
        self.use(0.0, seconds)

    def work(self, seconds: float, rate: float | None) -> int:
        """A round."""
        moved = int((rate or 100e6) * seconds)
        self.use(WATTS * seconds + JOULES_PER_BYTE * moved, seconds)
        return moved


def test_measured_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The coefficients of the host are found, and read by the agent from then on."""
    host, arguments = Host(tmp_path / "powercap"), ["--state-dir", str(tmp_path)]
    assert main([*arguments, "--dry-run"], host.means) == ExitCode.OK
    assert ModelFile(tmp_path, None).read() is None
    assert main(arguments, host.means) == ExitCode.OK
    model = ModelFile(tmp_path, None).read()
    assert model is not None
    assert model.measured_at is not None
    assert model.joules_per_byte == pytest.approx(JOULES_PER_BYTE, rel=1e-4)
    assert model.joules_per_s == pytest.approx(WATTS, rel=1e-4)
    assert "400.0 J per GB, 6.00 W; the worst round is 0% off" in capsys.readouterr().out


def test_without_counters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most virtual machines have none: said, and nothing is kept."""
    assert main(["--state-dir", str(tmp_path)], Means(root=tmp_path / "powercap")) == ExitCode.CRASHED
    assert "no energy counters" in capsys.readouterr().err
    assert ModelFile(tmp_path, None).read() is None


@pytest.mark.parametrize("seconds", ["0", "601", "soon"])
def test_wrong_options(tmp_path: Path, seconds: str) -> None:
    """A round takes a second to ten minutes."""
    with pytest.raises(SystemExit):
        main(["--state-dir", str(tmp_path), "--seconds", seconds])
