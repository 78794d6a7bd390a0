"""The sections of the report by name, in the order of the page."""

from collections.abc import Callable

from tunewise.registry import Registry
from tunewise.report.base import Section
from tunewise.report.record import Record

SECTIONS: Registry[Callable[[Record], Section]] = Registry(
    "report_sections",
    {
        "verdict": "tunewise.report.sections.verdict:render",
        "ladder": "tunewise.report.sections.ladder:render",
        "rungs": "tunewise.report.sections.rungs:render",
        "study": "tunewise.report.sections.study:render",
        "curves": "tunewise.report.sections.curves:render",
        "diagnosis": "tunewise.report.sections.diagnosis:render",
        "confusion": "tunewise.report.sections.confusion:render",
        "slices": "tunewise.report.sections.slices:render",
        "mistakes": "tunewise.report.sections.mistakes:render",
        "data": "tunewise.report.sections.data:render",
        "reproduce": "tunewise.report.sections.reproduce:render",
    },
)
