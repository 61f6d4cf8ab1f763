"""The demo shop: real programs that know nothing of tracing, to run the agent on.

`setup.sh` brings packages and the jar; `shop.py` starts and stops the shop and is its command line;
`drive.py` sends requests; `expected.py` says which calls each request makes; `truth.py` judges the spans
against it; `process.py` keeps one program, `probe.py` asks whether it answers. The programs' own sources are
under `services/`. Called by `make demo` and the end-to-end tests.
"""
