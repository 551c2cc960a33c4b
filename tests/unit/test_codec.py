"""The codecs: what they read, what they refuse and in which words, and that what is written can be read."""

from __future__ import annotations

import json
import math
from typing import Any

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbridge import Delivery, TaskMessage, UndecodableMessageError
from qbridge.codec import JsonCodec, RawCodec, RawPayload
from qbridge.message import fields_of

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


def delivery(body: bytes, *, message_id: str = "from-broker", enqueued_at: float | None = None) -> Delivery:
    """Return a delivery with this body."""
    return Delivery(body=body, receipt=1, message_id=message_id, enqueued_at=enqueued_at)


@pytest.mark.parametrize("number", ["1e308", "-1.7976931348623157e308", "0e999", "1e-999", "1" + "0" * 400, '"1e999"'])
def test_a_large_number_that_is_finite_is_read(number: str) -> None:
    """Only what would become infinite is refused."""
    body = f'{{"v":1,"task":"a","args":[{number}]}}'.encode()

    assert [json.loads(number)] == JsonCodec().decode(delivery(body)).args


def test_the_last_of_equal_keys_counts() -> None:
    """As in most readers of JSON; the envelope's own keys are no exception."""
    body = b'{"v":2,"v":1,"task":"a","task":"b","kwargs":{"x":1,"x":2}}'

    read = JsonCodec().decode(delivery(body))

    assert ("b", {"x": 2}) == (read.task, read.kwargs)


def test_a_nul_is_a_character_of_a_text_and_of_no_name() -> None:
    """JSON has it, so arguments may; a task's name may not."""
    assert ["a\0b"] == JsonCodec().decode(delivery(b'{"v":1,"task":"a","args":["a\\u0000b"]}')).args
    with pytest.raises(UndecodableMessageError, match="task: String should match pattern"):
        JsonCodec().decode(delivery(b'{"v":1,"task":"a\\u0000"}'))


def test_of_a_thousand_problems_ten_are_told() -> None:
    """The text of the error stays small, however much is wrong."""
    body = b'{"v":1,"task":"a",%b}' % b",".join(b'"%04d":1' % number for number in range(1000))

    with pytest.raises(UndecodableMessageError) as refusal:
        JsonCodec().decode(delivery(body))

    problems = str(refusal.value).split("; ")
    assert (11, "and 990 more problems") == (len(problems), problems[-1])


def nested(levels: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@settings(max_examples=150, deadline=None)
@given(
    args=st.lists(JSON_VALUES, max_size=3),
    kwargs=st.dictionaries(st.text(), JSON_VALUES, max_size=3),
    headers=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_what_is_written_reads_the_same(args: list[Any], kwargs: dict[str, Any], headers: dict[str, str]) -> None:
    """Any message of JSON values comes out of the codec as it went in: id, arguments, headers and time."""
    message = TaskMessage(task="shop.pay:v2", args=args, kwargs=kwargs, headers=headers)

    read = JsonCodec().decode(delivery(JsonCodec().encode(message)))

    assert message == read


def test_the_envelope_has_the_documented_keys() -> None:
    """The bytes on the wire are the documented JSON object, so that other languages can write it."""
    message = TaskMessage(id="m1", task="greet", args=["world"], kwargs={"n": 2}, headers={"h": "x"}, enqueued_at=1.5)

    body = JsonCodec().encode(message)

    assert (
        b'{"v":1,"id":"m1","task":"greet","args":["world"],"kwargs":{"n":2},"headers":{"h":"x"},"enqueued_at":1.5}'
        == body
    )


def test_only_version_and_task_are_needed() -> None:
    """A message without id and time takes the broker's; arguments and headers may be left out."""
    read = JsonCodec().decode(delivery(b'{"v":1,"task":"greet"}', message_id="b7", enqueued_at=12.5))

    assert TaskMessage(id="b7", task="greet", args=[], kwargs={}, headers={}, enqueued_at=12.5) == read


def test_the_envelope_s_own_id_and_time_win() -> None:
    """What the sender wrote is kept; the broker's id and time are for those who wrote none."""
    body = b'{"v":1,"task":"greet","id":"mine","enqueued_at":3}'

    read = JsonCodec().decode(delivery(body, message_id="b7", enqueued_at=12.5))

    assert ("mine", 3.0) == (read.id, read.enqueued_at)


PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"

REFUSED_BODIES = [
    (b"", "body is not JSON: EOF while parsing a value at line 1 column 0"),
    (b'{"v":1,"task":"a"', "body is not JSON: EOF while parsing an object at line 1 column 17"),
    (b'{"v":1,"task":"a"} {}', "body is not JSON: trailing characters at line 1 column 20"),
    (b'\xef\xbb\xbf{"v":1,"task":"a"}', "body is not JSON: expected value at line 1 column 1"),
    (b'{"v":1,"task":"\xff"}', "body is not JSON: invalid unicode code point at line 1 column 16"),
    (b'{"v":1,"task":"a","args":["\\ud800"]}', "body is not JSON: unexpected end of hex escape at line 1 column 34"),
    (b'{"v":1,"task":"a","args":[NaN]}', "body is not JSON: expected value at line 1 column 27"),
    (b'{"v":1,"task":"a","args":[Infinity]}', "body is not JSON: expected value at line 1 column 27"),
    (b'{"v":1,"task":"a","kwargs":{"x":-Infinity}}', "body is not JSON: invalid number at line 1 column 34"),
    (
        b'{"v":1,"task":"a","args":' + b"[" * 250 + b"]" * 250 + b"}",
        "body is not JSON: recursion limit exceeded at line 1 column 226",
    ),
    (
        b'{"v":1,"task":"a","args":[' + b"9" * 4301 + b"]}",
        "body is not JSON: number out of range at line 1 column 4328",
    ),
    (b"null", "envelope is a JSON null, not an object"),
    (b"true", "envelope is a JSON boolean, not an object"),
    (b"5", "envelope is a JSON number, not an object"),
    (b'"greet"', "envelope is a JSON string, not an object"),
    (b"[]", "envelope is a JSON array, not an object"),
    (b'{"task":"a"}', "envelope has no version v: 1"),
    (b'{"v":null,"task":"a"}', "envelope has no version v: 1"),
    (b'{"v":2,"task":"a"}', "envelope version is '2', this worker reads 1"),
    (b'{"v":"1","task":"a"}', "envelope version is '1', this worker reads 1"),
    (b'{"v":true,"task":"a"}', "envelope version is 'True', this worker reads 1"),
    (b'{"v":1}', "envelope doesn't fit: task: Field required"),
    (b'{"v":1,"task":""}', f"envelope doesn't fit: task: String should match pattern '{PATTERN}'"),
    (b'{"v":1,"task":"a b"}', f"envelope doesn't fit: task: String should match pattern '{PATTERN}'"),
    (b'{"v":1,"task":"a\\n"}', f"envelope doesn't fit: task: String should match pattern '{PATTERN}'"),
    (b'{"v":1,"task":7}', "envelope doesn't fit: task: Input should be a valid string"),
    (b'{"v":1,"task":"a","retries":1}', "envelope doesn't fit: retries: Extra inputs are not permitted"),
    (b'{"v":1,"task":"a","id":""}', "envelope doesn't fit: id: String should have at least 1 character"),
    (
        b'{"v":1,"task":"a","id":"' + b"i" * 129 + b'"}',
        "envelope doesn't fit: id: String should have at most 128 characters",
    ),
    (b'{"v":1,"task":"a","args":{}}', "envelope doesn't fit: args: Input should be a valid list"),
    (b'{"v":1,"task":"a","kwargs":[]}', "envelope doesn't fit: kwargs: Input should be a valid dictionary"),
    (b'{"v":1,"task":"a","headers":{"a":1}}', "envelope doesn't fit: headers.a: Input should be a valid string"),
    (b'{"v":1,"task":"a","enqueued_at":1e999}', "envelope doesn't fit: enqueued_at: Input should be a finite number"),
    *(
        (b'{"v":1,"task":"a",%b}' % arguments, "envelope doesn't fit: a number is beyond 1.8e308, where floats end")
        for arguments in (
            b'"args":[1e999]',
            b'"args":["x",[{"y":[-1E+309]}]]',
            b'"kwargs":{"x":1e0309}',
            b'"args":[1' + b"0" * 309 + b".0]",
            b'"kwargs":{"x":[' + b"9" * 250 + b"e60]}",
        )
    ),
    (
        b'{"v":1,"args":5,"kwargs":5}',
        "envelope doesn't fit: task: Field required; args: Input should be a valid list; "
        "kwargs: Input should be a valid dictionary",
    ),
    (
        b'{"v":1,"task":"a","' + b"k" * 100 + b'":1}',
        f"envelope doesn't fit: {'k' * 80}: Extra inputs are not permitted",
    ),
]


@pytest.mark.parametrize(("body", "text"), REFUSED_BODIES, ids=range(len(REFUSED_BODIES)))
def test_a_body_that_is_no_envelope_is_refused(body: bytes, text: str) -> None:
    """Each fault in an envelope is told in its own words, without repeating a value from it."""
    with pytest.raises(UndecodableMessageError) as refusal:
        JsonCodec().decode(delivery(body))

    assert text == str(refusal.value)


UNWRITABLE: list[tuple[Any, str]] = [
    (object(), "arguments of task 'a' are not JSON: Unable to serialize unknown type: <class 'object'>"),
    (float("nan"), "arguments of task 'a' hold NaN or Infinity, which JSON can't"),
    ({"x": [-math.inf]}, "arguments of task 'a' hold NaN or Infinity, which JSON can't"),
    (
        b"\xff",
        "arguments of task 'a' are not JSON: Error serializing to JSON: invalid utf-8 sequence of 1 bytes from index 0",
    ),
    (
        "\ud800",
        "arguments of task 'a' are not JSON: Error serializing to JSON: UnicodeEncodeError: 'utf-8' codec can't "
        "encode character '\\ud800' in position 0: surrogates not allowed",
    ),
    (
        nested(210),
        "arguments of task 'a' can't be read back from JSON: recursion limit exceeded at line 1 column 236",
    ),
    (
        nested(400),
        "arguments of task 'a' are not JSON: Error serializing to JSON: ValueError: "
        "Maximum serialization depth exceeded",
    ),
    (10**4300, "arguments of task 'a' can't be read back from JSON: number out of range at line 1 column 4338"),
]


@pytest.mark.parametrize(("value", "text"), UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_an_argument_that_json_can_t_hold_is_refused(value: object, text: str) -> None:
    """The sender is told, instead of the worker that could not read the message."""
    with pytest.raises(UndecodableMessageError) as refusal:
        JsonCodec().encode(TaskMessage(id="id", task="a", args=[value]))

    assert text == str(refusal.value)


@pytest.mark.parametrize(("value", "text"), UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_one_of_many_that_json_can_t_hold_is_refused(value: object, text: str) -> None:
    """The one message among others that can't be written is told of in the same words."""
    messages = [fields_of(TaskMessage(id="id", task=task, args=[arg])) for task, arg in (("b", 1), ("a", value))]

    with pytest.raises(UndecodableMessageError) as refusal:
        JsonCodec().write_all([*messages, messages[0]])

    assert text == str(refusal.value)


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(st.tuples(st.lists(JSON_VALUES, max_size=2), st.dictionaries(st.text(), st.text(), max_size=2))))
def test_many_are_written_like_each(calls: list[tuple[list[Any], dict[str, str]]]) -> None:
    """A message has the same bytes whether it is written alone or with others: those of the documented object."""
    messages = [TaskMessage(task="pay", args=args, headers=headers) for args, headers in calls]

    bodies = JsonCodec().write_all([fields_of(message) for message in messages])

    assert [JsonCodec().encode(message) for message in messages] == bodies
    assert [pydantic_core.to_json({"v": 1} | message.model_dump()) for message in messages] == bodies


def test_a_list_that_holds_itself_is_refused() -> None:
    """Writing an endless value ends with an error."""
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(UndecodableMessageError, match="Circular reference detected"):
        JsonCodec().encode(TaskMessage(task="a", args=[endless]))


@pytest.mark.parametrize(
    "value", [["NaN"], ["to Infinity and beyond"], [{"NaN": 1}], nested(195), [10**4299], ["9" * 5000]]
)
def test_what_only_looks_unwritable_is_written(value: list[Any]) -> None:
    """Text that says NaN, values just within the limits of depth and digits: all of it is read as it was written."""
    message = TaskMessage(task="a", args=value)

    assert message == JsonCodec().decode(delivery(JsonCodec().encode(message)))


def test_a_raw_body_is_the_one_argument_of_its_task() -> None:
    """Every body is a task: id, headers and time are the broker's, the bytes wait for the handler's annotation."""
    raw = Delivery(body=b"5", receipt=1, message_id="b7", headers={"h": "x"}, enqueued_at=2.0)

    message = RawCodec("work").decode(raw)

    assert ("b7", "work", [b"5"], {}, {"h": "x"}, 2.0) == (
        message.id,
        message.task,
        message.args,
        message.kwargs,
        message.headers,
        message.enqueued_at,
    )
    assert RawPayload is type(message.args[0])


@pytest.mark.parametrize(
    ("argument", "body"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (b"5", b"5"),
        (5, b"5"),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ("plain text", b"plain text"),
        ("", b""),
        ("NaN", b"NaN"),
        ("5", b'"5"'),
        ('{"a":1}', b'"{\\"a\\":1}"'),
        ("Grüße", "Grüße".encode()),
        (None, b"null"),
    ],
)
def test_a_raw_argument_is_written_so_that_it_reads_the_same(argument: object, body: bytes) -> None:
    """Bytes and text go as they are; text that would read as JSON is quoted, and all else is JSON."""
    assert body == RawCodec("work").encode(TaskMessage(task="work", args=[argument]))


RAW_REFUSED: list[tuple[TaskMessage, str]] = [
    (
        TaskMessage(task="other", args=[1]),
        "a raw queue carries only task 'work', not 'other': send it to another queue",
    ),
    (
        TaskMessage(task="work", args=[1, 2]),
        "a raw queue carries one positional argument, not 2 positional and 0 named ones",
    ),
    (
        TaskMessage(task="work", args=[1], kwargs={"a": 1}),
        "a raw queue carries one positional argument, not 1 positional and 1 named ones",
    ),
    (TaskMessage(task="work"), "a raw queue carries one positional argument, not 0 positional and 0 named ones"),
    (TaskMessage(task="work", args=[math.nan]), "arguments of task 'work' hold NaN or Infinity, which JSON can't"),
    (
        TaskMessage(task="work", args=[object()]),
        "the argument of task 'work' is not JSON: Unable to serialize unknown type: <class 'object'>",
    ),
    (
        TaskMessage(task="work", args=["\ud800"]),
        "the argument of task 'work' is not JSON: 'utf-8' codec can't encode character '\\ud800' in position 0: "
        "surrogates not allowed",
    ),
    (
        TaskMessage(task="work", args=[10**4300]),
        "arguments of task 'work' can't be read back from JSON: number out of range at line 1 column 4301",
    ),
]


@pytest.mark.parametrize(("message", "text"), RAW_REFUSED, ids=range(len(RAW_REFUSED)))
def test_what_a_raw_queue_can_t_carry_is_refused(message: TaskMessage, text: str) -> None:
    """A raw queue takes one argument for one task, and says what is wrong with anything else."""
    with pytest.raises(UndecodableMessageError) as refusal:
        RawCodec("work").encode(message)

    assert text == str(refusal.value)


@pytest.mark.parametrize("name", ["", "two words", "work\n", "{work}", "x" * 129])
def test_a_raw_codec_wants_a_task_name(name: str) -> None:
    """A name that no handler could have is refused when the codec is made."""
    with pytest.raises(ValueError, match="is not a task name"):
        RawCodec(name)
