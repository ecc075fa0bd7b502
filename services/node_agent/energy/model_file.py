"""The energy model of this host: what calibration has measured, or else the operator's estimate, or nothing."""

from __future__ import annotations

from pathlib import Path

from services.node_agent.state.files import write_atomically
from shared.logs import get_logger
from shared.messages.costs import EnergyModel

log = get_logger(__name__)

NAME = "energy.json"


class ModelFile:
    """The file that calibration writes into the state directory; it is read again when it changes."""

    def __init__(self, state_dir: Path, estimate: EnergyModel | None) -> None:
        self.path = state_dir / NAME
        self._estimate = estimate
        self._stamp: tuple[int, int] | None = None
        self._measured: EnergyModel | None = None

    def write(self, model: EnergyModel) -> None:
        """Raises OSError."""
        write_atomically(self.path, model.model_dump_json(indent=2).encode() + b"\n", mode=0o644)

    def read(self) -> EnergyModel | None:
        """The measured model if there is one, else the estimate. A file that cannot be read counts as none."""
        try:
            status = self.path.stat()
            stamp = status.st_mtime_ns, status.st_size
            if stamp != self._stamp:
                # Remembered first: a damaged file is named once, not at every heartbeat.
                self._stamp, self._measured = stamp, None
                self._measured = EnergyModel.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            self._stamp, self._measured = None, None
        except (OSError, ValueError) as error:
            log.warning("energy model cannot be read; calibrate again", file=str(self.path), error=str(error))
        return self._measured or self._estimate
