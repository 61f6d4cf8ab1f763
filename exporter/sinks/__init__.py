"""Sinks: encoded batches go to receivers and files, each behind a bounded queue and a retry of its own.

`base.py` is the interface, `queue.py` the common engine, `build.py` makes the sinks of a configuration.
Nothing in here blocks or raises into the pipeline.
"""
