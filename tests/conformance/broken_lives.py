"""Sources that break the rules of statistics, of opening and closing, and of outages, one each."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from qbridge import Delivery, QueueStats, Settled, Settlement, SourceUnavailable
from tests.conformance.healthy import HealthySource, breaks

#: Undoes what the sources of this module left behind on purpose.
UNDO: list[Callable[[], object]] = []


class ChangesStats(HealthySource):
    """Says something else of the queue."""

    async def stats(self) -> QueueStats:
        return self.changed(await super().stats())

    def changed(self, stats: QueueStats) -> QueueStats:
        raise AssertionError


@breaks("test_stats_count_what_is_ready_and_in_flight")
class CountsWhatIsInFlightAsReady(ChangesStats):
    """Hides what works."""

    def changed(self, stats: QueueStats) -> QueueStats:
        return replace(stats, ready=stats.ready + stats.in_flight, in_flight=0)


@breaks("test_stats_count_what_is_delayed")
class CountsWhatIsDelayedAsReady(ChangesStats):
    """Calls for workers that find nothing."""

    def changed(self, stats: QueueStats) -> QueueStats:
        return replace(stats, ready=stats.ready + stats.delayed, delayed=0)


@breaks("test_stats_count_what_is_dead")
class CountsNoDead(ChangesStats):
    """Hides failures."""

    def changed(self, stats: QueueStats) -> QueueStats:
        return replace(stats, dead=0)


@breaks("test_the_age_of_the_next_message_is_told")
class HasNoAge(ChangesStats):
    """Knows no times, and doesn't show the body instead."""

    def changed(self, stats: QueueStats) -> QueueStats:
        return replace(stats, oldest_age=None)


@breaks("test_opening_claims_nothing")
class ClaimsAtOpening(HealthySource):
    """Fetches ahead before anybody asked."""

    async def open(self) -> None:
        await super().open()
        await self.receive(1, 0)


@breaks("test_the_source_can_do_what_is_declared")
class PromisesLess(HealthySource):
    """Can less than its backend declares."""

    capabilities = replace(HealthySource.capabilities, delay=False)


@breaks("test_the_source_can_do_what_is_declared")
class HasAnotherLease(HealthySource):
    """Doesn't tell the core how often to renew."""

    async def open(self) -> None:
        await super().open()
        self.lease = 1.0


@breaks("test_close_may_be_called_before_open_and_twice")
class ClosesOnce(HealthySource):
    """Closes what isn't open."""

    async def close(self) -> None:
        self._check_open()
        await super().close()


@breaks("test_a_source_that_is_not_open_says_so")
class WorksWhenClosed(HealthySource):
    """Doesn't notice that it is closed."""

    def _check_open(self) -> None:
        pass


@breaks("test_close_ends_a_waiting_receive")
class LeavesReceivesWaiting(HealthySource):
    """Closes under a receive that goes on waiting."""

    async def close(self) -> None:
        self._bell = None
        await super().close()


@breaks("test_a_closed_source_opens_again")
@breaks("test_messages_outlive_the_last_source")
class ForgetsWhatIsReady(HealthySource):
    """Keeps messages in itself."""

    async def close(self) -> None:
        self._queue._ready.clear()
        await super().close()


@breaks("test_a_delivery_can_be_settled_after_reopening")
class CallsLostWhatWasDone(HealthySource):
    """Settles after a reconnect, and says that it didn't."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        await super().settle(settlements)
        return [Settled.LOST for _ in settlements]


@breaks("test_a_cancelled_open_can_be_closed_and_repeated")
class RemembersHalfAnOpening(HealthySource):
    """Takes an opening that was cancelled for one that goes on."""

    is_opening = False

    async def open(self) -> None:
        assert not self.is_opening
        self.is_opening = True
        await asyncio.sleep(0)
        self.is_opening = False
        await super().open()


@breaks("test_nothing_is_left_behind")
class LeavesAThread(HealthySource):
    """Has a thread that nobody ends."""

    async def close(self) -> None:
        await super().close()
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        UNDO.extend([end.set, thread.join])


@breaks("test_nothing_is_left_behind")
class LeavesATask(HealthySource):
    """Has a task that nobody ends."""

    async def close(self) -> None:
        await super().close()
        self.left = asyncio.create_task(asyncio.sleep(3600))


@breaks("test_nothing_is_left_behind")
class LeavesAFile(HealthySource):
    """Has a file that nobody closes."""

    async def close(self) -> None:
        await super().close()
        UNDO.append(tempfile.TemporaryFile().close)  # noqa: SIM115  # left open on purpose


@breaks("test_nothing_is_left_behind")
class LeavesASignalHandler(HealthySource):
    """Takes a signal that is the program's."""

    async def close(self) -> None:
        await super().close()
        before = signal.signal(signal.SIGUSR2, lambda *_: None)
        UNDO.append(lambda: signal.signal(signal.SIGUSR2, before))


@breaks("test_nothing_is_left_behind")
class ConfiguresLogging(HealthySource):
    """Adds a handler that is the program's to add."""

    async def close(self) -> None:
        await super().close()
        handler = logging.NullHandler()
        logging.getLogger().addHandler(handler)
        UNDO.append(lambda: logging.getLogger().removeHandler(handler))


@breaks("test_a_restart_of_the_broker_loses_nothing")
class KeepsDelaysInTheWorker(HealthySource):
    """Forgets delayed messages when it is closed."""

    async def close(self) -> None:
        self._queue._delayed.clear()
        await super().close()


@breaks("test_a_restart_of_the_broker_loses_nothing")
class KeepsCountsInTheWorker(HealthySource):
    """Forgets attempts when it is closed."""

    async def close(self) -> None:
        for _, message in self._queue._returned:
            message.attempts = 0
        for message in self._queue._ready:
            message.attempts = 0
        await super().close()


@breaks("test_a_lost_connection_is_reported")
class HidesALostConnection(HealthySource):
    """Returns nothing, for ever, from a connection that is gone."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        try:
            return await super().receive(limit, wait)
        except SourceUnavailable:
            return []


@breaks("test_nothing_is_lost_with_a_connection")
class LosesWhatIsInFlight(HealthySource):
    """Forgets what was in flight on a lost connection."""

    async def close(self) -> None:
        self._queue._in_flight.clear()
        await super().close()


@breaks("test_an_unreachable_broker_is_unavailable")
class LetsAClientsErrorThrough(HealthySource):
    """Raises what its client library raises."""

    async def open(self) -> None:
        if not self.is_reachable:
            raise ConnectionRefusedError("port 1")
        await super().open()
