"""Background tasks and bounded retry."""

from __future__ import annotations

import asyncio

import pytest

from shared.tasks import Tasks, retry, run_together


async def test_owner_hears_of_an_error_when_it_closes() -> None:
    """An error of background work is not lost."""

    async def fail() -> None:
        raise OSError("no")

    tasks = Tasks("owner")
    await asyncio.wait({tasks.spawn(fail(), name="failing")})
    with pytest.raises(BaseExceptionGroup) as caught:
        await tasks.close()
    assert caught.group_contains(OSError, match="no")
    await tasks.close()


async def test_close_ends_what_still_runs() -> None:
    """Nothing survives its owner, and cancellation is no error."""
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Tasks("owner") as tasks:
        tasks.spawn(forever(), name="waiting")
        await asyncio.sleep(0)
        assert len(tasks) == 1
    assert ended.is_set()
    assert len(tasks) == 0


async def test_spawned_work_can_be_awaited() -> None:
    """Its result is the task's."""

    async def work() -> int:
        return 7

    async with Tasks("owner") as tasks:
        assert await tasks.spawn(work(), name="work") == 7


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: type[Exception] = OSError) -> None:
        self.failures = failures
        self.calls = 0
        self.error = error
        self.pauses: list[float] = []

    async def work(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"failure {self.calls}")
        return "done"

    async def sleep(self, delay_s: float) -> None:
        self.pauses.append(delay_s)


async def test_retry_until_it_works() -> None:
    """With a pause before each new attempt."""
    flaky = Flaky(2)
    assert await retry(flaky.work, on=(OSError,), attempts=5, sleep=flaky.sleep) == "done"
    assert (flaky.calls, len(flaky.pauses)) == (3, 2)


async def test_retry_gives_up_with_the_last_error() -> None:
    """After the given number of attempts, and no pause after the last."""
    flaky = Flaky(9)
    with pytest.raises(OSError, match="failure 3"):
        await retry(flaky.work, on=(OSError,), attempts=3, sleep=flaky.sleep)
    assert len(flaky.pauses) == 2


async def test_retry_raises_other_errors_at_once() -> None:
    """Only what was named is tried again."""
    flaky = Flaky(9, KeyError)
    with pytest.raises(KeyError):
        await retry(flaky.work, on=(OSError,), attempts=3, sleep=flaky.sleep)
    assert flaky.calls == 1


async def test_works_that_run_together_end_together() -> None:
    """When all have returned; or when one fails, and the others are cancelled by then."""
    ended: list[str] = []

    async def work(name: str, turns: int, error: Exception | None = None) -> None:
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if error is not None:
                raise error
        finally:
            ended.append(name)

    await run_together(work("a", 3), work("b", 1))
    assert ended == ["b", "a"]
    with pytest.raises(ExceptionGroup) as caught:
        await run_together(work("long", 1000), work("bad", 2, OSError("no")))
    assert caught.group_contains(OSError, match="no")
    assert ended == ["b", "a", "bad", "long"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancel_that_comes_with_an_error_is_not_lost(turns: int) -> None:
    """Whoever goes on after the error of what ran together, has to hear of its own end."""
    fail = asyncio.Event()

    async def fails() -> None:
        await fail.wait()
        raise OSError("no")

    async def goes_on() -> None:
        try:
            await run_together(fails(), asyncio.Event().wait())
        except* OSError:
            pass
        await asyncio.Event().wait()

    going = asyncio.ensure_future(goes_on())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    fail.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    going.cancel()
    ended, _ = await asyncio.wait({going}, timeout=10)
    assert ended
    assert going.cancelled()
