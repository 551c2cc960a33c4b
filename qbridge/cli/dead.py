"""`qbridge dead`: what failed for good, and what is to become of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qbridge.cli.dead_letters import details, found, row, text, walk
from qbridge.cli.ends import CommandFailed, tell
from qbridge.cli.flags import (
    ConfigFile,
    DebugFlag,
    Format,
    FormatFlag,
    QueueName,
    Settings,
    examples,
    flag,
    overrides_given,
)
from qbridge.cli.operating import BULK_TIMEOUT, bounded, opened_for_dead_letters
from qbridge.cli.output import Column, print_json, print_line, print_table, time_text
from qbridge.cli.setting_up import read_config
from qbridge.config import Config
from qbridge.service import ExitCode

__all__ = ["app"]

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ID = "As 'qbridge dead list' shows it."

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help=_ID, show_default=False)]


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "qbridge dead list orders",
        "qbridge dead show orders 5c0f3a9e",
        "qbridge dead retry orders --all",
        "qbridge dead purge orders 5c0f3a9e",
    ),
)
def _root(context: typer.Context) -> None:
    """Look at dead letters, bring them back, or delete them.

    A dead letter is a message that is not tried again by itself. It is kept with its bytes, the errors of its attempts
    and a reason: exhausted (it failed too often), rejected (by its handler), invalid (its arguments don't fit),
    unknown_task, undecodable, unsigned (no signature, or not one that holds), too_large, or crashed (it killed its
    workers).
    """
    if context.invoked_subcommand is None:
        sys.stderr.write(f"{context.get_help()}\n")
        raise typer.Exit(ExitCode.USAGE)


@app.command(
    "list",
    epilog=examples(
        "qbridge dead list orders",
        "qbridge dead list orders --limit 20 --after 5c0f3a9e",
        "qbridge dead list orders --format json | jq 'group_by(.reason) | map({(.[0].reason): length}) | add'",
    ),
)
def list_(
    *,
    queue: QueueName,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    limit: Annotated[int, flag("--limit", min=1, max=10_000, help="How many to show.")] = 100,
    after: Annotated[
        str | None, flag("--after", metavar="ID", help="Go on after this one.", show_default=False)
    ] = None,
    format: FormatFlag = Format.TABLE,
    debug: DebugFlag = False,
) -> None:
    """List dead letters, the oldest first.

    JSON: an array of objects with id, task (null if the body can't be read), reason, attempts, error (the first line
    of the last one), enqueued_at (null if nobody said) and died_at. Times are in seconds since 1970 (UTC).
    """
    rows, has_more = asyncio.run(_listed(read_config(config, overrides_given(settings)), queue, limit, after))
    if format is Format.JSON:
        print_json(rows)
    else:
        print_table(
            [
                Column("id"),
                Column("task"),
                Column("reason"),
                Column("attempts", is_number=True),
                Column("died at"),
                Column("error"),
            ],
            (
                [
                    each["id"],
                    each["task"] or "-",
                    each["reason"],
                    str(each["attempts"]),
                    time_text(each["died_at"]),
                    each["error"],
                ]
                for each in rows
            ),
        )
    if has_more:
        sys.stderr.write(f"there are more: add --after {rows[-1]['id']}\n")


@app.command(
    epilog=examples(
        "qbridge dead show orders 5c0f3a9e",
        "qbridge dead show orders 5c0f3a9e --format json | jq -r .body_base64 | base64 -d",
    )
)
def show(
    *,
    queue: QueueName,
    id: Annotated[str, typer.Argument(metavar="ID", help=_ID, show_default=False)],
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    format: FormatFlag = Format.TABLE,
    debug: DebugFlag = False,
) -> None:
    """Show all that is kept of one dead letter.

    That is its headers, its body, and each error with the end of its traceback.

    JSON: an object with id, task, reason, attempts, enqueued_at, died_at, headers, errors (oldest first), body (null
    if it is no text) and body_base64.
    """
    service_config = read_config(config, overrides_given(settings))
    asyncio.run(_show(service_config, queue, id, format))


@app.command(
    epilog=examples(
        "qbridge dead retry orders 5c0f3a9e 77aa01b2",
        "qbridge dead retry orders --all",
    )
)
def retry(
    *,
    queue: QueueName,
    ids: Ids = None,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    all: Annotated[bool, flag("--all", help="Every dead letter of the queue.")] = False,
    debug: DebugFlag = False,
) -> int:
    """Make dead letters ready again, their attempts reset.

    Ids that are no dead letters of the queue are told, and the exit code is then 1.
    """
    chosen = _chosen(ids or [], all=all)
    service_config = read_config(config, overrides_given(settings))
    count, unknown = asyncio.run(_settle(service_config, queue, "redrive", chosen))
    print_line(f"{_letters(count)} ready again")
    return _end(queue, unknown)


@app.command(
    epilog=examples(
        "qbridge dead purge orders 5c0f3a9e 77aa01b2",
        "qbridge dead purge orders --all --yes",
    )
)
def purge(
    *,
    queue: QueueName,
    ids: Ids = None,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    all: Annotated[bool, flag("--all", help="Every dead letter of the queue.")] = False,
    yes: Annotated[bool, flag("--yes", "-y", help="Don't ask.")] = False,
    debug: DebugFlag = False,
) -> int:
    """Delete dead letters for good.

    On a terminal it is asked first; elsewhere --yes must be given. Ids that are no dead letters of the queue are told,
    and the exit code is then 1.
    """
    chosen = _chosen(ids or [], all=all)
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise CommandFailed("purge deletes for good, and nobody can be asked here: add --yes", code=ExitCode.USAGE)
    service_config = read_config(config, overrides_given(settings))
    if not yes:
        count = len(chosen) if chosen is not None else asyncio.run(_count(service_config, queue))
        if count and not typer.confirm(f"Delete {_letters(count)} of queue {queue!r} for good?", err=True):
            raise CommandFailed("nothing was deleted")
    count, unknown = asyncio.run(_settle(service_config, queue, "purge", chosen))
    print_line(f"{_letters(count)} deleted")
    return _end(queue, unknown)


def _chosen(ids: Sequence[str], *, all: bool) -> list[str] | None:
    """Return the ids that were given, each once; None for all."""
    if all and ids:
        raise CommandFailed("name dead letters or say --all, not both", code=ExitCode.USAGE)
    if not all and not ids:
        raise CommandFailed("name dead letters by their ids, or say --all", code=ExitCode.USAGE)
    return None if all else list(dict.fromkeys(ids))


def _end(queue: str, unknown: Sequence[str]) -> ExitCode:
    tell(f"queue {queue!r} has no dead letter {each!r}" for each in unknown)
    return ExitCode.FAILURE if unknown else ExitCode.OK


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"


async def _listed(config: Config, queue: str, limit: int, after: str | None) -> tuple[list[dict[str, Any]], bool]:
    """Return up to `limit` rows, and whether there are more."""
    async with opened_for_dead_letters(config, queue) as source:
        if after is not None and not await found(source, queue, [after]):
            # Going on from one that is gone would begin again, and a script would list for ever.
            raise CommandFailed(f"queue {queue!r} has no dead letter {after!r} any more: leave --after out")
        codec = config.queues[queue].codec.create_codec()
        rows = [row(letter, codec) async for letter in walk(source, queue, limit=limit + 1, after=after)]
    return rows[:limit], len(rows) > limit


async def _show(config: Config, queue: str, message_id: str, format: Format) -> None:
    async with opened_for_dead_letters(config, queue) as source:
        letters = await bounded(source.dead_letters(ids=[message_id]), queue)
    if not letters:
        raise CommandFailed(f"queue {queue!r} has no dead letter {message_id!r}")
    codec = config.queues[queue].codec.create_codec()
    if format is Format.JSON:
        print_json(details(letters[0], codec))
        return
    for line in text(letters[0], codec):
        print_line(line)


async def _count(config: Config, queue: str) -> int:
    async with opened_for_dead_letters(config, queue) as source:
        return (await bounded(source.stats(), queue)).dead


async def _settle(
    config: Config, queue: str, how: Literal["redrive", "purge"], ids: Sequence[str] | None
) -> tuple[int, list[str]]:
    """Redrive or purge dead letters, None for all; return how many, and the ids that are none."""
    async with opened_for_dead_letters(config, queue) as source:
        settle = source.redrive if how == "redrive" else source.purge
        if ids is None:
            return await bounded(settle(), queue, BULK_TIMEOUT), []
        known = await found(source, queue, ids)
        # An empty list must not be taken for "all" by a careless backend.
        count = await bounded(settle(known), queue, BULK_TIMEOUT) if known else 0
    return count, [each for each in ids if each not in set(known)]
