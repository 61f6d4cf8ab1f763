"""The tables of docs/tags.md, made from names.py: `python -m zerospan.enricher.tagdoc --write-docs docs/tags.md`.

A tag's section is known by how its name begins; a tag that fits none is an error, so that the table cannot lack one.
"""

import sys
from pathlib import Path

from zerospan.enricher.names import TAGS

BEGIN, END = "<!-- tags: begin -->\n", "<!-- tags: end -->"
SECTIONS = {
    "Service": ("service.", "deployment."),
    "Cloud and host": ("cloud.", "host.", "os.", "zerospan.cloud."),
    "Kubernetes": ("k8s.", "zerospan.k8s."),
    "Container": ("container.",),
    "Process": ("process.", "zerospan.process.", "zerospan.systemd."),
    "Address": ("zerospan.range.", "zerospan.nat."),
}


def section(name: str) -> str:
    """The heading under which a tag stands. Raises ValueError if there is none."""
    for heading, prefixes in SECTIONS.items():
        if name.startswith(prefixes):
            return heading
    raise ValueError(f"{name}: no section of docs/tags.md; add its beginning to SECTIONS")


def markdown() -> str:
    """One table for each section, one row for each tag, in the order of names.py."""
    out = []
    for heading in SECTIONS:
        out += [f"## {heading}\n", "| tag | source | what | example |", "|---|---|---|---|"]
        for name, tag in TAGS.items():
            if section(name) == heading:
                shown = f"`{name}*`" if name.endswith(".") else f"`{name}`"
                out.append(
                    "| " + " | ".join(_cell(c) for c in (shown, tag.source, tag.text, f"`{tag.example}`")) + " |"
                )
        out.append("")
    return "\n".join(out)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_docs(name: str) -> None:
    """Puts the tables between their marks in a Markdown file. Raises OSError; ValueError without the marks."""
    file = Path(name)
    text = file.read_text()
    begin = text.index(BEGIN) + len(BEGIN)
    file.write_text(text[:begin] + markdown() + text[text.index(END, begin) :])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-docs"]:
        write_docs(sys.argv[2])
    else:
        print(markdown())
