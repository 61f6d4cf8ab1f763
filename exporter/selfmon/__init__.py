"""The agent's view of itself: one table of counters, the ledger, health."""
