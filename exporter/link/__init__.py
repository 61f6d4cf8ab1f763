"""Which spans belong together: keys (ids), the registry of requests (requests), causes (cause), the hold (hold)."""
