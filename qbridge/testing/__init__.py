"""What authors of backends and handlers test with. Needs pytest."""

import pytest

# So that a broken rule shows its values: pytest rewrites the asserts of test files only, unless told.
pytest.register_assert_rewrite("qbridge.testing.conformance")

from qbridge.testing.conformance import Clock, SourceConformance, needs  # noqa: E402  # after the line above
from qbridge.testing.proxy import TcpProxy  # noqa: E402  # after the line above

__all__ = ["Clock", "SourceConformance", "TcpProxy", "needs"]
