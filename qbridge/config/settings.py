"""What all models of the configuration share: the base of settings, and the type of names."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from qbridge.message import NAME_PATTERN

__all__ = ["Name", "Settings"]

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, types are not bent, values stay out of error texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
