"""What the interpreter is told for a process that keeps hundreds of thousands of small things.

Called once by cli/run.py, when all is imported and before any source starts. The store's things have no cycles and are
not even seen by the garbage collector, but each page of a list makes thousands of short-lived ones: at the default
thresholds their inspection costs a sixth of the list. What the C library is told: exporter/cli/daemon.py.
"""

import gc


def tune() -> None:
    """What is there by now stays: it is never looked at again."""
    gc.set_threshold(20_000, 20, 50)
    gc.freeze()
