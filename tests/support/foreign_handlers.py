"""A module of handlers whose types have the names of others elsewhere; its annotations are text, as in many modules."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["Order", "take"]


class Order(BaseModel):
    """This module's order, which has a code instead of a number."""

    code: str


def take(order: Order) -> str:
    """Take this module's order."""
    return order.code
