"""Handler faults: messages whose handlers end their process, hang, block, ignore their cancelling, raise anything.

None of them may cost another message more than a repetition, and that only where the process or the loop that ran it
was lost with the bad handler.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qbridge import DeadLetterReason
from tests.support.chaos.bad_handlers import RAISED
from tests.support.chaos.brokers import LEASE
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.incidents import Fault, Incident

__all__ = ["BAD_HANDLERS", "HANDLER_FAULTS", "MAX_CRASHES", "REPLACE_AFTER", "SETTINGS"]

#: The module of such handlers.
BAD_HANDLERS = "tests.support.chaos.bad_handlers"

#: Processes that one message may take along.
MAX_CRASHES = 3

#: Seconds after which a loop thread is given up that a handler blocks; a block that is only long is shorter.
REPLACE_AFTER = 4.0

#: What the workers of such a campaign are set to.
SETTINGS: dict[str, Any] = {
    "max_crashes": MAX_CRASHES,
    "loops": {"default": {"concurrency": 20, "blocked_after": 1, "replace_after": REPLACE_AFTER, "overtime": 0.5}},
}

#: Seconds in which a message comes to its end, under load.
_MET = 30.0


def _crash(campaign: Campaign, incident: Incident) -> None:
    """Send a message that takes its processes along, and start others for them."""
    incident.reaches_all = True
    [poison] = campaign.send("end_process", outcomes={DeadLetterReason.CRASHED})
    for crash in range(1, MAX_CRASHES + 1):
        campaign.wait(lambda: any(worker.code is not None for worker in campaign.workers), f"crash {crash}", _MET)
        for worker in [worker for worker in campaign.workers if worker.code is not None]:
            incident.processes.add(worker.pid)
            campaign.replace(worker)
    assert MAX_CRASHES == campaign.ledger.read().ids("start")[poison]
    incident.reaches_all = False


def _ends_dead(task: str, *arguments: list[Any], attempts: int = 2) -> Callable[[Campaign, Incident], None]:
    """Return a fault: such messages are tried twice, and are dead letters then; nothing else is repeated."""

    def inject(campaign: Campaign, incident: Incident) -> None:
        sent = [
            message_id
            for given in arguments or ([],)
            for message_id in campaign.send(task, *given, outcomes={DeadLetterReason.EXHAUSTED})
        ]
        try:
            campaign.wait(
                lambda: all(campaign.ledger.ids("fail")[each] >= attempts for each in sent), "all attempts fail", _MET
            )
        except AssertionError as exc:
            runs = [entry for entry in campaign.ledger.entries if entry.message_id in sent]
            raise AssertionError(f"{exc}\nsent: {sent}\nruns: {runs}") from exc

    return inject


def _block(campaign: Campaign, incident: Incident) -> None:
    """Block a loop for longer than the leases; nothing is repeated for that."""
    [sent] = campaign.send("block", 1.25 * LEASE)
    campaign.wait(lambda: campaign.ledger.ids("end")[sent], "the block ends", _MET)


def _wedge(campaign: Campaign, incident: Incident) -> None:
    """Block a loop until its thread is given up; what ran beside it is put back, and cancelled if it turns again."""
    until = campaign.folder / f"wedge-{time.monotonic_ns()}"
    try:
        [sent] = campaign.send("wedge", str(until))
        campaign.wait(lambda: campaign.ledger.ids("start")[sent], "the loop is blocked", _MET)
        [process] = {entry.process for entry in campaign.ledger.entries if entry.message_id == sent}
        incident.processes.add(process)
        campaign.wait(lambda: campaign.ledger.ids("end")[sent], "another loop has run it", _MET)
    finally:
        until.touch()


#: Bad handlers of each kind.
HANDLER_FAULTS = (
    Fault(name="handler raises anything", inject=_ends_dead("raise_anything", *([name] for name in RAISED))),
    Fault(name="function raises anything", inject=_ends_dead("raise_in_thread", *([name] for name in RAISED))),
    Fault(name="handler hangs", inject=_ends_dead("hang")),
    Fault(name="handler ignores its cancelling", inject=_ends_dead("ignore_cancelling")),
    Fault(name="handler blocks its loop", inject=_block),
    Fault(name="handler wedges its loop", inject=_wedge),
    Fault(name="handler ends its process", inject=_crash),
)
