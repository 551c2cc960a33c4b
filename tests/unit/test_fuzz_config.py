"""Whatever a YAML file holds, it is a `Config`, or one `ConfigError` that tells each problem in a line of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from qbridge import Config, ConfigError, build_config
from qbridge.config import parse_config
from tests.support.config_backend import BACKENDS
from tests.support.fuzzing import JSON_TEXTS, JSON_VALUES, fuzz

START = "handlers: [shop.tasks]\nqueues:\n  orders: {backend: store, url: store://host}\n"

KEY = "Tr0ub4dor&3-Tr0ub4dor&3-Tr0ub4dor&3"

#: Every section and every kind of value; it is right as it stands.
EVERYTHING = f"""\
handlers: [shop.tasks, shop.mail:registry]
queues:
  orders:
    backend: store
    url: store://host
    lease: 30s
    codec: {{type: raw, task: take}}
    loops: slow
    max_message_size: 10MiB
    read_ahead: 10
    stalled_after: null
  mails: {{backend: store, url: store://host, codec: {{type: json}}}}
processes: 4
loops:
  default: {{threads: 1, concurrency: 500, blocked_after: 5s, replace_after: 5m, overtime: 60s}}
  slow: {{implementation: asyncio, worker_threads: 8}}
retry: {{max_attempts: 5, backoff: exponential, base: 1s, cap: 5m, jitter: true}}
max_crashes: 3
retry_budget: {{ratio: 0.2, reserve: 1000}}
fail_fast: false
recycle: {{max_tasks: 1000, max_rss: 500MiB}}
signing:
  keys: {{first: "{KEY}", second: "{KEY[::-1]}"}}
  sign_with: second
  accept_unsigned: true
  max_age: 7d
probes: {{host: 127.0.0.1, port: 8080}}
shutdown: {{grace: 25s, cancel_grace: 3s, flush: 5s}}
logging: {{level: info, format: json}}
"""


def parsed_or_refused(text: str | bytes, env: dict[str, str]) -> str:
    """Return the text of the error; "" if there is none. Every problem is one line."""
    try:
        parse_config(text, env=env, backends=BACKENDS)
    except ConfigError as exc:
        problems = exc.problems
    else:
        return ""
    assert problems
    assert [] == [problem for problem in problems if "\n" in problem or not problem.strip()]
    return "\n".join(problems)


WORDS = """
    handlers queues loops retry shutdown logging processes max_crashes retry_budget recycle signing probes keys
    fail_fast sign_with accept_unsigned max_age ratio reserve max_tasks max_rss host port threads blocked_after
    replace_after stalled_after max_message_size
    orders default backend store url codec type raw task json lease key path tls tags streams first last threads grace
    level base cap << qbridge
"""
NAMES = st.sampled_from(WORDS.split())
SCALARS = st.one_of(
    NAMES,
    st.sampled_from(
        ["store://h", "${A}", "${A:-1}", "$${", "${", "5s", "-1", "1e999", ".nan", "0x", "~", "on", "&a x", "1_0"]
    ),
    st.sampled_from(["*a", "!!int 1", "'q'", '"\\ud800"', "9" * 30, "[]", "{}", "|\n  x", "# c", "", "\t", "--- x"]),
    st.sampled_from(
        ["9" * 5000, "a" * 40, '"\\0"', "!!python/object/apply:os.system [true]", "1:30", "2026-01-01", "=", "10MiB"]
    ),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)


def flow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return YAML in braces and brackets, out of smaller YAML."""
    keys = st.one_of(NAMES, SCALARS)
    pairs = st.tuples(keys, children).map(lambda pair: f"{pair[0]}: {pair[1]}")
    return st.one_of(
        st.lists(children, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(pairs, max_size=4).map(lambda items: f"{{{', '.join(items)}}}"),
    )


DOCUMENTS = st.lists(
    st.tuples(NAMES, st.recursive(SCALARS, flow, max_leaves=8)).map(lambda pair: f"{pair[0]}: {pair[1]}\n"), max_size=6
).map("".join)


def test_the_example_is_right() -> None:
    """What the tests below change is a good configuration."""
    assert "" == parsed_or_refused(EVERYTHING, {})


@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=200)), st.text(max_size=5).filter(lambda name: "\0" not in name)
)
@fuzz(120)
def test_any_text_is_a_config_or_a_config_error(text: str | bytes, value: str) -> None:
    """No text and no bytes make anything but a `Config` or a `ConfigError`."""
    parsed_or_refused(text, {"A": value})


@given(DOCUMENTS, st.text(max_size=5), st.tuples(NAMES, NAMES, NAMES), SCALARS)
@fuzz(150)
def test_any_document_is_a_config_or_a_config_error(
    text: str, value: str, path: tuple[str, str, str], override: str
) -> None:
    """The same for texts that are nearly a configuration, with variables and overrides."""
    parsed_or_refused(text, {"A": value, f"QBRIDGE_{'__'.join(path).upper()}": override})
    parsed_or_refused(START + text, {"A": value, f"QBRIDGE_{'__'.join(path[:2]).upper()}": override})


@given(st.data())
@fuzz(120)
def test_a_damaged_file_is_a_config_or_a_config_error(data: st.DataObject) -> None:
    """A good file in which lines were lost, doubled, indented or cut, and words replaced."""
    lines = EVERYTHING.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(lines) - 1))
        line, word = lines[place], data.draw(SCALARS)
        column = data.draw(st.integers(0, len(line)))
        lines[place : place + 1] = data.draw(
            st.sampled_from(
                [
                    [],
                    [line, line],
                    [f"  {line}"],
                    [line.removeprefix("  ")],
                    [line[:column]],
                    [line[column:]],
                    [line[:column] + word + line[column:]],
                    [f"{line.partition(':')[0]}: {word}"],
                ]
            )
        )
        lines = lines or [""]

    parsed_or_refused("\n".join(lines), {"A": "x"})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a document, but those of the keys for signing."""
    yield path
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if path != ("signing", "keys"):
            yield from places(value[key], (*path, key))


PLAIN: dict[str, Any] = yaml.safe_load(EVERYTHING)
PATHS = [path for path in places(PLAIN) if path not in ((), ("signing",), ("signing", "keys"))]
STRANGE: st.SearchStrategy[Any] = JSON_VALUES | st.sampled_from(
    [1e400, -1, 0, True, "", "x" * 300, "${A}", [[]], {"": {}}, {"a": {"b": "c"}}, None]
)


@given(st.sampled_from(PATHS), STRANGE)
@example(("signing", "sign_with"), "third")
@example(("signing", "max_age"), [])
@fuzz(150)
def test_a_wrong_value_is_told_without_the_keys_for_signing(path: tuple[Any, ...], value: Any) -> None:
    """Whatever stands in the place of a value, in YAML or in a program's mapping, no error shows a key."""
    content = copy.deepcopy(PLAIN)
    inner: Any = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    told = parsed_or_refused(json.dumps(content), {"A": "x"})
    try:
        config = build_config(content, backends=BACKENDS)
    except ConfigError as exc:
        told += str(exc)
    else:
        told += repr(config) + config.model_dump_json()

    assert KEY not in told
    assert KEY[::-1] not in told


@given(JSON_TEXTS)
@fuzz(60)
def test_json_is_a_config_or_a_config_error(text: str) -> None:
    """YAML holds JSON, and so what is wrong with JSON too."""
    parsed_or_refused(text, {})
    parsed_or_refused(f"{START}signing: {text}\n", {})


def test_a_config_is_what_its_dump_says() -> None:
    """But for the keys, which are never dumped."""
    config = parse_config(EVERYTHING, env={}, backends=BACKENDS)

    dumped = config.model_dump(mode="json")

    assert isinstance(config, Config)
    assert {"first", "second"} == set(dumped["signing"]["keys"])
    assert [] == [value for value in dumped["signing"]["keys"].values() if set(value) != {"*"}]
