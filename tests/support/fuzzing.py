"""What the fuzz tests share: how many examples, JSON texts good and bad, and bytes that were tampered with."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from qbridge import TaskMessage

__all__ = ["JSON_TEXTS", "JSON_VALUES", "MESSAGES", "NAMES", "fuzz", "tampered"]

#: More examples for a long run: `QBRIDGE_FUZZ_EXAMPLES=20000 make test ARGS="-k fuzz --timeout 0"`.
EXAMPLES = os.environ.get("QBRIDGE_FUZZ_EXAMPLES")


def fuzz(examples: int) -> settings:
    """Return settings for so many examples, unless the environment says otherwise."""
    return settings(
        max_examples=int(EXAMPLES) if EXAMPLES else examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


#: Values that JSON can hold and Python reads back as they were.
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**320)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), children, max_size=4)
    ),
    max_leaves=12,
)

NAMES = st.from_regex(r"\A[A-Za-z0-9_.:\-]{1,128}\Z")

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)

#: Messages whose arguments are JSON.
MESSAGES = st.builds(
    TaskMessage,
    id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=128),
    task=NAMES,
    args=st.lists(JSON_VALUES, max_size=3),
    kwargs=st.dictionaries(_TEXTS, JSON_VALUES, max_size=3),
    headers=st.dictionaries(_TEXTS, _TEXTS, max_size=3),
    enqueued_at=st.floats(allow_nan=False, allow_infinity=False),
)

#: Pieces of JSON that have broken a parser somewhere, or are none.
_ATOMS = st.sampled_from(
    [
        *("1e999", "-1e999", "1E+400", "0e9999", "1e-9999", "-0", "-0.0", "01", "1.", ".5", "+1", "1_000", "0x10"),
        *("NaN", "Infinity", "-Infinity", "nan"),
        *("null", "true", "false", "nil", "{}", "[]", "[,]", "{,}", "{1:2}", "'a'", '"a', '{"a"}', '{"a":1,"a":2}'),
        *('"1e999"', '"__class__"'),
        *(r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\u0000"', r'"\x41"'),
        *("1" + "0" * 310 + ".5", "9" * 4300, "9" * 4301, "-" + "9" * 5000),
        *("[" * 198 + "]" * 198, "[" * 250 + "]" * 250, '{"a":' * 250 + "1" + "}" * 250, "[" * 3000),
        *('"\x00"', '"\n"', "\ufeff", "/* */ 1", "1 2"),
    ]
)


def _containers(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = st.sampled_from(['"a"', '"v"', '"task"', '"sig"', '""', '"\\u0000"']) | _TEXTS.map(lambda text: f'"{text}"')
    pairs = st.tuples(keys, children).map(":".join)
    return st.lists(children, max_size=4).map(lambda items: f"[{','.join(items)}]") | st.lists(pairs, max_size=4).map(
        lambda items: f"{{{','.join(items)}}}"
    )


#: Texts that are JSON, or nearly.
JSON_TEXTS = st.recursive(_ATOMS | st.integers().map(str) | st.floats().map(repr), _containers, max_leaves=8)

_PIECES = (
    st.binary(max_size=4)
    | st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\x00", b"\xff", b"e", b"9" * 400])
    | JSON_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
)

_CHANGES = st.lists(
    st.tuples(st.sampled_from(["replace", "double", "cut"]), st.floats(0, 1), st.integers(0, 40), _PIECES),
    min_size=1,
    max_size=4,
)


def tampered(original: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return bytes in which something was replaced, put in, cut out or doubled, up to four times."""
    return st.builds(_changed, original, _CHANGES)


def _changed(body: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    for how, place, length, piece in changes:
        start = round(place * len(body))
        before, middle, after = body[:start], body[start : start + length], body[start + length :]
        body = before + {"replace": piece, "double": middle * 2, "cut": b""}[how] + after
    return body
