"""`python -m zerospan.enricher.config [--write-docs FILE]`: the JSON schema, or renews the table in FILE."""

import json
import sys

from zerospan.enricher.config import markdown, schema
from zerospan.exporter.config.schema import write_docs

if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-docs"]:
        write_docs(sys.argv[2], markdown())
    else:
        print(json.dumps(schema(), indent=2))
