"""No password is told: by no log line at debug level, no error and its causes, no representation and no command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from qbridge import Outgoing, QueueSource, SourceError
from qbridge.discovery import installed_backends
from tests.support.cli import ServiceFolder, service
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]  # a fixture

SECRET = "hunter2swordfish"

USER = "secretive"

REDIS = pytest.param("redis", marks=pytest.mark.redis)
RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server whose password is the secret."""
    with RedisServer(arguments=("--requirepass", SECRET), password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def rabbitmq(rabbitmq_server: RabbitServer) -> Iterator[RabbitServer]:
    """A server with a user whose password is the secret."""
    rabbitmq_server.ctl("add_user", USER, SECRET)
    rabbitmq_server.ctl("set_permissions", USER, ".*", ".*", ".*")
    yield rabbitmq_server
    rabbitmq_server.ctl("delete_user", USER)


@pytest.fixture
def port(backend: str, request: pytest.FixtureRequest) -> int:
    """Where the backend's server listens."""
    server: RedisServer | RabbitServer = request.getfixturevalue(backend)
    return server.port


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every library say all that it can; at the end nothing of that is the secret."""
    caplog.set_level(logging.DEBUG)
    asyncio_log = logging.getLogger("asyncio")
    before = asyncio_log.level
    asyncio_log.setLevel(logging.DEBUG)
    yield
    asyncio_log.setLevel(before)
    assert SECRET not in caplog.text
    assert SECRET not in repr([(vars(record), record.getMessage()) for record in caplog.records])


def told_by(exc: BaseException) -> list[str]:
    """All texts that an exception, what it came from, and what pydantic tells beside it can show."""
    texts: list[str] = []
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [exc]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        waiting += (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        waiting += (inner for inner in (*each.args, *vars(each).values()) if isinstance(inner, BaseException))
        texts += [str(each), repr(each), repr(each.args), repr(vars(each))]
        if isinstance(each, ValidationError):
            texts += [repr(each.errors()), each.json()]
            waiting += (error.get("ctx", {}).get("error") for error in each.errors())
    return [*texts, "".join(traceback.format_exception(exc))]


def shown_by(*objects: object) -> list[str]:
    """All texts that objects, and what they consist of, show of themselves."""
    texts = [text for each in objects for text in (repr(each), str(each))]
    return texts + [
        repr(vars(each)) for each in objects if hasattr(each, "__dict__") and not isinstance(each, SecretStr)
    ]


def telling(texts: list[str]) -> list[str]:
    """Those of the texts that tell the secret."""
    return [text for text in texts if SECRET in text]


def make(backend: str, options: Mapping[str, Any]) -> QueueSource:
    """A source of a backend."""
    plugin = installed_backends()[backend]
    return plugin.create("orders", plugin.options.model_validate(dict(options)))


def url_of(backend: str, port: int, *, user: str = USER, tls: str = "", path: str = "") -> str:
    """A URL with the secret in it."""
    scheme, known = {"redis": ("redis", "default" if user == USER else user), "rabbitmq": ("amqp", user)}[backend]
    return f"{scheme}{tls}://{known}:{SECRET}@127.0.0.1:{port}/{path}"


async def failure(backend: str, **options: Any) -> list[str]:
    """Open a source that can't be opened; return all that anybody can see of that."""
    source = make(backend, options)
    with pytest.raises(SourceError) as caught:
        await source.open()
    shown = shown_by(source, *vars(source).values())
    await source.close()
    return told_by(caught.value) + shown


@pytest.mark.parametrize("backend", [REDIS, RABBITMQ])
async def test_no_failed_opening_tells_it(backend: str, port: int, nowhere: int) -> None:
    """Nobody listens, TLS meets none, the database or virtual host isn't there, the password is refused."""
    wrong = {"redis": {"username": "nobody"}, "rabbitmq": {"username": "nobody"}}[backend]
    no_user = url_of(backend, port).split("@")[1]
    scheme = url_of(backend, port).split(":", maxsplit=1)[0]

    texts = [
        *await failure(backend, url=url_of(backend, nowhere)),
        *await failure(backend, url=url_of(backend, port, tls="s"), connect_timeout=1),
        *await failure(backend, url=url_of(backend, port, path="99")),
        *await failure(backend, url=f"{scheme}://{no_user}", password=SECRET, **wrong),
    ]

    assert len(texts) > 20
    assert [] == telling(texts)


@pytest.mark.redis
async def test_a_server_that_repeats_the_command_does_not_tell_it() -> None:
    """A server without AUTH tells what it was sent, password and all; the error doesn't."""
    with RedisServer(arguments=("--requirepass", SECRET, "--rename-command", "AUTH", ""), password=SECRET) as server:
        texts = await failure("redis", url=url_of("redis", server.port))

    assert any("unknown command" in text for text in texts)
    assert [] == telling(texts)


@contextlib.asynccontextmanager
async def opened(backend: str, port: int) -> AsyncIterator[QueueSource]:
    """A source that has sent and claimed a message."""
    source = make(backend, {"url": url_of(backend, port)})
    await source.open()
    try:
        await source.send([Outgoing(body=b"x", message_id="1")])
        assert len(await source.receive(1, 5)) == 1
        yield source
    finally:
        await source.close()


@pytest.mark.parametrize("backend", [REDIS, RABBITMQ])
async def test_no_lost_connection_tells_it(backend: str, port: int, request: pytest.FixtureRequest) -> None:
    """A source and its parts show themselves without it; calls on a connection that is lost fail without it."""
    server = request.getfixturevalue(backend)
    cut: dict[str, Callable[[], Any]] = {
        "redis": lambda: server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        "rabbitmq": lambda: server.ctl("close_all_connections", "ended by a test"),
    }
    asyncio.get_running_loop().set_debug(True)
    texts: list[str] = []
    async with opened(backend, port) as source:
        texts += shown_by(source, *vars(source).values())
        for part in list(vars(source).values()):
            texts += shown_by(*getattr(part, "__dict__", {}).values())
        await asyncio.to_thread(cut[backend])
        for call in (source.stats, lambda: source.send([Outgoing(body=b"y", message_id="2")])):
            with pytest.raises(SourceError) as caught:
                await call()
            texts += told_by(caught.value)

    assert [] == telling(texts)


WRONG: dict[str, list[dict[str, Any]]] = {
    "redis": [
        {"url": f"redis://me:{SECRET}@host:port/0"},
        {"url": f"redis://me:1/{SECRET}@host/0"},
        {"url": f"http://me:{SECRET}@host/0"},
        {"url": f"redis://me:{SECRET}@host/0", "password": SECRET},
        {"url": f"redis://me:{SECRET}@host/0", "lease": -1, "key": ""},
        {"url": f"redis://me:{SECRET}@host/0?{SECRET}=1"},
        {"url": [SECRET], "password": {SECRET: 1}, "passwort": SECRET},
    ],
    "rabbitmq": [
        {"url": f"amqp://me:{SECRET}@host:port/"},
        {"url": f"amqp://me:1/{SECRET}@host/"},
        {"url": f"http://me:{SECRET}@host/"},
        {"url": f"amqp://me:{SECRET}@host/", "password": SECRET},
        {"url": f"amqp://me:{SECRET}@host/", "host": "host", "port": "x"},
        {"url": f"amqp://me:{SECRET}@host/#x"},
        {"url": [SECRET], "password": {SECRET: 1}},
    ],
}


@pytest.mark.parametrize(
    "backend, options", [(name, options) for name, several in WRONG.items() for options in several]
)
def test_no_error_of_the_options_tells_it(backend: str, options: dict[str, Any]) -> None:
    """Neither pydantic's text nor its `errors()` nor any context of it has what was given."""
    model = installed_backends()[backend].options

    with pytest.raises(ValidationError) as caught:
        model.model_validate(options)

    assert [] == telling(told_by(caught.value))


@pytest.mark.parametrize("backend", ["redis", "rabbitmq"])
def test_no_form_of_the_options_shows_it(backend: str) -> None:
    """A representation, a dump, JSON and an address: none of them."""
    options = installed_backends()[backend].options.model_validate({"url": url_of(backend, 1)})

    texts = [*shown_by(options, options.address()), repr(options.model_dump()), options.model_dump_json()]

    assert [] == telling(texts)
    assert SECRET == options.address().password


def write(service: ServiceFolder, queue: Mapping[str, Any]) -> None:
    """Give a service a queue with these keys."""
    service.write("qbridge.yaml", json.dumps({"handlers": ["shop_tasks"], "queues": {"default": dict(queue)}}))


def told_by_commands(service: ServiceFolder) -> list[str]:
    """All that commands print about a queue, with their tracebacks."""
    commands = (("check",), ("queues", "--debug"), ("send", "greet", '"x"', "--debug"), ("dead", "list", "default"))
    ends = [service.invoke(*command, env={"QBRIDGE_DEBUG": "1"}) for command in commands]
    return [text for end in ends for text in (end.out, end.err)]


def told_by_a_worker(service: ServiceFolder) -> list[str]:
    """All that a worker prints and logs at debug level until it gives up, or has told that it will try again."""
    with WorkerProcess(service.path, "--log-level", "debug", "--debug") as worker:
        with contextlib.suppress(AssertionError):  # it may end before
            worker.wait_for(lambda _: any("source lost" in line or "source ready" in line for line in worker.log))
            worker.signal(signal.SIGTERM)
        worker.wait()
    assert worker.log
    return [*worker.lines, *worker.log]


@pytest.mark.parametrize("backend", [REDIS, RABBITMQ])
def test_no_command_tells_it(backend: str, port: int, nowhere: int, service: ServiceFolder) -> None:
    """`check`, `queues`, `send`, `dead` and `run` at debug level: on a good server, a wrong password, and nowhere."""
    texts: list[str] = []
    for url in (url_of(backend, port), url_of(backend, port, user="nobody"), url_of(backend, nowhere)):
        write(service, {"backend": backend, "url": url, "connect_timeout": "2s"})
        texts += told_by_commands(service) + told_by_a_worker(service)

    assert any("127.0.0.1" in text for text in texts)
    assert [] == telling(texts)


def test_a_url_given_to_sqlite_is_not_told(service: ServiceFolder) -> None:
    """Whoever changes the backend and forgets the URL is told of the key, not of its value."""
    url = f"redis://me:{SECRET}@localhost/0"
    texts: list[str] = []
    for keys in ({"path": "./q.db", "url": url}, {"path": url}, {"path": "./q.db", "lease": url}):
        write(service, {"backend": "sqlite", **keys})
        texts += told_by_commands(service) + told_by_a_worker(service)

    assert any("queues.default.url is not a known key" in text for text in texts)
    assert [] == telling(texts)
