"""LoopThread and LoopGroup: event loops in threads of their own, where handlers run.

A loop thread takes jobs through its inbox and gives them back through its outbox; both are mailboxes, so a batch costs
one wake-up in each direction. Its life is explicit: jobs are accepted from `start` until `stop`, never by a loop that
would let them lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from time import monotonic, sleep
from typing import Any, Literal

from qbridge.errors import BridgeStateError, ConfigError
from qbridge.execution import CancelReason, Executor, Job, WorkerThreads
from qbridge.mailbox import Mailbox
from qbridge.stacks import Sight, look

__all__ = ["LoopGroup", "LoopImplementation", "LoopThread", "new_loop"]

log = logging.getLogger(__name__)

LoopImplementation = Literal["auto", "asyncio", "uvloop"]

#: Seconds between two heartbeats of a loop thread.
HEARTBEAT = 0.5

#: Seconds that the main thread sleeps after it has handed a lone job to an idle loop, so that the loop gets the
#: interpreter as soon as it has woken, and not when the main thread has nothing more to do. From a send to the
#: handler's start it took 0.89 instead of 1.07 ms on Redis (November 2026, CPython 3.11, medians of four runs in
#: turns); the kernel makes some 50 µs of it.
_GIVE_WAY = 1e-6

#: Seconds that background tasks, async generators and busy threads get when a loop ends, each of these.
_WIND_UP = 1.0


def new_loop(implementation: LoopImplementation) -> asyncio.AbstractEventLoop:
    """Return a new event loop; "auto" takes uvloop where it is installed.

    Raises:
        ConfigError: uvloop was asked for and isn't installed.
    """
    if implementation != "asyncio":
        try:
            import uvloop
        except ImportError as exc:
            if implementation == "uvloop":
                raise ConfigError(
                    'loop implementation "uvloop" is not installed: pip install "qbridge[uvloop]", or use "auto"'
                ) from exc
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class LoopThread:
    """One thread with one event loop that runs handlers.

    Its methods are called on the main thread's loop, the one it was made on; handlers never see this object.

    Args:
        name: The thread's name, in logs and contexts.
        concurrency: How many jobs may be handed to it at once.
        worker_threads: How many plain functions run at once beside its loop.
        implementation: Which event loop it runs.
        send: What `TaskContext.send` calls, on this thread's loop.
        on_ended: Gets jobs that are over, on the main thread's loop, in batches.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        worker_threads: int,
        implementation: LoopImplementation,
        send: Callable[..., Awaitable[str]],
        on_ended: Callable[[list[Job]], None],
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        #: Jobs handed over and not handed back; kept by the dispatcher.
        self.in_flight = 0
        #: Monotonic seconds of the loop's last sign of life.
        self.last_beat = monotonic()
        #: Whether it is known to be blocked; kept by the watchdog. It gets no jobs then.
        self.is_blocked = False
        #: Whether it was given up: what it hands back from then on is dropped.
        self.is_fenced = False
        #: Whether it was told to end.
        self.is_closing = False
        self._home = asyncio.get_running_loop()
        self._on_ended = on_ended
        self._last_ended: list[Job] = []
        self._loop = new_loop(implementation)
        self._outbox: Mailbox[Job] = Mailbox(self._home, self._hand_back)
        self._executor = Executor(
            self._loop, name=name, worker_threads=worker_threads, send=send, on_end=self._outbox.put
        )
        self._inbox: Mailbox[Job] = Mailbox(self._loop, self._executor.start)
        # What asyncio.to_thread uses. Ours, as a loop would wait for its own without limit when it ends.
        self._side_threads = WorkerThreads(None, f"{name}-side")
        self._loop.set_default_executor(self._side_threads)
        self._thread = threading.Thread(target=self._main, name=name)
        self._is_stopping = False
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def free(self) -> int:
        """How many more jobs it may be handed."""
        return 0 if self.is_blocked else self.concurrency - self.in_flight

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_wedged(self) -> bool:
        """Whether, after `stop`, its thread or one that works for it still runs; the process can't end then."""
        return self._thread.is_alive() or self._executor.left_behind + self._side_threads.alive > 0

    async def start(self) -> None:
        """Start the thread and wait until its loop runs. Called once.

        Raises:
            BridgeStateError: It was started before.
        """
        if self._thread.ident is not None:
            raise BridgeStateError(f"loop thread {self.name!r} was started before; make another one")
        self._thread.start()
        await self._ready.wait()

    def submit(self, jobs: Sequence[Job]) -> bool:
        """Hand over jobs; they start in order. Returns False, and takes none, if the loop no longer accepts jobs."""
        for job in jobs:
            job.thread = self
        if not self._inbox.put_many(jobs):
            return False
        self.in_flight += len(jobs)
        if self.in_flight == 1:
            sleep(_GIVE_WAY)
        return True

    def recall(self) -> list[Job]:
        """Take back the jobs that the loop has not received yet; they have not started."""
        jobs = self._inbox.recall()
        self.in_flight -= len(jobs)
        return jobs

    def cancel(self, job: Job, reason: CancelReason) -> None:
        """Cancel one job for a reason; its end comes through `on_ended`, like any other."""
        self._call(self._executor.cancel, job, reason)

    def cancel_all(self, reason: CancelReason) -> None:
        """Cancel every job on the loop for a reason."""
        self._call(self._executor.cancel_all, reason)

    def look(self) -> Sight:
        """Look at what the thread does just now; worth something only while its loop is blocked."""
        return look(self._thread.ident, self._loop, list(self._executor.running))

    def just_ended(self) -> list[Job]:
        """Return the jobs whose handlers may have ended just now, and forget them: the last batch that was handed back,
        what is on its way back, and plain functions that have begun and of whose end the loop has not heard.
        """
        ended, self._last_ended = self._last_ended, []
        calls = [job for job, call in list(self._executor.calls.items()) if call.running() or call.done()]
        return ended + self._outbox.waiting() + calls

    def call_of(self, job: Job) -> Future[Any] | None:
        """Return what was handed to a worker thread for a job whose handler is a plain function, until it has ended."""
        return self._executor.calls.get(job)

    def fence(self) -> tuple[list[Job], list[Job]]:
        """Give the thread up, as its loop is blocked: it gets no jobs and hands none back from here on.

        If its loop ever turns again all its handlers are cancelled, and the thread ends.

        Returns:
            The jobs that the loop has not received, and those that have ended and were not handed back yet.
        """
        self.is_fenced = self.is_closing = True
        unreceived, ended = self._inbox.close(), self._outbox.recall()
        self.cancel_all(CancelReason.LEASE_LOST)
        self._call(self._end)
        self._executor.dismiss()
        self._side_threads.shutdown(wait=False, cancel_futures=True)
        return unreceived, ended

    async def stop(self, timeout: float) -> bool:
        """Accept no more jobs, end the loop and its thread; what still runs is cut off.

        May be called twice, and before `start`. A thread that was given up is not waited for.

        Returns:
            Whether the thread has ended within `timeout` seconds. If not, it is left behind: it is wedged.
        """
        self.is_closing = True
        self._inbox.close()
        if self._thread.ident is None:
            self._loop.close()
            return True
        self._call(self._end)
        if self.is_fenced:
            return not self._thread.is_alive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        if self._ended.is_set():
            # All that is left of it is the return from _main.
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _hand_back(self, jobs: list[Job]) -> None:
        if not self.is_fenced:
            self._last_ended = jobs
            self._on_ended(jobs)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs there any more
            self._loop.call_soon_threadsafe(function, *args)

    def _main(self) -> None:
        self._loop.call_soon(self._tell_home, self._ready.set)
        self._loop.call_soon(self._beat)
        try:
            while not self._is_stopping:
                try:
                    self._loop.run_forever()
                except (SystemExit, KeyboardInterrupt):
                    # Whoever awaits that task has been told; the loop goes on where it was.
                    log.exception(
                        "a task that a handler has left tried to end its loop", extra={"loop_thread": self.name}
                    )
        finally:
            self._inbox.close()
            try:
                self._wind_up()
            except (Exception, SystemExit, KeyboardInterrupt):
                log.exception("a loop thread did not end cleanly", extra={"loop_thread": self.name})
            finally:
                self._tell_home(self._ended.set)

    def _end(self) -> None:
        self._is_stopping = True
        self._loop.stop()

    def _beat(self) -> None:
        self.last_beat = monotonic()
        self._loop.call_later(HEARTBEAT, self._beat)

    def _tell_home(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the main loop is closed: nobody waits there any more
            self._home.call_soon_threadsafe(function)

    def _wind_up(self) -> None:
        """End what handlers left on the loop, within bounds, and close it."""
        loop = self._loop
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=_WIND_UP))
            closing = loop.create_task(loop.shutdown_asyncgens())
            loop.run_until_complete(asyncio.wait([closing], timeout=_WIND_UP))
        finally:
            self._side_threads.leave(_WIND_UP)
            self._executor.close(_WIND_UP)
            loop.close()


class LoopGroup:
    """Loop threads of one name and one concurrency. Belongs to the main thread's loop.

    Args:
        name: The group's name; its threads are called `<name>-0`, `<name>-1`, ….
        threads: Its loop threads.
        make: Makes a further one of a name, unstarted; None if none can take over from one that is blocked.
    """

    def __init__(
        self, name: str, threads: Sequence[LoopThread], *, make: Callable[[str], LoopThread] | None = None
    ) -> None:
        self.name = name
        self.threads = tuple(threads)
        self._make = make
        self._made = len(self.threads)
        self._fenced: list[LoopThread] = []

    @property
    def capacity(self) -> int:
        """How many jobs the group runs at once."""
        return sum(thread.concurrency for thread in self.threads)

    @property
    def in_flight(self) -> int:
        """How many jobs are on its loops, and in worker threads of those that were given up."""
        return sum(thread.in_flight for thread in self.threads) + sum(thread.in_flight for thread in self._fenced)

    @property
    def free(self) -> int:
        """How many more jobs can start now."""
        return sum(max(thread.free, 0) for thread in self.threads)

    @property
    def fenced(self) -> tuple[LoopThread, ...]:
        """The loop threads that were given up and have not ended, or a plain function of theirs has not."""
        self._fenced = [thread for thread in self._fenced if thread.is_wedged or thread.in_flight]
        return tuple(self._fenced)

    def make_thread(self) -> LoopThread | None:
        """Make a further loop thread, of the next name; it is no part of the group until it takes over."""
        if self._make is None:
            return None
        thread = self._make(f"{self.name}-{self._made}")
        self._made += 1
        return thread

    def replace(self, thread: LoopThread, successor: LoopThread | None) -> None:
        """Take a loop thread out of the group, and a started one in for it."""
        place = self.threads.index(thread)
        self.threads = self.threads[:place] + (() if successor is None else (successor,)) + self.threads[place + 1 :]
        self._fenced.append(thread)

    def submit(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Deal jobs to the threads, the least loaded first, in order; return those for which there was no room."""
        if len(self.threads) == 1:
            [thread] = self.threads
            room = thread.free
            if room <= 0 or not thread.submit(jobs if len(jobs) <= room else jobs[:room]):
                return jobs
            return jobs[room:]
        # A loop that has missed two heartbeats is blocked: it gets only what nobody else has room for.
        late = monotonic() - 2 * HEARTBEAT
        jobs = _deal(jobs, [thread for thread in self.threads if thread.last_beat > late])
        return _deal(jobs, self.threads) if jobs else jobs


def _deal(jobs: Sequence[Job], threads: Sequence[LoopThread]) -> Sequence[Job]:
    """Hand over jobs, in order: to each thread its share, the least loaded first, then what others had no room for."""
    share = -(-len(jobs) // max(len(threads), 1))
    for most in (share, len(jobs)):
        for thread in sorted(threads, key=lambda thread: thread.in_flight):
            part = jobs[: min(most, max(thread.free, 0))]
            if part and thread.submit(part):
                jobs = jobs[len(part) :]
    return jobs
