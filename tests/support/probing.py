"""How tests ask a service's probes."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Answer", "ask", "free_port", "metrics_of", "samples", "wait_for_answer"]

#: Seconds that a service may take to be what a test waits for, on a busy machine.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe was answered: the status, and the reasons."""

    status: int
    reasons: list[str] = field(default_factory=list)


def ask(port: int, path: str) -> Answer:
    """Ask a probe.

    Raises:
        OSError: Nobody answers.
    """
    status, body = _get(port, path)
    reasons = json.loads(body)["reasons"]
    assert json.loads(body)["ok"] is (status == 200)
    return Answer(status, reasons)


def wait_for_answer(port: int, path: str, enough: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is the one that is waited for; fail with the last one if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    found: object = None
    while time.monotonic() < deadline:
        try:
            answer = ask(port, path)
        except OSError as exc:  # not started
            found = exc
        else:
            if enough(answer):
                return answer
            found = answer
        time.sleep(0.05)
    raise AssertionError(f"{path} was not what was waited for, but {found!r}")


def metrics_of(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return all samples of /metrics by name and labels."""
    status, body = _get(port, "/metrics")
    assert status == 200, body
    return samples(body)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of a text in Prometheus' format, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
