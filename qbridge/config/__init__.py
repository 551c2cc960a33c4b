"""The configuration of a service: a YAML file, environment variables and flags, checked before anything starts.

`load_config` reads a file, `parse_config` a text, `build_config` a program's own values. Each gives a `Config` or
raises one `ConfigError` with a line for every problem: place, key, what was given, what is known, the nearest name.
"""

from qbridge.config.loading import build_config, load_config, parse_config, read_config_file
from qbridge.config.models import Config
from qbridge.config.process_models import (
    LoggingConfig,
    LoopConfig,
    ProbesConfig,
    RecycleConfig,
    RetryBudgetConfig,
    ShutdownConfig,
    SigningConfig,
)
from qbridge.config.queue_models import CodecConfig, JsonCodecConfig, QueueConfig, RawCodecConfig

__all__ = [
    "CodecConfig",
    "Config",
    "JsonCodecConfig",
    "LoggingConfig",
    "LoopConfig",
    "ProbesConfig",
    "QueueConfig",
    "RawCodecConfig",
    "RecycleConfig",
    "RetryBudgetConfig",
    "ShutdownConfig",
    "SigningConfig",
    "build_config",
    "load_config",
    "parse_config",
    "read_config_file",
]
