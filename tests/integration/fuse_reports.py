"""Stores what `fuse` makes of every swept network, and writes the table of docs/fuse.md.

`python -m tests.integration.fuse_reports`, with torchvision and timm installed.
"""

from __future__ import annotations

import json
import re
from typing import Any

BEGIN, END = "<!-- reports: begin -->", "<!-- reports: end -->"


def rows(reports: dict[str, Any]) -> list[str]:
    """One row of Markdown per network: what runs as one call, what in part, what as it is."""
    table = []
    for path, report in reports.items():
        fused, left = report["fused"], report["left"]
        whole = partly = rest = 0
        for note, count in fused.items():
            if re.search(r": \d+ convolutions", note):
                whole += count
            elif "forward: " in note:
                partly += count
        rest = sum(left.values())
        stem = next((note.split(": ", 1)[1] for note in fused if "stem" in note), "-")
        reasons = {note.split(": ", 1)[1]: count for note, count in left.items()}
        why = "; ".join(f"{count}: {note}" for note, count in reasons.items())
        table.append(
            f"| {path} | {whole} | {partly} | {stem.removeprefix('stem: ')} | {rest} | {why} |"
        )
    return table


def main() -> None:
    from tests.integration import swept_models
    from tests.integration.test_fuse_sweep import DOCUMENT, REPORTS, packages, swept

    reports = {}
    for path in swept():
        package, name = path.split("/")
        reports[path] = swept_models.summary(swept_models.whole(packages()[package], name))
    REPORTS.write_text(json.dumps(reports, indent=1) + "\n")
    text = DOCUMENT.read_text()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text("\n".join([head + BEGIN, *_HEADER, *rows(reports), END + tail]))


_HEADER = [
    "| network | whole blocks | modules fused in part | stem | left | what is left, and why |",
    "|---|---|---|---|---|---|",
]

if __name__ == "__main__":
    main()
