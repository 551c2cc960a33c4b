"""What stands in the YAML under a Redis queue is checked before anything connects."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError
from redis.crc import key_slot

from qbridge_redis import RedisOptions, backend
from qbridge_redis.keys import QueueKeys, check_key

_QUOTING = "write a password that has @, :, /, ? or # percent-encoded, or give it as `password`"


@pytest.mark.parametrize(
    "url, shown, username, password",
    [
        ("redis://localhost", "redis://localhost:6379/0", None, None),
        ("redis://", "redis://localhost:6379/0", None, None),
        ("redis://cache:7000/3", "redis://cache:7000/3", None, None),
        ("redis://:pass%40word@cache", "redis://cache:6379/0", None, "pass@word"),
        ("redis://ann:secret@cache/2", "redis://cache:6379/2", "ann", "secret"),
        ("redis://cache?db=4", "redis://cache:6379/4", None, None),
        ("redis://[::1]:7000", "redis://[::1]:7000/0", None, None),
        ("rediss://cache:6380/1?ssl_cert_reqs=none", "rediss://cache:6380/1", None, None),
        ("unix:///run/redis/redis.sock", "unix:///run/redis/redis.sock?db=0", None, None),
        ("unix://:secret@/run/redis.sock?db=5", "unix:///run/redis.sock?db=5", None, "secret"),
    ],
)
def test_a_url_is_understood_and_shown_without_credentials(
    url: str, shown: str, username: str | None, password: str | None
) -> None:
    """Each form of URL gives its address, and the address prints no password."""
    address = RedisOptions.model_validate({"url": url}).address()

    assert (shown, username, password) == (str(address), address.username, address.password)
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "url, problem",
    [
        ("localhost:6379", "the url must begin with redis://, rediss:// or unix://"),
        ("hunter2://cache", "the url must begin with redis://, rediss:// or unix://"),
        ("", "the url must begin with redis://, rediss:// or unix://"),
        (
            "redis://:hunter2/x@cache",
            f"the url's port is not a number from 1 to 65535, or its host is malformed ({_QUOTING})",
        ),
        (
            "redis://cache:99999",
            f"the url's port is not a number from 1 to 65535, or its host is malformed ({_QUOTING})",
        ),
        ("redis://cache:0", "the url's port is 0, not a number from 1 to 65535"),
        ("redis://cache/hunter2", f"the url's database is not a number, 0 or more ({_QUOTING})"),
        ("redis://cache/-1", f"the url's database is not a number, 0 or more ({_QUOTING})"),
        ("redis://cache/1?db=2", "the url names a database twice: after the host and as ?db="),
        ("redis://cache/1#hunter2", f"the url has a # in it ({_QUOTING})"),
        (
            "redis://cache?hunter2=1",
            "the url has an unknown option after its ? (known: db, ssl_ca_certs, ssl_cert_reqs, ssl_certfile, "
            f"ssl_check_hostname, ssl_ciphers, ssl_keyfile; {_QUOTING})",
        ),
        ("redis://cache?ssl_cert_reqs=none", "the url has ssl_ options, which only a rediss:// url takes"),
        ("rediss://cache?ssl_cert_reqs=hunter2", "the url's ssl_cert_reqs is none of none, optional, required"),
        ("rediss://cache?ssl_check_hostname=yes", "the url's ssl_check_hostname is neither true nor false"),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_check_hostname=true",
            "the url has ssl_check_hostname=true but ssl_cert_reqs=none, which checks no name",
        ),
        ("unix://", "a unix url needs the absolute path of a socket, like unix:///run/redis/redis.sock"),
        ("unix://run/redis.sock", "a unix url needs the absolute path of a socket, like unix:///run/redis/redis.sock"),
    ],
)
def test_a_malformed_url_is_refused_without_repeating_it(url: str, problem: str) -> None:
    """The error says what is wrong and quotes nothing, since any part may be a password that wasn't encoded."""
    with pytest.raises(ValidationError) as caught:
        RedisOptions.model_validate({"url": url})

    [error] = caught.value.errors(include_url=False, include_input=False)
    assert ("url",) == error["loc"]
    assert f"Value error, {problem}" == error["msg"]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key, problem",
    [
        ("", "a key has at least one character"),
        ("x" * 513, "a key has at most 512 characters, not 513"),
        ("a\nb", "the key 'a\\nb' contains characters that don't print"),
        ("{a}:qbridge:due", "the key '{a}:qbridge:due' contains ':qbridge:', which marks the keys that belong to "
         "another queue"),
        ("a{", "the braces of the key 'a{' are not one hash tag: write one pair around some text, or none"),
        ("a{}", "the braces of the key 'a{}' are not one hash tag: write one pair around some text, or none"),
        ("}a{", "the braces of the key '}a{' are not one hash tag: write one pair around some text, or none"),
        ("{a}{b}", "the braces of the key '{a}{b}' are not one hash tag: write one pair around some text, or none"),
        ("{{a}}", "the braces of the key '{{a}}' are not one hash tag: write one pair around some text, or none"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_name_a_queue_is_refused(key: str, problem: str) -> None:
    """Each bad key gets its reason."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole text is compared
        check_key(key)

    assert problem == str(caught.value)


@pytest.mark.parametrize(
    "given, loc, message",
    [
        ({"lease": "10ms"}, ("lease",), "Input should be greater than or equal to 0.1"),
        ({"lease": "8d"}, ("lease",), "Input should be less than or equal to 604800"),
        ({"command_timeout": 0}, ("command_timeout",), "Input should be greater than or equal to 0.05"),
        ({"connect_timeout": "1h"}, ("connect_timeout",), "Input should be less than or equal to 300"),
        ({"keys": "a"}, ("keys",), "Extra inputs are not permitted"),
        ({"key": "a{"}, ("key",), "Value error, the braces of the key 'a{' are not one hash tag: write one pair around "
         "some text, or none"),
        ({"url": "redis://:a@h", "password": "b"}, (), "Value error, a password stands both in the url and in "
         "`password`: leave one of them out"),
        ({"url": "redis://a:b@h", "username": "c"}, (), "Value error, a user name stands both in the url and in "
         "`username`: leave one of them out"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused(given: dict[str, object], loc: tuple[str, ...], message: str) -> None:
    """Each wrong option is named, with its reason."""
    with pytest.raises(ValidationError) as caught:
        RedisOptions.model_validate(given)

    [error] = caught.value.errors(include_url=False, include_input=False)
    assert (loc, message) == (error["loc"], error["msg"])


def test_a_password_is_never_printed() -> None:
    """Neither the representation nor the JSON of the options holds a password."""
    options = RedisOptions.model_validate({"url": "redis://:hunter2@cache"})
    other = RedisOptions.model_validate({"password": "hunter2"})

    printed = repr(options) + options.model_dump_json() + repr(other) + other.model_dump_json() + str(options.address())

    assert "hunter2" not in printed


def test_a_separate_password_needs_no_encoding() -> None:
    """`password` reaches the address as it stands."""
    options = RedisOptions.model_validate({"url": "redis://cache", "username": "ann", "password": "a@b/c#d%41"})

    assert ("ann", "a@b/c#d%41") == (options.address().username, options.address().password)


def test_the_schema_shows_the_default_url() -> None:
    """The reference is made from the schema, which shows the default although the URL is a secret."""
    schema = RedisOptions.model_json_schema()

    assert "redis://localhost:6379/0" == schema["properties"]["url"]["default"]


@pytest.mark.parametrize("key", ["orders", "shop:{eu}:orders", "{orders}", "naïve:ключ"])
def test_all_keys_of_a_queue_share_one_hash_slot(key: str) -> None:
    """A cluster keeps the whole queue on one node."""
    keys = QueueKeys.of(check_key(key)).all()

    assert key == keys[0]
    assert 9 == len(set(keys))
    assert {key_slot(key.encode())} == {key_slot(one.encode()) for one in keys}


def test_queues_with_similar_keys_share_none() -> None:
    """The keys of `a` and of `{a}` are in the same slot, and yet different."""
    assert set() == set(QueueKeys.of("a").all()) & set(QueueKeys.of("{a}").all())


def test_the_example_in_the_reference_is_valid() -> None:
    """What the reference shows a user first can be used as it is, once its variable is filled in."""
    example = {**backend.example, "url": "redis://localhost:6379/0"}

    assert "orders" == RedisOptions.model_validate(example).key


def test_the_backend_loads_without_its_client_library() -> None:
    """Only opening needs the client library, and says what to install."""
    program = """
import asyncio, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("redis", "hiredis"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from qbridge import SourceMisconfigured
from qbridge_redis import RedisOptions, backend
source = backend.create("orders", RedisOptions())
try:
    asyncio.run(source.open())
except SourceMisconfigured as exc:
    print(exc)
asyncio.run(source.close())
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert "" == done.stderr
    assert (
        "queue 'orders' needs the client library of Redis, which is not installed: pip install \"qbridge[redis]\"\n"
        == done.stdout
    )
