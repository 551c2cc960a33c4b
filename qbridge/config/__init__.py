"""The configuration of a service: a YAML file, environment variables and flags, checked before anything starts.

`load_config` reads a file, `parse_config` a text, `build_config` a program's own values. Each gives a `Config` or
raises one `ConfigError` with a line for every problem: place, key, what was given, what is known, the nearest name.
"""

from qbridge.config.loading import build_config, load_config, parse_config
from qbridge.config.models import (
    CodecConfig,
    Config,
    JsonCodecConfig,
    LoggingConfig,
    LoopConfig,
    QueueConfig,
    RawCodecConfig,
    ShutdownConfig,
)

__all__ = [
    "CodecConfig",
    "Config",
    "JsonCodecConfig",
    "LoggingConfig",
    "LoopConfig",
    "QueueConfig",
    "RawCodecConfig",
    "ShutdownConfig",
    "build_config",
    "load_config",
    "parse_config",
]
