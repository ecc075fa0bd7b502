"""Tasks that are neither lost nor silent, and waiting for several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from shared.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)


class Tasks:
    """Background work of one owner: kept alive, its errors logged at once and raised again when the owner closes.

    Use asyncio.TaskGroup where the body waits for its tasks (`run_together` where their errors do not end the caller);
    this where tasks come and go during a long life.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errors: list[BaseException] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start work; its error reaches the log at once."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)
            log.error("task failed", task=task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Cancel what still runs and wait for it; idempotent. Raises ExceptionGroup of the tasks' errors."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        errors, self._errors = self._errors, []
        if errors:
            raise BaseExceptionGroup(f"{self._owner}: background work failed", errors)


async def first_of(*works: Coroutine[Any, Any, object] | asyncio.Future[Any]) -> int:
    """Wait until one of these is done; return its position, the lowest where several are.

    A coroutine belongs to the race: when it is over, or when the caller is cancelled, those that still run are
    cancelled and waited for, and an error of any of them is raised. A future or task belongs to somebody else and is
    left as it is; ask it for its result.
    """
    futures = [asyncio.ensure_future(work) for work in works]
    own = [future for future, work in zip(futures, works, strict=True) if future is not work]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        first = next(position for position, future in enumerate(futures) if future.done())
    finally:
        for future in own:
            future.cancel()
        await asyncio.gather(*own, return_exceptions=True)
    for future in own:
        if future is futures[first] or not future.cancelled():
            future.result()
    return first


async def run_together(*works: Coroutine[Any, Any, object]) -> None:
    """Run these side by side until all have returned or one fails, which cancels the others. Raises ExceptionGroup.

    For loops that go on after an error. TaskGroup, before Python 3.13, forgets that its own task was cancelled when a
    child fails in the same moment (github.com/python/cpython/issues/116720), and the loop would never end.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if errors := [result for result in results if isinstance(result, Exception)]:
        raise ExceptionGroup("background tasks failed", errors)


def first_error(error: Exception) -> Exception:
    """The first error inside a TaskGroup's group, or the error itself: what to tell when one is enough."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
