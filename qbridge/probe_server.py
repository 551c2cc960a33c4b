"""ProbeServer: a thread that answers over HTTP whether the service lives, whether it works, and what it has counted.

A thread of its own, so that it answers while the main loop stands still, which is what it is to tell. It reads what the
main loop has published, and nothing else.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from qbridge.condition import Condition, why_not_live, why_not_ready
from qbridge.config import ProbesConfig
from qbridge.errors import ConfigError
from qbridge.metrics import MetricsMissingError, render

__all__ = ["ProbeServer"]

log = logging.getLogger(__name__)

#: Connections that are served at once; further ones are closed.
MAX_CONNECTIONS = 8

#: Seconds that a connection may take, from its beginning to its end.
LONGEST = 5.0

#: Bytes that a request may have.
MAX_REQUEST = 8192

#: Seconds between two looks at whether the server shall end, and so the longest time that this takes.
_LOOK = 0.1

_PATHS = ("/livez", "/readyz", "/metrics")


class ProbeServer:
    """Answers probes from entering to leaving; `publish` is called by the main thread. Listens when it is made.

    Args:
        settings: Where to listen.

    Raises:
        ConfigError: Nothing can listen there.
    """

    def __init__(self, settings: ProbesConfig) -> None:
        self._server = _listen(settings)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_LOOK,), name="probes", daemon=True)

    def publish(self, condition: Condition) -> None:
        """Answer by this from here on."""
        self._server.condition = condition

    def __enter__(self) -> Self:
        self._thread.start()
        host, port = self._server.server_address[:2]
        log.info("probes are answered", extra={"host": host, "port": port})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections(0.0)
        self._server.server_close()


def _listen(settings: ProbesConfig) -> _Server:
    address = (settings.host, settings.port)
    try:
        return (_ServerOnIPv6 if ":" in settings.host else _Server)(address, _Request)
    except (OSError, UnicodeError) as exc:  # a host whose name can't be one
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(
            f"probes: nothing can listen on host {settings.host!r}, port {settings.port}: {reason} "
            "(take a free port of this machine, or 'probes: null')"
        ) from exc


class _Server(ThreadingHTTPServer):
    """The server, in its thread; each connection has a short-lived thread of its own."""

    daemon_threads = False  # they are waited for, once their sockets are shut down
    allow_reuse_port = False  # a port in use is a mistake in the configuration
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.condition = Condition(at=monotonic())
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the DNS for this machine's name and may wait for that.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # an address is any

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(_LOOK)  # no descriptor is free: the same connection is offered again at once
            raise

    def verify_request(self, request: object, client_address: object) -> bool:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                return False
            self._open[cast(socket.socket, request)] = monotonic()
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.drop_connections(LONGEST)

    def drop_connections(self, older_than: float) -> None:
        """End connections that are older: a client that says a byte now and then has no more time than others."""
        now = monotonic()
        with self._lock:
            for connection, began in self._open.items():
                if now - began >= older_than:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that goes away, or was too slow, is no fault
            log.exception("a probe was not answered")


class _ServerOnIPv6(_Server):
    address_family = socket.AF_INET6


class _Request(BaseHTTPRequestHandler):
    """One connection, which is closed after one answer."""

    server: _Server
    timeout = LONGEST

    def setup(self) -> None:
        super().setup()
        self.rfile = _Bounded(cast(io.BufferedReader, self.rfile).detach())

    def version_string(self) -> str:
        """Return what the header `Server` says."""
        return "qbridge"

    def do_GET(self) -> None:
        """Answer a request."""
        path = self.path.partition("?")[0]
        condition = self.server.condition
        if path == "/livez":
            self._judge(why_not_live(condition, monotonic()))
        elif path == "/readyz":
            self._judge(why_not_ready(condition, monotonic()))
        elif path == "/metrics":
            try:
                text, content_type = render(condition)
            except MetricsMissingError as exc:
                self._answer_reasons(HTTPStatus.NOT_IMPLEMENTED, [str(exc)])
            else:
                self._answer(HTTPStatus.OK, text, content_type)
        else:
            self._answer_reasons(HTTPStatus.NOT_FOUND, [f"there are {', '.join(_PATHS)}"])

    def do_HEAD(self) -> None:
        """Answer a request, without a body."""
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is none, as the base class asks for it."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._answer_reasons(HTTPStatus.METHOD_NOT_ALLOWED, ["only GET and HEAD are answered"])
        else:
            self._answer_reasons(HTTPStatus(code), [HTTPStatus(code).phrase])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Log nothing: probes come every few seconds."""

    def _judge(self, reasons: list[str]) -> None:
        self._answer_reasons(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, reasons)

    def _answer_reasons(self, status: HTTPStatus, reasons: list[str]) -> None:
        body = json.dumps({"ok": status is HTTPStatus.OK, "reasons": reasons}, ensure_ascii=False).encode() + b"\n"
        self._answer(status, body, "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.close_connection = True
        self.send_response(status)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Bounded(io.BufferedReader):
    """Reads lines, up to so many bytes in all."""

    _left = MAX_REQUEST

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = self._left if size is None or size < 0 else min(size, self._left)
        if not limit:
            raise LineTooLong("request")  # answered with 431
        line = super().readline(limit)
        self._left -= len(line)
        return line
