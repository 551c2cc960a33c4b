"""TLS: what a connection needs for it, and what a failed handshake means.

A broker that wants TLS, or a client's certificate, often just hangs up. Trying again can't help then, but one that is
restarting hangs up in the same way. So `diagnose` asks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from qbridge import SourceMisconfigured
from qbridge_rabbitmq.options import RabbitOptions

__all__ = ["diagnose", "explain", "make_context"]

#: Seconds for one question.
_PATIENCE = 1.0

#: What OpenSSL calls bytes that are no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}

#: How a broker that asks for a client's certificate, and gets none, ends the handshake: with TLS 1.3, and before.
_NO_CERTIFICATE = {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"}

_REFUSED_CERTIFICATE = {
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "TLSV1_ALERT_ACCESS_DENIED",
    "TLSV1_ALERT_DECRYPT_ERROR",
    "TLSV1_ALERT_UNKNOWN_CA",
}

_NOTHING_IN_COMMON = {"NO_PROTOCOLS_AVAILABLE", "TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}

#: X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED; _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_OUT_OF_TIME, _WRONG_NAME = {9, 10}, {62, 64}


def make_context(options: RabbitOptions) -> ssl.SSLContext | None:
    """Return what a connection encrypts with, or None if it doesn't.

    Raises:
        SourceMisconfigured: A certificate or a key can't be used; with the option that names it.
    """
    address = options.address()
    if not address.tls:
        return None
    option = "ca_file"
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert_file is not None:
            option = "cert_file or key_file"
            # An encrypted key must not ask for its password on the terminal.
            context.load_cert_chain(options.cert_file, options.key_file, password=lambda: "")
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        raise SourceMisconfigured(f"RabbitMQ at {address}: {option} can't be used: {exc}") from exc
    return context


def explain(cause: BaseException) -> str | None:
    """Return what a person must do about the end of a TLS handshake, or None if trying again may help."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate can't be verified: {cause.verify_message} ({_remedy(cause.verify_code)})"
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    if reason in _NO_TLS:
        return "it speaks no TLS there: give the url its TLS port, or write amqp://"
    if reason in _NO_CERTIFICATE:
        return "it wants a client's certificate that it trusts: name one with cert_file and key_file"
    if reason in _REFUSED_CERTIFICATE:
        return f"it refuses the client's certificate ({reason}): name another with cert_file and key_file"
    if reason in _NOTHING_IN_COMMON:
        return f"it and this program have no version of TLS in common ({reason}): upgrade the older one"
    return None


async def diagnose(options: RabbitOptions) -> str | None:
    """Shake hands with a broker that hung up while a connection was being made; return what a person must do, or None.

    Takes a second and a half at most, and tells the broker nothing.
    """
    address = options.address()
    context = make_context(options)
    if context is not None:
        # Whoever writes after the handshake may lose the reason to a reset. So only listen.
        try:
            await _shake_hands(address.host, address.port, context, options.server_name or address.host)
        except OSError as exc:
            return explain(exc)
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        await _shake_hands(address.host, address.port, context, address.host)
    except ssl.SSLError as exc:
        speaks_tls = "ALERT" in (exc.reason or "")  # an alert is TLS too
    except OSError:
        speaks_tls = False
    else:
        speaks_tls = True
    return "it speaks TLS there: write amqps://" if speaks_tls else None


async def _shake_hands(host: str, port: int, context: ssl.SSLContext, name: str) -> None:
    writer = None
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE / 2):
                await reader.read(1)
    finally:
        if writer is not None:
            writer.transport.abort()


def _remedy(verify_code: int) -> str:
    if verify_code in _OUT_OF_TIME:
        return "renew it, or correct the clock"
    if verify_code in _WRONG_NAME:
        return "give the url a host that the certificate names, or tell what it names with server_name"
    return "name its authority with ca_file"
