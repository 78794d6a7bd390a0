"""The model card of a bundle: what it does, how well, measured on what."""

from collections.abc import Mapping
from typing import Any

import yaml


def model_card(verdict: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read."""
    chosen = verdict["chosen"]
    row = next(r for r in verdict["rungs"] if (r["method"], r["base"]) == (chosen["method"], chosen["base"]))
    score = row["held_out"]
    front = {
        "base_model": chosen["base"],
        "library_name": "tunewise",
        "pipeline_tag": "text-classification",
        "metrics": [verdict["metric"]],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {verdict['task']}",
        "",
        f"{chosen['method']} on {chosen['base']}. {chosen['why']}",
        "",
        f"- {verdict['metric']} on held_out: {score['score']:.4f} [{score['low']:.4f}, {score['high']:.4f}] "
        f"at level {verdict['level']}, n = {score['n']:,} ({score['interval']})",
        f"- Metric: `{verdict['signature']}`",
        f"- Rows: {verdict['n']['train']} train, {verdict['n']['dev']} dev, {verdict['n']['held_out']} held_out",
        f"- held_out was opened by {verdict['held_out_openings']['all_runs'] or 'an unknown number of'} run(s)",
        f"- Configuration: `{dict(row['config'])}`",
        "",
        "Load it with `tunewise.load(folder)`, or answer a file with `tunewise predict folder --input rows.jsonl`.",
    ]
    return "\n".join(lines) + "\n"
