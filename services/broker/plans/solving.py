"""Has plans solved by a process of its own, with a time limit: a solver that does not end must not hold up a broker on
whose answer a guest may wait.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from pydantic import ValidationError

from services.broker.placement.task import Solved, Task
from shared.logs import get_logger
from shared.messages.catalogue import Catalogue
from shared.messages.demand import Demand
from shared.parties import Name

log = get_logger(__name__)

TIME_LIMIT_S = 60.0
"""For the search itself; after it the best plan that was found is taken."""
GRACE_S = 30.0
"""Until the process is ended by force."""
WORKER = "services.broker.plans.worker"


class Solver(Protocol):
    """Finds a plan."""

    async def solve(self, demand: Demand, catalogues: Mapping[Name, Catalogue], at: Mapping[UUID, Name]) -> Solved:
        """A plan, or why there is none; ``at`` says where VMs run now. Raises nothing."""
        ...


class ProcessSolver:
    """Starts one worker process per plan."""

    def __init__(self, *, time_limit_s: float = TIME_LIMIT_S, grace_s: float = GRACE_S, worker: str = WORKER) -> None:
        self._time_limit_s = time_limit_s
        self._grace_s = grace_s
        self._worker = worker

    async def solve(self, demand: Demand, catalogues: Mapping[Name, Catalogue], at: Mapping[UUID, Name]) -> Solved:
        """As `Solver` has it."""
        task = Task(demand=demand, catalogues=dict(catalogues), at=dict(at), time_limit_s=self._time_limit_s)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._worker,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._time_limit_s + self._grace_s):
                out, err = await process.communicate(task.model_dump_json().encode())
        except TimeoutError:
            return Solved(failure=f"no plan was found within {self._time_limit_s:g} s; give fewer scenarios or classes")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            return Solved.model_validate_json(out)
        except ValidationError as error:
            last = err.decode(errors="replace").strip().rpartition("\n")[2]
            log.exception("plan not solved", code=process.returncode, reason=last, error=str(error))
            return Solved(failure=f"the solver ended with code {process.returncode}: {last or 'it said nothing'}")
