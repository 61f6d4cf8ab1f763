"""Zerospan: every request on a machine in Grafana, with no change to any program."""

__version__ = "0.1.0"
