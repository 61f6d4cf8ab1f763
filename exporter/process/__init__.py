"""Who a process is: its service name, its OpenTelemetry resource, its labels, its profile. Read from /proc,
once each.

`Describer` is called by assemble/processes.pyx for each new process; everything else here serves it. Facts
about containers, pods and clouds are the enricher's.
"""

from zerospan.exporter.process.describe import Describer
from zerospan.exporter.process.info import ProcessInfo
from zerospan.exporter.process.procfs import alive

__all__ = ["Describer", "ProcessInfo", "alive"]
