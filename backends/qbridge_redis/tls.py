"""TLS: its options made into a context, and what a failed connection was told.

A server that wants TLS, wants none, or wants a client's certificate often just hangs up, or says nothing. Trying again
can't help then, but a server that is restarting hangs up in the same way. So `diagnose` asks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator

from qbridge import SourceMisconfigured
from qbridge_redis.options import RedisAddress

__all__ = ["diagnose", "explain", "tls_context"]

#: Seconds for one question.
_PATIENCE = 1.0

#: What OpenSSL calls bytes that are no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}

#: How a server that asks for a client's certificate, and gets none, ends the handshake: with TLS 1.3, and before.
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

_NAME_CLIENT_CERTIFICATE = "ssl_certfile=… and ssl_keyfile=… in the url"


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """Return what an address wants of TLS, with its certificates, keys and ciphers.

    Raises:
        SourceMisconfigured: One of them can't be used; with the option that is wrong.
    """
    options = address.tls_options
    authorities, certificate, key, ciphers = [
        str(options[name]) if name in options else None
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ciphers")
    ]
    context = ssl.create_default_context()
    context.check_hostname = bool(options.get("ssl_check_hostname", True))
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    if authorities is not None:
        with _blaming(address, "ssl_ca_certs"):
            context.load_verify_locations(authorities)
    if certificate is not None:
        with _blaming(address, "ssl_certfile or ssl_keyfile"):
            # An encrypted key must not ask for its password on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
    elif key is not None:
        raise SourceMisconfigured(f"Redis at {address}: ssl_keyfile needs ssl_certfile, the certificate it belongs to")
    if ciphers is not None:
        with _blaming(address, "ssl_ciphers"):
            context.set_ciphers(ciphers)
    return context


def explain(exc: BaseException) -> str | None:
    """Return what a person must do about a TLS handshake that failed, or None if trying again may help."""
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate can't be verified: {cause.verify_message} ({_remedy(cause.verify_code)})"
        reason = getattr(cause, "reason", None) if isinstance(cause, ssl.SSLError) else None
        if reason in _NO_TLS:
            return "it speaks no TLS there: give the url its TLS port, or write redis://"
        if reason in _NO_CERTIFICATE:
            return f"it wants a client's certificate that it trusts: name one with {_NAME_CLIENT_CERTIFICATE}"
        if reason in _REFUSED_CERTIFICATE:
            return f"it refuses the client's certificate ({reason}): name another with {_NAME_CLIENT_CERTIFICATE}"
        if reason in _NOTHING_IN_COMMON:
            return f"it and this program have no version of TLS in common ({reason}): upgrade the older one"
    return None


async def diagnose(address: RedisAddress) -> str | None:
    """Ask a server that ended a connection while it was being made; return what a person must do, or None.

    Takes two seconds at most. Tells the server nothing but PING.
    """
    if address.path:
        return None
    if not address.tls:
        return "it speaks TLS there: write rediss://" if await _speaks_tls(address) else None
    if await _speaks_plainly(address):
        return "it speaks no TLS there: give the url its TLS port, or write redis://"
    return await _complaint(address)


async def _speaks_tls(address: RedisAddress) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        await _ask(address, context)
    except ssl.SSLError as exc:  # an alert is TLS too
        return "ALERT" in (exc.reason or "")
    except OSError:
        return False
    return True


async def _speaks_plainly(address: RedisAddress) -> bool:
    try:
        return (await _ask(address, None, b"PING\r\n")).startswith((b"+", b"-"))
    except OSError:
        return False


async def _complaint(address: RedisAddress) -> str | None:
    # Whoever writes after the handshake may lose the reason to a reset. So only listen.
    try:
        await _ask(address, tls_context(address))
    except OSError as exc:
        return explain(exc)
    return None


async def _ask(address: RedisAddress, context: ssl.SSLContext | None, question: bytes = b"") -> bytes:
    """Connect, ask, and return the first byte that comes within the time; b"" if none comes."""
    writer = None
    name = address.host if context is not None else None
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname=name
            )
            writer.write(question)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE / 2):
                    return await reader.read(1)
            return b""
    finally:
        if writer is not None:
            writer.transport.abort()


@contextlib.contextmanager
def _blaming(address: RedisAddress, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise SourceMisconfigured(f"Redis at {address}: {option} can't be used: {exc}") from exc


def _causes(exc: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = exc
    for _ in range(8):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _remedy(verify_code: int) -> str:
    if verify_code in _OUT_OF_TIME:
        return "renew it, or correct the clock"
    if verify_code in _WRONG_NAME:
        return "give the url a host that the certificate names"
    return "name its authority with ?ssl_ca_certs=… in the url"
