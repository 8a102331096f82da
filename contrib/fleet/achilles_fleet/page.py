"""All verdicts as one HTML page that stands alone."""

from collections import Counter
from urllib.parse import quote

from achilles_fleet.text import markup
from achilles_fleet.verdicts import ORDER, Row, summary

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--fail:#c62828;--error:#ad5f00;--not-examined:#8a6d00;--pass:#2e7d32}
@media(prefers-color-scheme:dark){:root{--fail:#ff7b72;--error:#ffa657;--not-examined:#e3c341;--pass:#6fcf7c}}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem}
h1{font-size:1.35rem}h2{font-size:1.05rem;margin-top:2rem}
.bar{display:flex;height:.8rem;border-radius:.3rem;overflow:hidden;margin:1rem 0}
.counts{display:flex;flex-wrap:wrap;gap:.5rem 2rem;padding:0;list-style:none}.counts b{font-size:1.3rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0}
tr{border-top:1px solid var(--line)}thead tr{border:0}td{overflow-wrap:anywhere}.n{text-align:right}
td:first-child{width:7.5rem;font-weight:600;overflow-wrap:normal}.model{width:32%}
.fail{color:var(--fail)}.error{color:var(--error)}.not-examined{color:var(--not-examined)}.pass{color:var(--pass)}
.bar .fail{background:var(--fail)}.bar .error{background:var(--error)}.bar .pass{background:var(--pass)}
.bar .not-examined{background:var(--not-examined)}code{font-size:.85em}small{opacity:.75}
"""
_CONTENT = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(rows: list[Row], rules: str, version: str, finished: str) -> str:
    """The page: what speaks against release first."""
    count = Counter(row.verdict for row in rows)
    present = [verdict for verdict in ORDER if count[verdict]]
    bar = "".join(f'<div class="{verdict}" style="flex:{count[verdict]}"></div>' for verdict in present)
    counts = "".join(
        f'<li class="{verdict}"><b>{count[verdict]}</b> {verdict.replace("-", " ")}</li>' for verdict in present
    )
    sections = "".join(_section(verdict, [row for row in rows if row.verdict == verdict]) for verdict in present)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_CONTENT}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{markup(summary(rows))}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{markup(summary(rows))}</h1>
<p>Rules {markup(rules)}, achilles-audit {markup(version)}, {markup(finished)}. All rows:
<a href="verdicts.parquet">verdicts.parquet</a>; a model's name leads to its result.</p>
<div class="bar">{bar}</div>
<ul class="counts">{counts}</ul>
{_rules(rows)}{sections}</body>
</html>
"""


def _rules(rows: list[Row]) -> str:
    """How many models each rule fails."""
    count = Counter(rule for row in rows if row.verdict == "fail" for rule in row.rules)
    if not count:
        return ""
    lines = "".join(
        f'<tr><td class="n">{number}</td><td><code>{markup(rule)}</code></td></tr>\n'
        for rule, number in count.most_common()
    )
    head = '<tr><th class="n">models</th><th>rule</th></tr>'
    return f"<h2>Found by rule</h2>\n<table><thead>{head}</thead>\n{lines}</table>\n"


def _section(verdict: str, rows: list[Row]) -> str:
    body = "".join(_line(row) for row in rows)
    name = verdict.replace("-", " ")
    head = "<tr><th>verdict</th><th>model</th><th>found</th><th class='n'>seconds</th></tr>"
    return f"<h2>{len(rows)} {name}</h2>\n<table><thead>{head}</thead>\n{body}</table>\n"


def _line(row: Row) -> str:
    rules = " ".join(f"<code>{markup(rule)}</code>" for rule in row.rules)
    cause = f"<code>{markup(row.cause)}</code>" if row.cause else ""
    return (
        f'<tr><td class="{row.verdict}">{row.verdict.replace("-", " ")}</td>'
        f'<td class="model"><a href="{markup(quote(row.result))}">{markup(row.model)}</a></td>'
        f"<td>{rules}{cause} <small>{markup(row.message or '')}</small></td>"
        f'<td class="n">{row.seconds:.2f}</td></tr>\n'
    )
