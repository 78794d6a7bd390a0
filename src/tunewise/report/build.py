"""Write report.html: the sections of one run on one page that needs nothing else and may fetch nothing."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewise.report.base import fragment
from tunewise.report.record import Record, clean, read_record
from tunewise.report.sections import SECTIONS
from tunewise.runs import write_atomic


def build_report(run_folder: Path, *, texts: bool = True) -> Path:
    """Path of the `report.html` written into the run folder; the same files give the same bytes.

    With `texts` False it shows no input of any row (labels, ids and slice values stay).

    Raises:
        RunError: the folder is missing, a file in it is damaged, or the page cannot be written.
    """
    path = run_folder / "report.html"
    write_atomic(path, page(read_record(run_folder, texts=texts)))
    return path


def page(record: Record) -> str:
    """The whole page as HTML."""
    sections = {name: SECTIONS.get(name)(record) for name in SECTIONS}
    specs = {chart: spec for section in sections.values() for chart, spec in section.charts.items()}
    style, draw = _asset("page.css"), _asset("page.js")
    scripts = [_plotly(), draw] if specs else []
    return str(
        fragment(
            _asset("page.html.j2"),
            name=record.name,
            subtitle=_subtitle(record),
            sections=sections,
            policy=content_policy(style=style, scripts=scripts),
            # ours and Plotly's, as they are: the policy holds their hashes
            style=Markup(style),
            scripts=[Markup(script) for script in scripts],
            specs=embed(specs) if specs else None,
        )
    )


def content_policy(*, style: str, scripts: list[str]) -> str:
    """A Content-Security-Policy under which only these very styles and scripts run, and nothing is fetched."""
    # Plotly adds an empty <style> and fills it by rules, hence the hash of nothing; it sets style attributes,
    # and draws heat maps as images
    styles = " ".join(map(_hash, [style, ""]))
    allowed = " ".join(map(_hash, scripts)) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src-elem {styles}; style-src-attr 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def embed(value: Any) -> Markup:
    """JSON that can stand in a <script>: nothing in it can end the element, open a comment or break a line."""
    text = json.dumps(clean(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _subtitle(record: Record) -> str:
    verdict = record.verdict
    if verdict is None:
        return "unfinished run"
    day = str(verdict.get("started") or "")[:10]
    bases = ", ".join(dict.fromkeys(str(rung["base"]) for rung in verdict["rungs"]))
    return " · ".join(part for part in (verdict["kind"], verdict["metric"], bases, day) if part)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("tunewise.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
