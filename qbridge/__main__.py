"""`python -m qbridge` is the command `qbridge`."""

from __future__ import annotations

from qbridge.cli import main

if __name__ == "__main__":
    main()
