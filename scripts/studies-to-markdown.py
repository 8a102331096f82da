#!/usr/bin/env python3
"""Turns the folder that `achilles-audit study all MODEL -o DIR` wrote into a page of docs.

    python scripts/studies-to-markdown.py DIR > docs/studies-smollm2.md
"""

import json
import pathlib
import sys

MOST_ROWS = 40


def shown(cell):
    if cell is None:
        return "–"
    if isinstance(cell, float):
        size = abs(cell)
        return f"{cell:.4g}" if size >= 1e5 or 0 < size < 1e-3 else f"{cell:.4f}".rstrip("0").rstrip(".")
    return str(cell).replace("|", "\\|").replace("\n", " ⏎ ")


def table(of):
    lines = ["", of["title"], "", "| " + " | ".join(of["columns"]) + " |", "|" + "---|" * len(of["columns"])]
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in of["rows"][:MOST_ROWS]]
    if len(of["rows"]) > MOST_ROWS:
        lines.append(f"\n({len(of['rows']) - MOST_ROWS} more rows)")
    return lines


def main():
    found = {path.stem: json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.json")}
    studies = sorted(found.values(), key=lambda d: pathlib.Path(sys.argv[1], d["study"] + ".json").stat().st_mtime)
    first = studies[0]
    settings, seconds = first["settings"], sum(d["seconds"] for d in studies)
    lines = [
        f"# The paper's experiments on {pathlib.Path(first['model']['source']).name}",
        "",
        f"What `achilles-audit study all` found ({first['tool']['version']}, {settings['dtype']} on {settings['device']}, "
        f"{seconds / 60:.0f} minutes), beside what the paper reports for its models ([docs/studies.md](studies.md)).",
        "",
        "| study | the paper's | found |",
        "|---|---|---|",
    ]
    for d in studies:
        lines.append(f"| [{d['study']}](#{d['study']}) | {d['repeats']} | {' '.join(d['findings'])} |")
    for d in studies:
        lines += ["", f"## {d['study']}", "", f"{d['about']} ({d['repeats']}; {d['seconds']:.0f} s).", ""]
        lines += [f"- {finding}" for finding in d["findings"]]
        for of in d["tables"]:
            lines += table(of)
        if d["paper"]:
            lines += ["", "### The paper"]
            for of in d["paper"]:
                lines += table(of)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
