"""Background tasks, and waiting for several at once."""

from __future__ import annotations

import asyncio

import pytest

from shared.tasks import Tasks, first_of, run_together


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


async def forever(ended: asyncio.Event) -> None:
    """Run until cancelled, and say then that it has ended."""
    try:
        await asyncio.Event().wait()
    finally:
        ended.set()


async def test_first_of_says_which_was_first() -> None:
    """The others have ended by then."""
    ended = asyncio.Event()
    assert await first_of(forever(ended), asyncio.sleep(0)) == 1
    assert ended.is_set()


async def test_first_of_several_at_once_is_the_lowest() -> None:
    """The order of the arguments decides, so a caller may say what counts more."""
    event = asyncio.Event()
    event.set()
    assert await first_of(event.wait(), event.wait()) == 0


async def test_first_of_leaves_a_future_as_it_is() -> None:
    """It belongs to somebody else: neither cancelled when it loses, nor its error raised when it wins."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert await first_of(future, asyncio.sleep(0)) == 1
    assert not future.done()
    future.set_exception(OSError("no"))
    assert await first_of(asyncio.Event().wait(), future) == 1
    assert isinstance(future.exception(), OSError)


async def test_first_of_raises_the_error_of_the_winner() -> None:
    """And ends the others all the same."""
    ended = asyncio.Event()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await first_of(forever(ended), fail())
    assert ended.is_set()


async def test_first_of_raises_what_fails_while_it_is_cancelled() -> None:
    """An error in somebody's clean-up is not lost."""

    async def fails_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("clean-up")

    with pytest.raises(OSError, match="clean-up"):
        await first_of(fails_at_the_end(), asyncio.sleep(0))


async def test_first_of_ends_its_own_when_it_is_cancelled() -> None:
    """Nothing runs on without its caller; a future stays."""
    ended, future = asyncio.Event(), asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(first_of(forever(ended), future))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
    assert not future.done()
