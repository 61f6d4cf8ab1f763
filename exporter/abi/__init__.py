"""The kernel's event ABI as Cython sees it (events.pxd) and as Python tests build it (events.pyx)."""
