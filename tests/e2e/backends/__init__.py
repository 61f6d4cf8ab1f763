"""Real back ends for the end-to-end tests: OpenTelemetry Collector, Tempo, Loki and Prometheus on loopback.

`build.sh` brings the programs, `stack.Stack` runs them, `query.Queries` asks them.
"""
