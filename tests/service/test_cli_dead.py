"""`qbridge dead`: listing, reading, bringing back and deleting what failed for good."""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import Any

import pytest

from qbridge import Outgoing, QBridge
from qbridge.cli.dead_letters import walk
from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.limited_backend import install_limited_backends

__all__ = ["service"]

RAW = """
    handlers: [shop_tasks]
    queues:
      numbers: {backend: sqlite, path: ./q.db, codec: {type: raw, task: count}}
"""


@pytest.fixture
def dead(service: ServiceFolder) -> list[str]:
    """Three dead letters in the queue default, oldest first; their ids."""
    return [service.bury("default", envelope(number), reason=f"reason {number}")[0] for number in range(3)]


def envelope(number: int) -> bytes:
    """Return the bytes of a task that was sent a second ago."""
    message = {"v": 1, "id": f"sent-{number}", "task": "refuse", "args": [str(number)], "enqueued_at": time.time() - 1}
    return json.dumps(message).encode()


def test_the_list_has_the_oldest_first(service: ServiceFolder, dead: list[str]) -> None:
    """JSON has stable keys; times are seconds since 1970, the error is the first line of the last one."""
    rows: list[dict[str, Any]] = json.loads(service.invoke("dead", "list", "default", "--format", "json").out)

    for row in rows:
        assert 0 <= time.time() - row.pop("died_at") < 60
        assert 0 <= time.time() - row.pop("enqueued_at") < 60
    assert [
        {
            "id": dead[number],
            "task": "refuse",
            "reason": f"reason {number}",
            "attempts": 1,
            "error": f"ValueError: reason {number}",
        }
        for number in range(3)
    ] == rows


def test_the_table_is_for_people(service: ServiceFolder, dead: list[str]) -> None:
    """A row for each, on one line, with the time of death in UTC."""
    ended = service.invoke("dead", "list", "default")

    heading, *rows = ended.out.splitlines()
    assert ["id", "task", "reason", "attempts", "died", "at", "error"] == heading.split()
    assert 3 == len(rows)
    assert rows[0].startswith(f"{dead[0]}  refuse  reason 0         1  20")
    assert rows[0].endswith("Z  ValueError: reason 0")


def test_a_list_is_read_in_pieces(service: ServiceFolder, dead: list[str]) -> None:
    """--limit shows so many, tells that there are more and how to go on; --after goes on."""
    first = service.invoke("dead", "list", "default", "--limit", "2", "--format", "json")
    second = service.invoke("dead", "list", "default", "--limit", "2", "--after", dead[1], "--format", "json")

    assert dead[:2] == [row["id"] for row in json.loads(first.out)]
    assert [f"there are more: add --after {dead[1]}"] == first.errors
    assert dead[2:] == [row["id"] for row in json.loads(second.out)]
    assert [] == second.errors


def test_a_list_goes_on_after_a_dead_letter_only(service: ServiceFolder, dead: list[str]) -> None:
    """Going on after one that is gone would begin again, and a script that pages would never end."""
    ended = service.invoke("dead", "list", "default", "--after", "gone")

    assert ["error: queue 'default' has no dead letter 'gone' any more: leave --after out"] == ended.errors
    assert (ExitCode.FAILURE, "") == (ended.code, ended.out)


def test_many_dead_letters_are_all_listed(service: ServiceFolder) -> None:
    """A list that is fetched in several pages has each dead letter once."""
    ids = service.bury("default", *(b"%d" % number for number in range(230)))

    rows = json.loads(service.invoke("dead", "list", "default", "--limit", "1000", "--format", "json").out)

    assert ids == [row["id"] for row in rows]


async def test_a_list_that_begins_again_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If somebody takes away the dead letter that a page ended with, the others are listed all the same, each once."""
    monkeypatch.setattr("qbridge.cli.dead_letters._PAGE", 2)
    listed: list[bytes] = []
    async with QBridge() as bridge, bridge.source() as source:
        for number in range(5):
            await source.send([Outgoing(body=b"%d" % number, message_id=f"{number}")])
            [delivery] = await source.receive(limit=1, wait=5)
            await source.settle([delivery.dead_letter("r")])

        async for letter in walk(source, "default", limit=9, after=None):
            listed.append(letter.body)
            if letter.body == b"1":
                await source.purge([letter.message_id])

    assert [b"0", b"1", b"2", b"3", b"4"] == listed


def test_an_empty_list_is_a_list(service: ServiceFolder) -> None:
    """Where nothing died, JSON is an empty array and the table has its headings."""
    assert "[]\n" == service.invoke("dead", "list", "default", "--format", "json").out
    assert "id  task  reason  attempts  died at  error\n" == service.invoke("dead", "list", "default").out


def test_a_body_that_cannot_be_read_has_no_task(service: ServiceFolder) -> None:
    """A dead letter whose bytes are no envelope is listed all the same."""
    [message_id] = service.bury("default", b"\xff\x00", reason="undecodable")

    [row] = json.loads(service.invoke("dead", "list", "default", "--format", "json").out)

    assert (message_id, None, "undecodable") == (row["id"], row["task"], row["reason"])


def test_a_dead_letter_is_shown_whole(service: ServiceFolder) -> None:
    """show prints everything, the body pretty if it is JSON, the errors with their tracebacks, in order."""
    body = '{"v":1,"task":"greet","kwargs":{"name":"ä"}}'.encode()
    [message_id] = service.bury("default", body, errors=["ValueError: first\n  File x", "ValueError: last"])

    lines = service.invoke("dead", "show", "default", message_id).out.splitlines()

    assert f"id           {message_id}" == lines[0]
    assert ["task         greet", "reason       exhausted", "attempts     2"] == lines[1:4]
    assert [
        f"body, {len(body)} bytes",
        "  {",
        '    "v": 1,',
        '    "task": "greet",',
        '    "kwargs": {',
        '      "name": "ä"',
        "    }",
        "  }",
        "",
        "error 1 of 2",
        "  ValueError: first",
        "    File x",
        "",
        "error 2 of 2",
        "  ValueError: last",
    ] == lines[lines.index(f"body, {len(body)} bytes") :]


def test_a_shown_dead_letter_is_json_too(service: ServiceFolder) -> None:
    """JSON has the body as text, null if it is none, and its bytes in base64."""
    [text] = service.bury("default", b"hi", reason="undecodable", errors=["a\nb"])
    [binary] = service.bury("default", b"\xff\x00", reason="undecodable")

    shown = json.loads(service.invoke("dead", "show", "default", text, "--format", "json").out)
    blob = json.loads(service.invoke("dead", "show", "default", binary, "--format", "json").out)

    assert {
        "id",
        "task",
        "reason",
        "attempts",
        "enqueued_at",
        "died_at",
        "headers",
        "errors",
        "body",
        "body_base64",
    } == set(shown)
    assert ("hi", ["a\nb"], 1) == (shown["body"], shown["errors"], shown["attempts"])
    assert (None, b"\xff\x00") == (blob["body"], base64.b64decode(blob["body_base64"]))


def test_a_terminal_obeys_no_stranger(service: ServiceFolder) -> None:
    """Control characters in bodies, reasons and errors are written out, for anybody can send them."""
    [message_id] = service.bury("default", b"\x1b[2J\x9b\r\n\x07", reason="\x1b[1m", errors=["E: \x1b]0;x\x07\nat\x1b"])

    shown = service.invoke("dead", "show", "default", message_id).out
    listed = service.invoke("dead", "list", "default").out

    assert r"  \x1b[2J\x9b\r" in shown
    assert r"  E: \x1b]0;x\x07" in shown
    assert r"\x1b[1m" in listed
    assert not any(character in shown + listed for character in "\x1b\x07\r\x9b")


def test_some_are_made_ready_again(service: ServiceFolder, dead: list[str]) -> None:
    """retry brings back those that are named, with their attempts reset; the others stay."""
    ended = service.invoke("dead", "retry", "default", dead[2], dead[0], dead[0])

    assert (ExitCode.OK, "2 dead letters ready again\n", "") == (ended.code, ended.out, ended.err)
    assert (2, 1) == (service.stats().ready, service.stats().dead)
    assert {"sent-0", "sent-2"} == {message.id for message in service.take(count=9)}


def test_all_are_made_ready_again(service: ServiceFolder, dead: list[str]) -> None:
    """retry --all brings back every one, and none is no error."""
    ended = service.invoke("dead", "retry", "default", "--all")
    again = service.invoke("dead", "retry", "default", "--all")

    assert (ExitCode.OK, "3 dead letters ready again\n") == (ended.code, ended.out)
    assert (ExitCode.OK, "0 dead letters ready again\n") == (again.code, again.out)
    assert (3, 0) == (service.stats().ready, service.stats().dead)


@pytest.mark.parametrize(("command", "done"), [("retry", "ready again"), ("purge", "deleted")])
def test_unknown_ids_are_told_and_the_others_done(
    service: ServiceFolder, dead: list[str], command: str, done: str
) -> None:
    """An id that is no dead letter ends with 1, and doesn't stop the others."""
    yes = ["--yes"] if command == "purge" else []

    ended = service.invoke("dead", command, "default", "gone", dead[1], *yes)
    none = service.invoke("dead", command, "default", "gone", *yes)

    assert (ExitCode.FAILURE, f"1 dead letter {done}\n") == (ended.code, ended.out)
    assert ["error: queue 'default' has no dead letter 'gone'"] == ended.errors
    assert (ExitCode.FAILURE, f"0 dead letters {done}\n") == (none.code, none.out)
    assert 2 == service.stats().dead


def test_those_that_are_named_are_deleted(service: ServiceFolder, dead: list[str]) -> None:
    """purge deletes just those."""
    ended = service.invoke("dead", "purge", "default", dead[1], "--yes")

    assert (ExitCode.OK, "1 dead letter deleted\n", "") == (ended.code, ended.out, ended.err)
    assert (0, 2) == (service.stats().ready, service.stats().dead)


def test_all_are_deleted(service: ServiceFolder, dead: list[str]) -> None:
    """purge --all deletes every one."""
    ended = service.invoke("dead", "purge", "default", "--all", "-y")

    assert (ExitCode.OK, "3 dead letters deleted\n") == (ended.code, ended.out)
    assert (0, 0) == (service.stats().ready, service.stats().dead)


def test_a_person_is_asked_before_anything_is_deleted(service: ServiceFolder, dead: list[str]) -> None:
    """On a terminal purge tells how many it would delete, and deletes only after a yes."""
    question = "Delete 3 dead letters of queue 'default' for good? [y/N]: "

    refused = service.run_on_terminal("dead", "purge", "default", "--all", prompt=question, types="n\n")
    left = service.stats().dead
    agreed = service.run_on_terminal("dead", "purge", "default", "--all", prompt=question, types="y\n")

    assert (ExitCode.FAILURE, 3) == (refused.code, left)
    assert refused.out.endswith("error: nothing was deleted\n")
    assert (ExitCode.OK, 0) == (agreed.code, service.stats().dead)
    assert agreed.out.endswith("3 dead letters deleted\n")


def test_an_unknown_dead_letter_cannot_be_shown(service: ServiceFolder) -> None:
    """show of an id that is none ends with 1."""
    ended = service.invoke("dead", "show", "default", "gone")

    assert ["error: queue 'default' has no dead letter 'gone'"] == ended.errors
    assert (ExitCode.FAILURE, "") == (ended.code, ended.out)


@pytest.mark.parametrize("command", ["list mute", "show mute x", "retry mute --all", "purge mute --all --yes"])
def test_a_backend_without_dead_letters_is_told(service: ServiceFolder, command: str) -> None:
    """Where dead letters aren't kept, the command says so instead of finding none."""
    install_limited_backends(service.path)
    sys.path.append(str(service.path))
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {mute: {backend: forgetful}}}")

    ended = service.invoke("dead", *command.split(" "))

    assert ["error: queue 'mute' keeps no dead letters: its backend forgetful can't"] == ended.errors
    assert (ExitCode.FAILURE, "") == (ended.code, ended.out)


def test_a_raw_queue_names_its_task(service: ServiceFolder) -> None:
    """Dead letters of a raw queue are for the task of its codec, whatever their bytes are."""
    service.write("qbridge.yaml", RAW)
    service.bury("numbers", b"x\x00", reason="invalid")

    [row] = json.loads(service.invoke("dead", "list", "numbers", "--format", "json").out)

    assert "count" == row["task"]


def test_what_a_worker_gave_up_is_brought_back_and_run(service: ServiceFolder) -> None:
    """The way of an operator: a task fails for good, its cause is mended, retry lets it run."""
    service.invoke("send", "refuse", '"broken"')
    assert 0 == service.run("run", "--burst").code
    [row] = json.loads(service.invoke("dead", "list", "default", "--format", "json").out)
    service.write(
        "shop_tasks.py",
        """
        from qbridge import HandlerRegistry
        registry = HandlerRegistry()
        @registry.task
        async def refuse(why: str) -> None:
            print("mended", why)
        """,
    )

    retried = service.invoke("dead", "retry", "default", row["id"])
    ran = service.run("run", "--burst")

    assert ("refuse", "rejected", 1, "broken") == (row["task"], row["reason"], row["attempts"], row["error"])
    assert "1 dead letter ready again\n" == retried.out
    assert (0, "mended broken\n") == (ran.code, ran.out)
    assert (0, 0) == (service.stats().ready, service.stats().dead)


def test_ctrl_c_at_the_question_is_quiet(service: ServiceFolder, dead: list[str]) -> None:
    """Who thinks better of it at the question leaves without a traceback, and nothing is deleted."""
    ended = service.run_on_terminal("dead", "purge", "default", "--all", prompt="[y/N]: ", interrupts=True)

    assert 130 == ended.code
    assert "Traceback" not in ended.out
    assert 3 == service.stats().dead
