"""The settings of a process: its loop groups, its end, its log, and what guards it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from qbridge.config.settings import Name, Settings
from qbridge.signing import Signer
from qbridge.units import Duration, Size, format_duration

__all__ = [
    "LoggingConfig",
    "LoopConfig",
    "ProbesConfig",
    "RecycleConfig",
    "RetryBudgetConfig",
    "ShutdownConfig",
    "SigningConfig",
]

#: Nobody waits longer than a day for a worker to end: seconds.
_LONGEST_GRACE = 86_400.0

#: Bytes that a signing key has at least: as many as SHA-256 gives, as RFC 2104 recommends.
_SHORTEST_KEY = 32


class LoopConfig(Settings):
    """One loop group: loop threads of one name and one concurrency.

    Attributes:
        threads: Loop threads, 1 to 64. More isolate handlers that block; they don't raise throughput.
        concurrency: Handlers that run at once on each loop thread, 1 to 100000.
        implementation: The event loop; auto takes uvloop where it is installed.
        worker_threads: Threads for plain functions, of each loop thread, 1 to 1000.
        blocked_after: Seconds without a sign of life after which a loop is called blocked in the log, at least 0.5.
        replace_after: Seconds without a sign of life after which a loop thread is replaced by another one, at least 1
            and more than blocked_after; none never does. What blocks it has failed, all else it ran is put back.
        overtime: Seconds that a handler over its timeout keeps its message though it ignores being cancelled; then its
            attempt has failed, and the message is tried again by its policy. The handler runs on and keeps its slot.
    """

    threads: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 500
    implementation: Literal["auto", "asyncio", "uvloop"] = "auto"
    worker_threads: Annotated[int, Field(ge=1, le=1000)] = 32
    blocked_after: Annotated[Duration, Field(ge=0.5)] = 5.0
    replace_after: Annotated[Duration, Field(ge=1)] | None = 300.0
    overtime: Duration = 60.0

    @model_validator(mode="after")
    def _blocked_before_replaced(self) -> LoopConfig:
        if self.replace_after is not None and self.replace_after <= self.blocked_after:
            raise ValueError(
                f"replace_after is {format_duration(self.replace_after)}, which is not more than blocked_after "
                f"({format_duration(self.blocked_after)})"
            )
        return self


class ShutdownConfig(Settings):
    """How a worker ends: what runs may finish, then it is cancelled, then all that is finished is settled.

    A worker has ended a second after the three together, whatever hangs; by default within Kubernetes' 30 seconds.

    Attributes:
        grace: Seconds from the first signal in which running handlers may finish, at most a day.
        cancel_grace: Seconds in which cancelled handlers may clean up, at most a day.
        flush: Seconds in which finished work is settled, at most a day.
    """

    grace: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 25.0
    cancel_grace: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 2.0
    flush: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 2.0


class LoggingConfig(Settings):
    """What a worker writes about itself.

    Attributes:
        level: The least important lines that are written.
        format: For people (console) or for programs (json).
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class RecycleConfig(Settings):
    """When a worker process drains and is followed by a fresh one: against what leaks in handlers.

    Attributes:
        max_tasks: Tasks that a process runs before it is recycled, at least 1; none never does.
        max_rss: Resident memory of a process above which it is recycled, at least 16MiB; none never does.
    """

    max_tasks: Annotated[int, Field(ge=1)] | None = None
    max_rss: Annotated[Size, Field(ge=16 * 2**20)] | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything would ever recycle a process."""
        return self.max_tasks is not None or self.max_rss is not None


class RetryBudgetConfig(Settings):
    """How many retries the work that succeeds pays for; when they are spent, tasks are claimed more slowly.

    Each success earns `ratio` of a retry, up to `reserve` of them, and each failed attempt spends one.

    Attributes:
        ratio: Retries that a success pays for, 0 to 10; 0 turns the budget off.
        reserve: Retries that can be saved up, 1 to 1000000. A worker starts with so many.
    """

    ratio: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.2
    reserve: Annotated[int, Field(ge=1, le=1_000_000)] = 1000


class ProbesConfig(Settings):
    """Where a worker answers over HTTP whether it lives (/livez) and works (/readyz), and its counters (/metrics).

    Attributes:
        host: The address that is listened on; anything but 127.0.0.1 lets other machines look.
        port: The port, 1 to 65535. With several processes the supervisor answers for all of them.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)]


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value().encode()) < _SHORTEST_KEY:
        raise ValueError(f"a signing key has at least {_SHORTEST_KEY} bytes: make one with 'openssl rand -hex 32'")
    return key


class SigningConfig(Settings):
    """Signatures (HMAC-SHA256) by which a worker knows that a message comes from somebody who has a key.

    Attributes:
        keys: Keys by name, at least 32 bytes each: all that are accepted. Two while one follows another.
        sign_with: Name of the key that messages are signed with; may be left out if there is just one.
        accept_unsigned: Whether messages without a signature are run: only while signing is introduced.
        max_age: Seconds after its sending for which a signature holds, delays and retries included; none lets it hold
            for ever.
    """

    keys: Annotated[dict[Name, Annotated[SecretStr, AfterValidator(_long_enough)]], Field(min_length=1)]
    sign_with: Name = ""
    accept_unsigned: bool = False
    max_age: Duration | None = None

    @model_validator(mode="after")
    def _known_key(self) -> SigningConfig:
        if self.sign_with not in self.keys and (self.sign_with or len(self.keys) > 1):
            raise ValueError(f"sign_with names none of the keys (known: {', '.join(self.keys)})")
        return self

    @model_validator(mode="after")
    def _different_keys(self) -> SigningConfig:
        if len({key.get_secret_value() for key in self.keys.values()}) < len(self.keys):
            raise ValueError("two of the keys are the same: make another one with 'openssl rand -hex 32'")
        return self

    @property
    def signing_key(self) -> str:
        """The name of the key that messages are signed with."""
        return self.sign_with or next(iter(self.keys))

    def create_signer(self, queue: str) -> Signer:
        """Return what signs and verifies the messages of a queue."""
        return Signer(
            queue,
            {name: key.get_secret_value().encode() for name, key in self.keys.items()},
            sign_with=self.signing_key,
            accept_unsigned=self.accept_unsigned,
            max_age=self.max_age,
        )
