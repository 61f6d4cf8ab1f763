"""Istio's Bookinfo, our own small version: four services in four languages, an Envoy with each, two nodes.

`setup.sh` brings packages, Envoy and the jar; `mesh.py` writes the Envoys' configurations and the pods' redirections;
`cluster.py` starts and stops it all on `demo/hosts.py`; `client.py` sends requests; `expected.py` is the table of the
spans that one request makes; `judge.py` compares traces with it. Called by `make demo-bookinfo` and
tests/e2e/test_bookinfo.py.
"""
