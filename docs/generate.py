"""Writes the pages of docs/reference that are made from the code, so that they can't say anything else.

`python docs/generate.py` writes them anew; with `--check` it writes nothing, and exits with 1 if one is stale.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
import yaml
from model_tables import SECTIONS, model_table, table  # beside this file, as the next
from noted_tables import PAGES as NOTED_PAGES
from noted_tables import page_with_tables
from typer.testing import CliRunner

from qbridge import Backend, Capabilities, Config, ExitCode
from qbridge.cli.app import app
from qbridge.cli.ends import BROKEN_PIPE, INTERRUPTED
from qbridge.config import JsonCodecConfig, QueueConfig, RawCodecConfig
from qbridge.config.model_keys import summary
from qbridge.discovery import installed_backends

__all__ = ["PAGES", "main"]

ROOT = Path(__file__).resolve().parents[1]

MARK = "<!-- Made from the code by docs/generate.py; `make docs` writes it anew. -->"

REFERENCE = ROOT / "docs" / "reference"

#: What `make test-brokers` noted.
TESTED_BROKERS = REFERENCE / "tested-brokers.json"

TESTED_INTRODUCTION = """\
## Tried against

What the conformance kit and the chaos tests (workers killed under load, a broker that goes and comes back) said of
each broker, by `make test-brokers`. Skipped are the rules of abilities that the backend doesn't declare. `make test`
runs the same against the brokers of Debian 12.
"""

CLI_INTRODUCTION = """\
# The command line

What each command says with `--help`. `python -m qbridge` is the same program. How commands end is told in
[exit codes](exit-codes.md).

Each flag is an environment variable too: the one that its help names. Variables with a double underscore, such as
`QBRIDGE_LOGGING__LEVEL`, are keys of the file: see [configuration](configuration.md#where-values-come-from).
"""

CONFIGURATION_INTRODUCTION = """\
# Configuration

Every key of `qbridge.yaml`. `qbridge check` tells what is wrong in a file, and `qbridge schema` prints what an editor
needs to complete one. Unknown keys are errors.

A *duration* is a number of seconds, or a number with `ms`, `s`, `m`, `h` or `d`: `25s`, `1.5h`. A *size* is a number of
bytes, or a number with `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`: `10MiB`.

## Where values come from

From the weakest to the strongest: the defaults below, the file, environment variables, flags.

- In the file, `${NAME}` stands for an environment variable, and `${NAME:-default}` for one that may be missing.
- `QBRIDGE_<SECTION>__<KEY>` is laid over the file: `QBRIDGE_SHUTDOWN__GRACE=10s` is `shutdown.grace`, and
  `QBRIDGE_QUEUES__ORDERS__URL` is `queues.orders.url`. It changes a queue, it adds none.
- `--set shutdown.grace=10s` is laid over both.
"""

BACKENDS_INTRODUCTION = """\
# Backends

What each backend of this project can do at best, as it declares it in its `Capabilities`. The conformance kit verifies
every answer, a no as well as a yes.
"""

EXIT_CODES_INTRODUCTION = """\
# Exit codes

How each `qbridge` command ends. The names are those of `qbridge.ExitCode`, which `Service.run` returns.
"""

API_INTRODUCTION = """\
# Public names

Everything else may change between minor releases. Each name is documented where it is defined.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/reference that are made from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    parser.add_argument("--folder", type=Path, default=REFERENCE, help="where the pages are")
    given = parser.parse_args(arguments)
    stale = {}
    pages = {given.folder / name: page for name, page in PAGES.items()}
    if given.folder == REFERENCE:
        # Pages written by hand, but for their tables.
        pages |= {page: partial(page_with_tables, page) for page in NOTED_PAGES}
    for path, page in pages.items():
        text = page()
        if not path.is_file() or path.read_text("utf-8") != text:
            stale[path] = text
    for path, text in stale.items():
        if not given.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        sys.stdout.write(f"{path.name} {'is stale: make docs writes it anew' if given.check else 'written'}\n")
    return 1 if given.check and stale else 0


def cli_page() -> str:
    """Return the page of all commands: what each says with `--help`."""
    parts = [CLI_INTRODUCTION]
    for words in _command_paths(typer.main.get_command(app)):
        shown = CliRunner().invoke(app, [*words, "--help"], prog_name="qbridge")
        parts.append(f"## `{' '.join(['qbridge', *words])}`")
        parts.append(f"```text\n{shown.stdout.strip()}\n```")
    return _joined(parts)


def configuration_page() -> str:
    """Return the page of every key of the YAML file, with the options of the project's own backends."""
    parts = [
        CONFIGURATION_INTRODUCTION,
        "## The file",
        model_table(Config),
        '## <a id="queues"></a>A queue',
        summary(QueueConfig),
        model_table(QueueConfig, without=("options",)),
    ]
    for name, backend in own_backends().items():
        parts.append(f'### <a id="backend-{name}"></a>Options of `backend: {name}`')
        parts.append(f"{_sentence(backend.summary)} {summary(backend.options)}")
        parts.append(model_table(backend.options))
    parts += [
        '### <a id="codec-json"></a>`codec: {type: json}`',
        summary(JsonCodecConfig),
        model_table(JsonCodecConfig),
        '### <a id="codec-raw"></a>`codec: {type: raw}`',
        summary(RawCodecConfig),
        model_table(RawCodecConfig),
    ]
    for model, anchor in SECTIONS.items():
        if anchor in Config.model_fields and anchor != "queues":
            parts += [f"## `{anchor}`", summary(model), model_table(model)]
    return _joined(parts)


def backends_page() -> str:
    """Return the page of what the project's own backends can do, as they declare it."""
    backends = own_backends()
    described = _described(Capabilities)
    rows = []
    for field in fields(Capabilities):
        answers = [_answer(getattr(backend.capabilities, field.name)) for backend in backends.values()]
        rows.append([f"`{field.name}`", *answers, described[field.name]])
    parts = [
        BACKENDS_INTRODUCTION,
        table(["ability", *(f"`{name}`" for name in backends), "what it means"], rows),
    ]
    for name, backend in backends.items():
        needs = "; ".join(f"`{advice}`" if "pip" in advice else advice for advice in backend.needs.values())
        keys: dict[str, Any] = {"backend": name, **backend.example}
        example = yaml.safe_dump({"queues": {"default": keys}}, sort_keys=False)
        parts += [
            f"## `{name}`",
            f"{_sentence(backend.summary)} {f'Needs {needs}.' if needs else 'Needs nothing more.'} "
            f"[Its options](configuration.md#backend-{name}).",
            f"```yaml\n{example}```",
        ]
    seen = json.loads(TESTED_BROKERS.read_text())
    parts += [
        TESTED_INTRODUCTION,
        table(
            ["broker", "version", "backend", "kit: passed", "skipped", "chaos: passed", "on"],
            [
                [
                    one["broker"],
                    one["version"],
                    f"`{one['backend']}`",
                    *map(str, (one["passed"], one["skipped"], one["chaos"])),
                    one["date"],
                ]
                for one in seen
            ],
        ),
    ]
    return _joined(parts)


def exit_codes_page() -> str:
    """Return the page of how commands end."""
    comments = _comments(inspect.getsource(ExitCode))
    rows = [[f"`{int(code)}`", f"`{code.name}`", comments[code.name]] for code in ExitCode]
    comments = _comments(inspect.getsource(import_module("qbridge.cli.ends")))
    rows += [
        [f"`{INTERRUPTED}`", "", comments["INTERRUPTED"]],
        [f"`{BROKEN_PIPE}`", "", comments["BROKEN_PIPE"]],
        ["`128` + signal", "", "A third signal made a worker leave at once, as `143` after SIGTERM."],
    ]
    return _joined(
        [
            EXIT_CODES_INTRODUCTION,
            table(["code", "name", "when"], rows),
        ]
    )


def api_page() -> str:
    """Return the page of the public names, each with the first line of what it says of itself."""
    parts = [API_INTRODUCTION]
    for root in ("qbridge", "qbridge.testing"):
        package = import_module(root)
        parts += [f"## `{root}`", f"{(package.__doc__ or '').splitlines()[0]}"]
        rows = [[f"`{name}`", *_said_of(package, name)] for name in package.__all__]
        rows.sort(key=lambda row: (row[1], row[0].strip("`").lower()))
        parts.append(table(["name", "module", "what it is"], rows))
    return _joined(parts)


#: The pages by their names in docs/reference.
PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "backends.md": backends_page,
    "exit-codes.md": exit_codes_page,
    "api.md": api_page,
}


def own_backends() -> dict[str, Backend[Any]]:
    """Return the backends that this project ships; others that are installed are none of its reference.

    Raises:
        LookupError: One is not installed as pyproject.toml says.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    installed = installed_backends()
    names = sorted(project["entry-points"]["qbridge.backends"])
    if missing := [name for name in names if name not in installed]:
        raise LookupError(f"install the project anew: backends {', '.join(missing)} are not installed")
    return {name: installed[name] for name in names}


def _command_paths(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from _command_paths(child, (*words, name))


def _said_of(package: Any, name: str) -> tuple[str, str]:
    """Return where a public name is defined, and the first line of its docstring or of the comment above it."""
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"`{value.__module__}`", (inspect.getdoc(value) or "").partition("\n")[0]
    for path in sorted((ROOT / "qbridge").rglob("*.py")):
        comment = _comments(path.read_text("utf-8")).get(name)
        if comment is not None:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            return f"`{module}`", comment
    raise LookupError(f"{name} has no docstring and no comment #: above it")


def _comments(source: str) -> dict[str, str]:
    """Return what stands in `#:` comments above assignments."""
    found = re.finditer(r"((?:^ *#: .*\n)+) *(\w+)(?:: [^=\n]+)? = ", source, re.M)
    return {match[2]: " ".join(re.sub(r"^ *#: ", "", match[1], flags=re.M).split()) for match in found}


def _described(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of each attribute."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[2]
    found = re.finditer(r"^    (\w+): (.*(?:\n        .*)*)", section, re.M)
    return {match[1]: " ".join(match[2].split()) for match in found}


def _answer(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _joined(parts: Iterable[str]) -> str:
    first, *rest = (part.strip() for part in parts)
    title, _, text = first.partition("\n\n")
    return "\n\n".join([title, MARK, text, *rest]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
