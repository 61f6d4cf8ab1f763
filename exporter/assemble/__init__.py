"""From messages to requests: connections (flows), who made them (processes), the finished span (span.pxd)."""
