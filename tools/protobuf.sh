#!/usr/bin/env bash
# Makes enricher/wire/tags_pb2.py and .pyi from tags.proto, for whoever changed it. The results are committed.
set -euo pipefail
cd "$(dirname "$0")/../enricher/wire"
../../.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. tags.proto
