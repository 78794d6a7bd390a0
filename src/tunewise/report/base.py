"""What every section of the report is: a title, a fragment of HTML, and the charts it refers to by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tunewise.report import sentences
from tunewise.report.charts import Spec, shortened

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. Charts stand where the fragment says `<div data-chart="name"></div>`."""

    title: str
    html: Markup
    charts: Mapping[str, Spec] = field(default_factory=dict)


def fragment(template: str, **values: Any) -> Markup:
    """A template of ours with values from a run, all of them escaped.

    Raises:
        jinja2.UndefinedError: the template names a value that is not there.
    """
    # safe: the environment escapes every value
    return Markup(_environment().from_string(template).render(**values))


def missing(title: str, sentence: str) -> Section:
    """A section of a run that did not get that far."""
    return Section(title=title, html=fragment('<p class="quiet">{{ sentence }}</p>', sentence=sentence))


def first(rows: Sequence[T], most: int, noun: str) -> tuple[list[T], str]:
    """The first rows of a long list, and `showing 20 of 77 labels` (empty where nothing was left out)."""
    note = "" if len(rows) <= most else f"showing {most:,} of {len(rows):,} {noun}"
    return list(rows[:most]), note


@cache
def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    formats = (
        sentences.seconds, sentences.milliseconds, sentences.size, sentences.count, sentences.share,
        sentences.p_value,
        sentences.span, sentences.points, sentences.figure, sentences.difference, sentences.plural, shortened,
    )  # fmt: skip
    environment.filters.update({function.__name__: function for function in formats})
    return environment
