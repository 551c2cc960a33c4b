"""Authority: certificates of one's own making, as files, for tests that speak TLS."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

__all__ = ["Authority", "Certificate"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM files.

    Attributes:
        chain: The certificate.
        key: Its private key, not encrypted.
    """

    chain: Path
    key: Path


class Authority:
    """One that issues certificates, and that nobody trusts who isn't told to.

    Args:
        folder: An existing folder for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self._count = 0
        #: The authority's own certificate: what is to be trusted.
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, is_expired: bool = False) -> Certificate:
        """Return a certificate for these host names, addresses or mail addresses, for a server or a client."""
        now = datetime.now(UTC)
        end = now - timedelta(days=1) if is_expired else now + timedelta(days=1)
        issued = self._authority.issue_cert(*names, not_before=now - timedelta(days=2), not_after=end)
        self._count += 1
        certificate = Certificate(self._folder / f"{self._count}.pem", self._folder / f"{self._count}.key")
        issued.private_key_pem.write_to_path(certificate.key)
        issued.cert_chain_pems[0].write_to_path(certificate.chain)
        return certificate
