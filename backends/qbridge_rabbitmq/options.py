"""RabbitOptions: what stands under a queue in the YAML, checked before anything connects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from qbridge import BackendOptions, Duration
from qbridge_rabbitmq.address import RabbitAddress, parse_url
from qbridge_rabbitmq.names import check_queue

__all__ = ["RabbitOptions"]

#: Arguments of a queue that are the backend's own, each with the option that sets it.
_OWN_ARGUMENTS = {
    "x-queue-type": "queue_type",
    "x-delivery-limit": "delivery_limit",
    "x-dead-letter-exchange": "nothing: messages beyond the delivery limit go among the queue's dead letters",
    "x-dead-letter-routing-key": "nothing: messages beyond the delivery limit go among the queue's dead letters",
    "x-dead-letter-strategy": "nothing: it is at-least-once on a quorum queue",
}

_BESIDE_THE_URL = ("host", "port", "vhost")


class RabbitOptions(BackendOptions):
    """Options of a RabbitMQ queue.

    Attributes:
        url: Where the broker is: `amqp://[user[:password]@]host[:port][/vhost]`, or `amqps://…` for TLS. A virtual
            host or a password with a `/` or another special character is percent-encoded.
        host: The broker's host, in place of a url.
        port: Its port, in place of a url; 5672, or 5671 with TLS.
        vhost: The virtual host, in place of a url.
        username: Whom to log in as, where the url doesn't say. Without either: `guest`.
        password: With what, where the url doesn't say; needs no percent-encoding.
        queue: The queue. Default: the queue's name here. `<queue>.dead`, `<queue>.delays` and `<queue>.delay.<ms>`
            are made beside it.
        queue_type: `quorum` (replicated, crashes counted by the broker) or `classic`.
        declare: Make the queue if it is missing, and insist that it is as these options say. With false it must be
            there, and is taken as it is; `queue_type` must still say what it is.
        arguments: More arguments for the queue, such as `x-max-length`, as they are.
        exchange: Bind the queue to this exchange, which must exist. Messages sent by qbridge go to the queue directly.
        routing_key: With which key to bind it.
        delivery_limit: How often the broker redelivers a message before it makes a dead letter of it by itself, on
            a quorum queue. A safety net: the service's own `max_crashes` must be lower.
        prefetch: How many messages may be on their way to a worker at once, beyond those it works on.
        heartbeat: Seconds; a connection that is silent for longer is lost.
        connect_timeout: Seconds within which a connection must be ready.
        command_timeout: Seconds within which the broker must answer, or confirm what was sent.
        ca_file: Certificates of authorities to trust, a PEM file; otherwise the system's. Only with TLS.
        cert_file: The client's own certificate, a PEM file. Only with TLS.
        key_file: The key of the client's certificate, where `cert_file` doesn't hold it too.
        server_name: The name that the broker's certificate must bear, if it isn't the host. Only with TLS.
    """

    url: SecretStr | None = Field(default=None, json_schema_extra={"examples": ["amqp://guest:guest@localhost/"]})
    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    vhost: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    username: Annotated[str, Field(min_length=1)] | None = None
    password: SecretStr | None = None
    queue: str | None = None
    queue_type: Literal["quorum", "classic"] = "quorum"
    declare: bool = True
    arguments: dict[str, Any] = Field(default_factory=dict)
    exchange: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    routing_key: Annotated[str, Field(max_length=255)] = ""
    delivery_limit: Annotated[int, Field(ge=1, le=2**31 - 1)] = 100
    prefetch: Annotated[int, Field(ge=1, le=2000)] = 500
    heartbeat: Annotated[Duration, Field(ge=1, le=3600)] = 30.0
    connect_timeout: Annotated[Duration, Field(ge=0.05, le=300)] = 10.0
    command_timeout: Annotated[Duration, Field(ge=0.05, le=300)] = 15.0
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None

    @field_validator("url")
    @classmethod
    def _url_is_valid(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parse_url(url.get_secret_value())
        return url

    @field_validator("queue")
    @classmethod
    def _queue_is_valid(cls, queue: str | None) -> str | None:
        return queue if queue is None else check_queue(queue)

    @field_validator("arguments")
    @classmethod
    def _arguments_are_free(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if name in _OWN_ARGUMENTS:
                raise ValueError(f"{name} can't be given here: use {_OWN_ARGUMENTS[name]}")
            if not isinstance(value, str | int):
                raise ValueError(f"{name} must be a text, a whole number or a truth value")  # noqa: TRY004  # pydantic reports ValueError
        return arguments

    @model_validator(mode="after")
    def _one_place(self) -> RabbitOptions:
        if self.url is not None:
            for name in _BESIDE_THE_URL:
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} stands beside a url, which says it too: leave one of them out")
        address = parse_url(self.url.get_secret_value()) if self.url is not None else RabbitAddress()
        if self.password is not None and address.password is not None:
            raise ValueError("a password stands both in the url and in `password`: leave one of them out")
        if self.username is not None and address.username is not None:
            raise ValueError("a user name stands both in the url and in `username`: leave one of them out")
        if not address.tls and (self.ca_file or self.cert_file or self.key_file or self.server_name):
            raise ValueError("ca_file, cert_file, key_file and server_name are for TLS: give an amqps:// url")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file, the certificate that belongs to it")
        if self.routing_key and self.exchange is None:
            raise ValueError("routing_key needs exchange, the exchange to which the queue is bound")
        return self

    def address(self) -> RabbitAddress:
        """Return where the broker is, with the user name and the password from wherever they were given."""
        if self.url is not None:
            address = parse_url(self.url.get_secret_value())
        else:
            address = RabbitAddress(
                host=self.host or "localhost", port=self.port or 5672, vhost="/" if self.vhost is None else self.vhost
            )
        return RabbitAddress(
            host=address.host,
            port=address.port,
            vhost=address.vhost,
            username=self.username if self.username is not None else address.username,
            password=self.password.get_secret_value() if self.password is not None else address.password,
            tls=address.tls,
        )
