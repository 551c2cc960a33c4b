"""Good configurations: what each key means, what counts where several say something, and what a `Config` is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from qbridge import BackendNotFoundError, ConfigError, QueueSource, RetryPolicy
from qbridge.config import (
    Config,
    JsonCodecConfig,
    LoggingConfig,
    LoopConfig,
    QueueConfig,
    RawCodecConfig,
    ShutdownConfig,
    build_config,
    load_config,
    parse_config,
)
from qbridge.discovery import CORE_QUEUE_KEYS
from tests.support.config_backend import BACKENDS, Durability, StoreOptions, TlsOptions, text_of

SMALLEST = text_of(
    """
    handlers: [shop.tasks]
    queues:
      orders: {backend: store, url: store://host}
    """
)


def parsed(yaml: str, env: dict[str, str] | None = None, overrides: dict[str, object] | None = None) -> Config:
    return parse_config(text_of(yaml), env=env or {}, overrides=overrides, backends=BACKENDS)


def test_the_smallest_file_takes_every_default() -> None:
    """Handlers and one queue are enough; everything else has a default."""
    config = parsed(SMALLEST)

    assert ["shop.tasks"] == config.handlers
    assert 1 == config.processes
    assert {"default": LoopConfig(threads=1, concurrency=500, implementation="auto", worker_threads=32)} == config.loops
    assert RetryPolicy() == config.retry
    assert 3 == config.max_crashes
    assert ShutdownConfig(grace=25, cancel_grace=2, flush=2) == config.shutdown
    assert LoggingConfig(level="info", format="console") == config.logging
    queue = config.queues["orders"]
    assert ("store", "default", 2**20, 0) == (queue.backend, queue.loops, queue.max_message_size, queue.read_ahead)
    assert JsonCodecConfig() == queue.codec
    assert StoreOptions(url=SecretStr("store://host")) == queue.options


def test_every_key_of_the_core_is_read() -> None:
    """Each key of the file arrives in the model under the same name, durations as seconds and sizes as bytes."""
    config = parsed(
        """
        handlers: [shop.tasks, "shop.more:registry.inner"]
        queues:
          orders:
            backend: store
            url: store://host
            codec: {type: raw, task: shop.resize}
            loops: fast
            max_message_size: 64KiB
            read_ahead: 10
        processes: 1
        loops:
          default: {}
          fast: {threads: 4, concurrency: 7, implementation: asyncio, worker_threads: 2}
        retry: {max_attempts: 9, backoff: linear, base: 500ms, cap: 2h, jitter: false}
        max_crashes: 2
        shutdown: {grace: 1m, cancel_grace: 0, flush: 1.5}
        logging: {level: warning, format: json}
        """
    )

    queue = config.queues["orders"]
    assert ["shop.tasks", "shop.more:registry.inner"] == config.handlers
    assert RawCodecConfig(type="raw", task="shop.resize") == queue.codec
    assert ("fast", 65_536, 10) == (queue.loops, queue.max_message_size, queue.read_ahead)
    assert LoopConfig(threads=4, concurrency=7, implementation="asyncio", worker_threads=2) == config.loops["fast"]
    assert RetryPolicy(max_attempts=9, backoff="linear", base=0.5, cap=7200, jitter=False) == config.retry
    assert 2 == config.max_crashes
    assert ShutdownConfig(grace=60, cancel_grace=0, flush=1.5) == config.shutdown
    assert LoggingConfig(level="warning", format="json") == config.logging


def test_options_of_a_backend_stand_flat_beside_the_cores_keys() -> None:
    """The other keys of a queue are the backend's; texts become paths and members of enums, as its model wants."""
    config = parsed(
        """
        handlers: []
        queues:
          orders:
            backend: store
            url: store://host
            path: ./copies
            lease: 5m
            chunk: 1MiB
            durability: relaxed
            streams: 3
            tags: [a, b]
            tls: {certificate: /etc/store.pem}
        """
    )

    options = config.queues["orders"].options
    assert isinstance(options, StoreOptions)
    assert (Path("copies"), 300.0, 2**20, 3) == (options.path, options.lease, options.chunk, options.streams)
    assert Durability.RELAXED is options.durability
    assert (["a", "b"], TlsOptions(certificate=Path("/etc/store.pem"))) == (options.tags, options.tls)


@pytest.mark.parametrize("written", ["on", "off", "yes", "no", "1:30", "0o19", "12_000", "2026-11-22", "=", "0b1"])
def test_words_that_yaml_1_1_would_bend_stay_texts(written: str) -> None:
    """What only YAML 1.1 reads as a boolean, a number or a date is the text that was written."""
    config = parsed(f"{SMALLEST.rstrip()[:-1]}, key: {written}}}\n")

    assert written == config.queues["orders"].options.model_dump()["key"]


@pytest.mark.parametrize(
    "written, meant",
    [("010", 10), ("0o10", 8), ("0x1F", 31), ("+5", 5), ("-5", -5), ("'${N:-7}'", None), ("${N:-7}", 7)],
)
def test_whole_numbers_follow_yaml_1_2(written: str, meant: int | None) -> None:
    """Zeros in front make no octal number, and only what is not quoted is a number."""
    yaml = SMALLEST + f"    first: {written}\n    last: 100\n".replace("    ", "      ")
    yaml = yaml.replace("{backend: store, url: store://host}", "\n      backend: store\n      url: store://host")

    if meant is None:
        with pytest.raises(ConfigError, match="first must be a whole number"):
            parsed(yaml)
    else:
        assert meant == parsed(yaml).queues["orders"].options.model_dump()["first"]


def test_variables_are_replaced_in_values_and_typed_as_if_they_were_written_there() -> None:
    """${VAR} and ${VAR:-default} stand anywhere in a value; an empty variable takes the default, $${ is a literal."""
    config = parsed(
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://${HOST}:${PORT:-99}/${DATABASE:-a b}
            key: pre-${EMPTY:-dflt}-$${HOST}-$HOST-${EMPTY}
            retries: ${RETRIES}
            ratio: ${RATIO:-0.25}
            tags: ["${HOST}", "${RETRIES}"]
        """,
        {"HOST": "h", "EMPTY": "", "RETRIES": "4"},
    )

    options = config.queues["orders"].options
    assert isinstance(options, StoreOptions)
    assert "store://h:99/a b" == options.url.get_secret_value()
    assert "pre-dflt-${HOST}-$HOST-" == options.key
    assert (4, 0.25, ["h", "4"]) == (options.retries, options.ratio, options.tags)


@pytest.mark.parametrize("value", ["0123", "true", "null", "1e5", "", "${HOST}", "a: [b", "99999999999999999999"])
def test_a_variable_where_a_text_is_wanted_is_that_text(value: str) -> None:
    """A password of digits needs no quotes around its variable, and a value is never looked at twice."""
    config = parsed(
        """
        handlers: []
        queues:
          orders:
            backend: store
            url: store://host
            token: ${VALUE}
        """,
        {"VALUE": value, "HOST": "h"},
    )

    assert value == config.queues["orders"].options.model_dump()["token"]


def test_an_override_beats_a_variable_beats_the_file_beats_the_default() -> None:
    """Each layer counts where no stronger one says something."""
    yaml = SMALLEST + "shutdown: {grace: 1s, flush: 1s}\n"
    env = {"QBRIDGE_SHUTDOWN__GRACE": "2s", "QBRIDGE_SHUTDOWN__FLUSH": "2s"}

    config = parsed(yaml, env, {"shutdown.flush": "3s"})

    assert ShutdownConfig(grace=2, flush=3) == config.shutdown


def test_variables_reach_settings_that_the_file_leaves_out() -> None:
    """A section that the file doesn't have is made, case is not regarded, and other QBRIDGE_ variables are ignored."""
    env = {
        "QBRIDGE_LOGGING__LEVEL": "debug",
        "QBRIDGE_LOOPS__DEFAULT__CONCURRENCY": "10",
        "qbridge_logging__format": "json",
        "QBRIDGE_CONFIG": "other.yaml",
        "QBRIDGE_LOG_LEVEL": "nonsense",
    }

    config = parsed(SMALLEST, env)

    assert LoggingConfig(level="debug") == config.logging
    assert {"default": LoopConfig(concurrency=10)} == config.loops


def test_variables_and_overrides_find_names_with_signs_in_them() -> None:
    """In a variable each sign of a queue's name is an underscore; an override has the name as it is."""
    yaml = """
        handlers: []
        queues:
          shop.orders-1: {backend: store, url: store://host}
          shop: {backend: store, url: store://host}
        """
    env = {"QBRIDGE_QUEUES__SHOP_ORDERS_1__KEY": "0123", "QBRIDGE_QUEUES__SHOP__TLS__CERTIFICATE": "a.pem"}

    config = parsed(yaml, env, {"queues.shop.orders-1.lease": "2s", "queues.shop.retries": 2, "max_crashes": "9"})

    dotted, plain = config.queues["shop.orders-1"].options, config.queues["shop"].options
    assert isinstance(dotted, StoreOptions)
    assert isinstance(plain, StoreOptions)
    assert ("0123", 2.0) == (dotted.key, dotted.lease)
    assert (2, TlsOptions(certificate=Path("a.pem"))) == (plain.retries, plain.tls)
    assert 9 == config.max_crashes


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    """`load_config` reads UTF-8, as editors of all systems write it."""
    path = tmp_path / "qbridge.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode())

    config = load_config(path, env={}, backends=BACKENDS)

    assert ["orders"] == list(config.queues)


def test_a_program_builds_a_configuration_from_its_own_objects() -> None:
    """Ready objects may stand for mappings, and values for texts; the environment is not looked at."""
    config = build_config(
        {
            "handlers": [],
            "queues": {
                "ready": QueueConfig.model_validate(
                    {"backend": "store", "options": StoreOptions(url=SecretStr("store://a"))},
                    context={"backends": BACKENDS},
                ),
                "plain": {"backend": "store", "url": SecretStr("store://b"), "path": Path("copies")},
            },
            "retry": RetryPolicy(max_attempts=2),
            "loops": {"default": LoopConfig(threads=2)},
        },
        backends=BACKENDS,
    )

    ready, plain = config.queues["ready"].options, config.queues["plain"].options
    assert isinstance(ready, StoreOptions)
    assert isinstance(plain, StoreOptions)
    assert ("store://a", "store://b") == (ready.url.get_secret_value(), plain.url.get_secret_value())
    assert (2, 2) == (config.retry.max_attempts, config.loops["default"].threads)


def test_a_programs_mistakes_are_told_without_a_place() -> None:
    """`build_config` tells every problem by its key alone."""
    with pytest.raises(ConfigError) as raised:
        build_config({"handlers": [], "queues": {"a": {"backend": "store"}}, "retri": {}}, backends=BACKENDS)

    assert ("queues.a.url is missing (where the store is, like store://host)",) == raised.value.problems[:1]
    assert raised.value.problems[1].startswith("retri is not a known key (known: handlers, queues,")


def test_a_config_can_be_written_out_and_read_again() -> None:
    """What `model_dump` gives is shaped like the YAML: options flat beside the core's keys."""
    config = parsed(SMALLEST)

    dumped = config.model_dump()
    again = build_config(dumped, backends=BACKENDS)

    assert {*CORE_QUEUE_KEYS, *StoreOptions.model_fields} == set(dumped["queues"]["orders"])
    assert config == again
    assert config == copy.deepcopy(config)


def test_a_config_is_frozen() -> None:
    """Settings can't change under a running worker."""
    config = parsed(SMALLEST)

    with pytest.raises(ValidationError, match="frozen"):
        config.max_crashes = 5  # type: ignore[misc]  # that it can't be set is the point


def test_a_queue_makes_its_source_with_the_backend_it_names() -> None:
    """`create_source` hands the queue's name and options to its backend, installed ones by default."""
    config = parse_config("handlers: []\nqueues: {orders: {backend: memory}}\n", env={})

    source = config.queues["orders"].create_source("orders")

    assert isinstance(source, QueueSource)
    assert "memory" == config.queues["orders"].provider.name


def test_the_cores_keys_of_a_queue_are_those_that_no_option_may_be_named_as() -> None:
    """A key added to `QueueConfig` is refused as a name of options."""
    assert set(CORE_QUEUE_KEYS) == set(QueueConfig.model_fields) - {"options"}


def test_a_missing_backend_is_one_config_error_among_others() -> None:
    """Whoever handles `ConfigError` handles a missing backend."""
    assert issubclass(BackendNotFoundError, ConfigError)
    with pytest.raises(ConfigError, match=r"queues\.a\.backend is 'nats', which no installed package provides"):
        parse_config("handlers: []\nqueues: {a: {backend: nats}}\n", env={})
