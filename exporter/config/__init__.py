"""Configuration: `load` makes a frozen `Config` from a YAML file, the environment and the command line.

`model.py` defines every key; the rest serves it. Assumes nothing runs yet: called before any stage is built.
"""

from zerospan.exporter.config.load import describe, load
from zerospan.exporter.config.model import Config, ring_size
from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.config.tree import ConfigError

__all__ = ["Config", "ConfigError", "Secret", "Url", "describe", "load", "ring_size"]
