"""The enricher: what every address, container and process is, told to agents, to anyone's OTLP and to people.

Data flows one way: sources (Kubernetes, kubelet, clouds, the OS, files) -> `store.TagStore` -> faces (tag service,
OTLP proxy, /metrics, lookup). A process of its own; the agent imports nothing of it but `client.py`,
`keys.py` and `wire/`, the messages of the tag service.
"""
