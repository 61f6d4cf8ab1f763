"""The agent: source -> proto -> assemble -> link -> encode -> sinks. See ARCHITECTURE.md."""
