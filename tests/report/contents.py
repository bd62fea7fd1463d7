"""The contents that the tests render, and what strangers may put into them."""

import json
from pathlib import Path

HERE = Path(__file__).parent
ATTACKS = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "\" onmouseover=alert(1) x=\"",
    "' onfocus='alert(1)' autofocus='",
    "{{ 7 * 7 }}{% raw %}",
    "[red]markup[/red] [link=http://x.example]x[/link]",
    "&lt;b&gt; &#x3c;script>",
    "javascript:alert(1)",
    "-->]]>",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "\x00\x07\x1b]0;owned\x07\x1b[2J\x9b31m",
    "a\r\nb\rc\u2028d\u0085e",
    "\ud800 lone",
    "n" * 10_000,
    "中" * 500,
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1+1", "＝1+1",
]  # fmt: skip
FOREIGN = ("name", "user", "account", "partition", "state", "nodes", "job_label", "region", "cluster", "run_key")


def load(name):
    return json.loads((HERE / "fixtures" / f"{name}.json").read_text(encoding="utf-8"))


def infested(attack):
    content = load("content_site")
    for run in content["jobs"]:
        run |= dict.fromkeys(FOREIGN, attack)
    content["subject"] = attack
    content["labels"] = [attack]
    for row in content["factors"]:
        row |= dict.fromkeys(("region", "grid_zone", "factor_set", "title", "source", "licence", "attribution"), attack)
    for row in content["meters"]:
        row |= dict.fromkeys(("node", "zone", "domain", "why"), attack)
    return content
