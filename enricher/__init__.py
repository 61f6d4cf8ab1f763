"""The enricher: the tag service and OTLP proxy. Its room; issue 5 furnishes it."""
