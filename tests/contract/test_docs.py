"""The documentation is true: blocks run and print what they show, links lead somewhere, tables are fresh."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pytest.mark import ParameterSet
from typer.main import get_command

import qbridge
from qbridge import ExitCode, build_config
from qbridge.cli.app import app
from qbridge.discovery import CORE_QUEUE_KEYS, installed_backends
from tests.support.markdown import anchors_of, blocks_of, links_of, prose_of, table_of_backends
from tests.support.page_run import PageError, PageRun, commands_of
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

SERVICE_GUIDE = ROOT / "docs" / "guides" / "run-as-a-service.md"

#: Commands in the documentation that no test runs, and why.
NOT_RUN = {
    "git clone <this repository> qbridge && cd qbridge": "the reader's first step; the tests run in what it makes",
    "make install        # .venv with the project and its tools, at the versions of constraints.txt": "the same",
    "make check          # all that a commit must pass": "runs this test",
    "make test": "runs this test",
    "make chaos": "the long form of tests/chaos",
    "make demo": "CI runs it as a step of its own",
    "pip install .": "changes the environment in which this test runs",
    'pip install ".[redis]"': "the same",
    'pip install ".[redis,rabbitmq]"': "the same",
    "pip install -e .": "the same; the entry points of the page's pyproject.toml are registered by the test",
    "redis-server --port 6379": "the test starts a server of its own on a free port",
}

#: The parts of a release in the changelog, in their order.
PARTS = ["Security", "Removed", "Deprecated", "Added", "Changed", "Fixed"]

TABLE = re.compile(r"<!-- backends: .*? -->\n(.*?)<!-- end -->\n", re.DOTALL)


def name_of(page: Path) -> str:
    """Return what a page is called in the names of tests."""
    return str(page.relative_to(ROOT))


def needs_redis(page: Path) -> bool:
    """Whether commands of a page speak to a Redis server."""
    return any(
        block.language == "console" and "redis-cli" in block.text for block in blocks_of(page.read_text("utf-8"))
    )


def pages_with_blocks() -> list[ParameterSet]:
    """Return the pages that have blocks, those that speak to a Redis server with the mark that says so."""
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.redis] if needs_redis(page) else [])
        for page in PAGES
        if blocks_of(page.read_text("utf-8"))
    ]


def environment(folder: Path, server: RedisServer | None) -> dict[str, str]:
    """Return the variables that a page's commands need here, and readers don't.

    Args:
        folder: Where commands are put that stand for others of the same name.
        server: The server that redis-cli and `${REDIS_URL}` mean; None if the page has none.
    """
    folder.mkdir()
    variables = {
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a page needs no plugin
    }
    if server is not None:
        command = folder / "redis-cli"
        command.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} --no-raw -p {server.port} "$@"\n')
        command.chmod(0o755)
        variables["REDIS_URL"] = server.url
    return variables


@pytest.mark.parametrize("page", pages_with_blocks())
def test_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Every block of a page runs, in order, and prints what the page shows."""
    folder = tmp_path / "page"
    folder.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer()) if needs_redis(page) else None
        variables = environment(tmp_path / "bin", server)
        run = stack.enter_context(PageRun(folder, environment=variables, not_run=frozenset(NOT_RUN)))

        run.run(page.read_text("utf-8"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "```python\nprint(1)\n```\n```text output\n2\n```\n",
            "line 4: the page shows\n2\nbut what is printed is\n1\n",
        ),
        ("```python\nassert False\n```\n", "line 1: Python exits with 1"),
        ("```python\nprint(1)\n```\n```text output\n1\n...2\n```\n", "line 4: the page shows"),
        ("```console\n$ echo a\nb\n```\n", "line 1: the page shows\nb\nbut what is printed is\na\n"),
        ("```console\n$ echo a\n$ exit 3\n```\n", "line 1: 'exit 3' exits with 3"),
        ("```console\n$ cat tasks.py\nx = 1\n```\n", "line 1: 'cat tasks.py' exits with 1"),
        ('```console terminal="t"\n$ echo ready; exec sleep 0.2\nsteady\n```\n', "did not print what is shown"),
        ('```console terminal="t"\n$ exec sleep 30\n```\n', "in terminal 't' is never ended with ^C"),
        ('```console terminal="t"\n$ exec sleep 30\n^C\n```\n', "exits with -2 after ^C"),
        ("```yaml\nlogging: {levle: debug}\n```\n", "logging.levle is not a known key"),
        (
            '```yaml title="qbridge.yaml"\nqueues: {a: {backend: memory, max: 1}}\n```\n',
            "queues.a.max is not a known",
        ),
        ('```toml title="pyproject.toml"\n[project\n```\n', "line 1: not a pyproject.toml"),
        ("```json\n{'a': 1}\n```\n", "line 1: not JSON"),
        ("```sh\nls\n```\n", "line 1: write commands as console"),
    ],
)
def test_a_page_that_shows_something_else_is_caught(text: str, complaint: str, tmp_path: Path) -> None:
    """A block that fails, or prints what the page doesn't show, fails with the block's line."""
    with (
        PageRun(tmp_path, environment=environment(tmp_path / "bin", None), patience=8.0) as run,
        pytest.raises(PageError) as caught,
    ):
        run.run(text)

    assert complaint in str(caught.value)


def test_a_page_may_leave_out_and_append(tmp_path: Path) -> None:
    """`...` stands for text or lines, blocks of one title are one file, a terminal runs beside other commands."""
    text = """
```python title="tasks.py"
numbers = [1]
```
```python title="tasks.py"
numbers.append(2)
print(numbers, "at 12:30:01.123")
```
```text output
[1, ...] at 00:00:00.000
```
```console terminal="t"
$ trap 'echo bye; exit 0' INT; echo one; echo two; echo three; touch up; while true; do sleep 0.05; done
one
...
three
```
```console
$ until [ -e up ]; do sleep 0.05; done; python tasks.py
...
$ printf 'a\\n\\nb\\n'
a
...
b
```
```console terminal="t"
^C
bye
```
"""
    with PageRun(tmp_path, environment=environment(tmp_path / "bin", None)) as run:
        run.run(text)

    assert "numbers = [1]\nnumbers.append(2)\n" in (tmp_path / "tasks.py").read_text()


def test_every_command_that_is_not_run_stands_in_a_page() -> None:
    """The list of commands that no test runs has no entry too many."""
    commands = {
        command
        for page in PAGES
        for block in blocks_of(page.read_text("utf-8"))
        if block.language == "console"
        for command, _ in commands_of(block.text)
    }

    assert set() == NOT_RUN.keys() - commands


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link leads to a file of the project, and to a heading that it has."""
    dead = []
    for link in links_of(page.read_text("utf-8")):
        path, _, anchor = link.target.partition("#")
        if ":" in path:  # https:, mailto:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text("utf-8"))):
            dead.append(f"line {link.line}: {link.target}")

    assert [] == dead


def test_dead_links_are_seen() -> None:
    """Links are found in prose and tables with their lines and not in code; headings have the anchors of GitHub."""
    text = "# A `b`, c\n\n[x](y.md#z) `[no](no.md)`\n```text\n[no](no.md)\n```\n| [a [b]](../c.md) |\n# A b, c\n"

    assert [(3, "y.md#z"), (7, "../c.md")] == [(link.line, link.target) for link in links_of(text)]
    assert {"a-b-c", "a-b-c-1"} == anchors_of(text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_code_exist(page: Path) -> None:
    """A path of the project that a page names in code is there."""
    folders = "qbridge|backends|tests|docs|benchmarks"
    named = [
        path
        for _, line in prose_of(page.read_text("utf-8"))
        for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", line)
    ]

    assert [] == [path for path in named if not (ROOT / path).exists()]


def test_every_page_is_linked_from_the_index() -> None:
    """docs/index.md leads to every page of the documentation."""
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.target.partition("#")[0]).resolve() for link in links_of(index.read_text("utf-8"))}
    pages = {page for page in PAGES if page.is_relative_to(index.parent)}

    assert set() == pages - linked - {index}


def test_flags_in_the_documentation_are_known() -> None:
    """Every `--flag` of a qbridge command that a page names is one that the command has."""
    wrong = []
    for page in PAGES:
        for command, rest in re.findall(r"\bqbridge ((?:dead )?[a-z]+)((?: [^\n`|;]*)?)", page.read_text("utf-8")):
            if flags := set(re.findall(r"(?<=\s)--?[a-zA-Z][\w-]*", rest)):
                wrong += [f"{name_of(page)}: qbridge {command} {flag}" for flag in flags - flags_of(command)]

    assert [] == wrong


def flags_of(command: str) -> set[str]:
    """Return the flags of a command of qbridge; none if there is no such command."""
    found: Any = get_command(app)
    for name in command.split():
        found = getattr(found, "commands", {}).get(name)
    return {name for parameter in getattr(found, "params", ()) for name in parameter.opts} | {"--help"}


def test_the_configuration_in_full_shows_every_key_and_its_default() -> None:
    """The file in the guide for operators has every key of the core, with the value that it has by itself."""
    [block] = [block for block in blocks_of(SERVICE_GUIDE.read_text("utf-8")) if block.title == "qbridge.yaml"]
    shown = yaml.safe_load(block.text)
    least = {"handlers": shown["handlers"], "queues": {"default": {"backend": "sqlite", "path": "./qbridge.db"}}}

    defaults = build_config(least)

    assert set(type(defaults).model_fields) == shown.keys()
    assert defaults == build_config(shown)
    for section in ("retry", "retry_budget", "recycle", "shutdown", "logging"):
        assert type(getattr(defaults, section)).model_fields.keys() == shown[section].keys()
    assert type(defaults.loops["default"]).model_fields.keys() == shown["loops"]["default"].keys()
    assert {*CORE_QUEUE_KEYS, "path", "lease"} == shown["queues"]["default"].keys()


def test_exit_codes_and_log_lines_of_the_guide_are_the_real_ones() -> None:
    """The guide for operators names every exit code, and the lines that it tells to watch are lines that are logged."""
    text = SERVICE_GUIDE.read_text("utf-8")
    codes = {(int(code), name) for code, name in re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", text, re.M)}
    lines = re.findall(r"^\| (?:error|warning) \| `([^`]+)` \|", text, re.M)
    source = "".join(path.read_text("utf-8") for path in (ROOT / "qbridge").glob("*.py"))

    assert {(int(code), code.name) for code in ExitCode} == codes
    assert 20 == len(lines)
    assert [] == [line for line in lines if f'"{line}"' not in source]


def test_the_table_of_backends_is_fresh() -> None:
    """The tables in the README and in the page on deliveries say what the installed backends declare."""
    tables = [table for page in PAGES for table in TABLE.findall(page.read_text("utf-8"))]

    fresh = table_of_backends(installed_backends().values())
    assert [fresh] * 2 == tables, f"put this between the marks of README.md and docs/concepts/delivery.md:\n{fresh}"


def test_the_readme_is_short() -> None:
    """The README has at most 120 lines and names the commands that try and test the project."""
    text = (ROOT / "README.md").read_text("utf-8")

    assert len(text.splitlines()) <= 120
    assert {"make demo", "make test"} <= {command for command in NOT_RUN if f"$ {command}\n" in text}


def test_the_floors_are_drawn_as_they_are() -> None:
    """The page on the house draws the floors that import-linter holds."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [contract] = [one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "floors"]
    floors = [re.sub("[()]", "", layer) for layer in contract["layers"]]

    blocks = blocks_of((ROOT / "docs" / "concepts" / "internals.md").read_text("utf-8"))

    assert floors == blocks[0].text.splitlines()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "decisions"], ids=name_of)
def test_a_decision_is_short_and_has_its_three_parts(page: Path) -> None:
    """A decision has under 40 lines: a context, a decision and a consequence."""
    text = page.read_text("utf-8")

    assert len(text.splitlines()) < 40
    assert ["Context", "Decision", "Consequence"] == re.findall(
        r"^\*\*(Context|Decision|Consequence)\.\*\*", text, re.M
    )


def test_the_changelog_begins_with_this_version() -> None:
    """The top release of the changelog is `qbridge.__version__`, and each release has its parts in order."""
    text = (ROOT / "docs" / "changelog.md").read_text("utf-8")
    releases = re.split(r"^## ", text, flags=re.M)[1:]

    assert f"{qbridge.__version__} " == releases[0][: len(qbridge.__version__) + 1]
    for release in releases:
        parts = re.findall(r"^### (.+)$", release, re.M)
        assert sorted(parts, key=PARTS.index) == parts
