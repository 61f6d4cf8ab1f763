"""What the enricher tells, on the agent's side: whose an address is, what a container, a pod, this node is.

    TagClient (enricher/client.py) -> follow.Follower -> mirror.Mirror  bindings and sets, bounded
                                      |  |-> own.Own          own processes: described again when tags change
                                      |-> table.PeerTable     addresses, for the drain thread without the GIL

The pipeline makes a Follower if `enricher.address` is set; nothing here is used otherwise but `table`, whose tables
are then empty, and what follows from the configuration.
"""
