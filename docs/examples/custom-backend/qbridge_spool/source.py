"""SpoolSource: a queue in a folder, a file for each message.

::

    ready/     what waits, for its turn or for its time; anybody may move a file into it
    claimed/   what is in flight: its name ends with a token, its time of modification is the end of its lease
    dead/      dead letters
    partial/   what is being written

Every step is one rename, so it happens once, whoever else tries it, or not at all.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qbridge import (
    MAX_ERRORS_KEPT,
    Action,
    BlockingSource,
    Capabilities,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueStats,
    Settled,
    Settlement,
    SourceFull,
    SourceMisconfigured,
)
from qbridge_spool.content import Note, pack, unpack
from qbridge_spool.naming import MessageName, new_token
from qbridge_spool.options import SpoolOptions

__all__ = ["CAPABILITIES", "SpoolSource"]

CAPABILITIES = Capabilities(
    durable=True,
    shared=True,
    ordered=True,
    delay=True,
    lease="timeout",
    attempts=True,
    headers=True,
    dead_letters=True,
)

#: Seconds after which what somebody began to write is taken for given up.
_ABANDONED = 86400.0

#: At least so often, in seconds, a source that receives looks for lapsed leases.
_RETURN_EVERY = 1.0


class SpoolSource(BlockingSource):
    """A queue in a folder, as one worker or producer sees it.

    A disk blocks, above all one that is asked whether it has written: so this is a `BlockingSource`.

    Args:
        name: The queue's name, for error texts.
        options: As configured.
    """

    capabilities = CAPABILITIES
    #: A send asks the disk for each of its messages.
    call_timeout = 60.0

    def __init__(self, name: str, options: SpoolOptions) -> None:
        super().__init__(name)
        self.lease: float = options.lease
        self.poll_interval = options.poll_interval
        self._fsync = options.fsync
        self._root = options.path
        self._ready = options.path / "ready"
        self._claimed = options.path / "claimed"
        self._dead = options.path / "dead"
        self._partial = options.path / "partial"
        self._last_time = 0
        self._return_at = 0.0

    def do_open(self) -> None:
        """Make the folders that are missing, but not the one they are in: its disk may not be mounted."""
        try:
            for folder in (self._root, self._ready, self._claimed, self._dead, self._partial):
                folder.mkdir(exist_ok=True)
        except PermissionError as exc:
            raise SourceMisconfigured(f"queue {self.name!r}: {exc.filename} can't be made or read: {exc}") from exc
        for entry in os.scandir(self._partial):
            if entry.stat().st_mtime < time.time() - _ABANDONED:
                Path(entry.path).unlink(missing_ok=True)

    def do_close(self) -> None:
        """Do nothing: no file stays open."""

    def do_send(self, messages: Sequence[Outgoing]) -> None:
        """Write all, then show all: who looks meanwhile sees no half of a message."""
        written: list[tuple[Path, MessageName]] = []
        try:
            for message in messages:
                name = MessageName.new(self._now(), delay=message.delay, is_noted=bool(message.headers))
                body = pack(Note(headers=dict(message.headers)), message.body) if name.is_noted else message.body
                written.append((self._write(body), name))
            for path, name in written:
                path.rename(self._ready / str(name))
            self._flush(self._ready)
        except OSError as exc:
            for path, _ in written:
                path.unlink(missing_ok=True)
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise SourceFull(f"queue {self.name!r}: no room for a message in {self._root}: {exc}") from exc
            raise

    def do_receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Look once; the base waits."""
        if time.monotonic() >= self._return_at:
            self._return_lapsed()
            self._return_at = time.monotonic() + min(self.lease / 10, _RETURN_EVERY)
        deliveries: list[Delivery] = []
        for file, name in self._waiting():
            if len(deliveries) == limit or name.due > time.time_ns():
                break
            if (delivery := self._claim(file, name)) is not None:
                deliveries.append(delivery)
        return deliveries

    def do_settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End deliveries, one after the other."""
        return [self._settle(settlement) for settlement in settlements]

    def do_keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Let the leases begin anew."""
        lost: list[Delivery] = []
        for delivery in deliveries:
            try:
                self._renew(self._claimed / str(delivery.receipt))
            except FileNotFoundError:
                lost.append(delivery)
        return lost

    def do_stats(self) -> QueueStats:
        """Count names."""
        self._return_lapsed()
        now = time.time_ns()
        dues = [name.due for _, name in self._waiting()]
        ready = sum(due <= now for due in dues)
        return QueueStats(
            ready=ready,
            delayed=len(dues) - ready,
            in_flight=sum(MessageName.parse(entry.name) is not None for entry in os.scandir(self._claimed)),
            dead=len(self._dead_names()),
            oldest_age=(now - dues[0]) / 1e9 if ready else 0.0,
        )

    def do_dead_letters(self, *, limit: int, after: str | None, ids: Sequence[str] | None) -> Sequence[DeadLetter]:
        """List dead letters; the name begins with the time of death, so the order of the names is theirs."""
        names = self._dead_names()
        if ids is not None:
            names = [name for name in names if name.key in set(ids)]
        else:
            keys = [name.key for name in names]
            start = keys.index(after) + 1 if after in keys else 0
            names = names[start : start + max(limit, 0)]
        return [letter for name in names if (letter := self._dead_letter(name)) is not None]

    def do_redrive(self, ids: Sequence[str] | None) -> int:
        """Move dead letters back; the counts are in the name, so one rename resets them."""
        count = 0
        for name in self._chosen_dead(ids):
            again = replace(name, due=self._now(), attempts=0, crashes=0)
            try:
                (self._dead / str(name)).rename(self._ready / str(again))
            except FileNotFoundError:  # somebody else did it
                continue
            count += 1
        return count

    def do_purge(self, ids: Sequence[str] | None) -> int:
        """Delete dead letters."""
        count = 0
        for name in self._chosen_dead(ids):
            try:
                (self._dead / str(name)).unlink()
            except FileNotFoundError:
                continue
            count += 1
        return count

    def _waiting(self) -> list[tuple[str, MessageName]]:
        """Return the files that wait, in the order of their times, each with the name that it has or is given."""
        files: list[tuple[str, MessageName]] = []
        for entry in os.scandir(self._ready):
            name = MessageName.parse(entry.name)
            # Whatever anybody moves here is a message, except what is hidden: that is being written.
            if name is None and not entry.name.startswith("."):
                try:
                    if entry.is_file():
                        name = MessageName.new(min(entry.stat().st_mtime_ns, time.time_ns()))
                except FileNotFoundError:
                    continue
            if name is not None:
                files.append((entry.name, name))
        return sorted(files, key=lambda file: str(file[1]))

    def _claim(self, file: str, name: MessageName) -> Delivery | None:
        waiting = self._ready / file
        name = replace(name, attempts=name.attempts + 1)
        receipt = f"{name}.{new_token()}"
        held = self._claimed / receipt
        try:
            # The lease is there before the claim: a kill between the two leaves a message that waits.
            self._renew(waiting)
            waiting.rename(held)
        except FileNotFoundError:  # somebody else was faster
            return None
        # A slower one may have put the end of a shorter lease on it in between.
        self._renew(held)
        note, body = unpack(held.read_bytes(), is_noted=name.is_noted)
        return Delivery(
            body=body,
            receipt=receipt,
            message_id=name.key,
            attempt=name.attempts,
            crashes=name.crashes,
            headers=note.headers,
            enqueued_at=name.sent,
        )

    def _return_lapsed(self) -> None:
        now = time.time_ns()
        for entry in os.scandir(self._claimed):
            name = MessageName.parse(entry.name)
            try:
                if name is not None and entry.stat().st_mtime_ns <= now:
                    os.rename(entry.path, self._ready / str(replace(name, crashes=name.crashes + 1)))  # noqa: PTH104
            except FileNotFoundError:  # settled, or returned by somebody else
                continue

    def _settle(self, settlement: Settlement) -> Settled:
        held = self._claimed / str(settlement.delivery.receipt)
        name = MessageName.parse(held.name)
        if name is None:
            return Settled.LOST
        try:
            match settlement.action:
                case Action.ACK:
                    held.unlink()
                case Action.RELEASE:
                    held.rename(self._ready / str(replace(name, attempts=name.attempts - 1)))
                case Action.RETRY:
                    due = self._now() + int(settlement.delay * 1e9)
                    self._put(held, self._ready, replace(name, due=due), settlement)
                case Action.DEAD_LETTER:
                    self._put(held, self._dead, replace(name, due=self._now()), settlement)
        except FileNotFoundError:
            return Settled.LOST
        return Settled.DONE

    def _put(self, held: Path, folder: Path, name: MessageName, settlement: Settlement) -> None:
        """Move a claimed file to its new place, with what the settlement adds to its note."""
        if not settlement.error and not settlement.reason:
            held.rename(folder / str(name))
            return
        # Under another token it is nobody else's, for a lease: a late settlement ends here.
        own = held.with_name(f"{MessageName.parse(held.name)}.{new_token()}")
        held.rename(own)
        self._renew(own)
        note, body = unpack(own.read_bytes(), is_noted=name.is_noted)
        errors = [*note.errors, settlement.error] if settlement.error else note.errors
        note = replace(note, errors=errors[-MAX_ERRORS_KEPT:], reason=settlement.reason)
        self._write(pack(note, body)).rename(folder / str(replace(name, is_noted=True)))
        # A kill before this line leaves two copies. Where one step is not enough, duplicate rather than lose.
        own.unlink()

    def _dead_names(self) -> list[MessageName]:
        names = (MessageName.parse(entry.name) for entry in os.scandir(self._dead))
        return sorted((name for name in names if name is not None), key=str)

    def _chosen_dead(self, ids: Sequence[str] | None) -> Iterator[MessageName]:
        return (name for name in self._dead_names() if ids is None or name.key in ids)

    def _dead_letter(self, name: MessageName) -> DeadLetter | None:
        try:
            note, body = unpack((self._dead / str(name)).read_bytes(), is_noted=name.is_noted)
        except FileNotFoundError:
            return None
        return DeadLetter(
            message_id=name.key,
            body=body,
            headers=note.headers,
            reason=note.reason,
            attempts=name.attempts,
            errors=note.errors,
            enqueued_at=name.sent,
            died_at=name.due / 1e9,
        )

    def _renew(self, path: Path) -> None:
        end = time.time_ns() + int(self.lease * 1e9)
        os.utime(path, ns=(end, end))

    def _now(self) -> int:
        """Return the time in nanoseconds since the epoch, later than the last one that was returned."""
        self._last_time = max(time.time_ns(), self._last_time + 1)
        return self._last_time

    def _write(self, content: bytes) -> Path:
        """Write a new file where nobody looks."""
        path = self._partial / new_token()
        try:
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _flush(self, folder: Path) -> None:
        """Return when the disk has the names that are in a folder."""
        if self._fsync:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
