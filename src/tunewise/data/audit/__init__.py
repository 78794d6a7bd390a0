"""What is wrong with the data, said before money is spent; a check joins with one file and one line here."""

from collections.abc import Callable, Sequence

from tunewise.data.audit.finding import Finding, Ruler
from tunewise.data.load import Data
from tunewise.registry import Registry

__all__ = ["CHECKS", "Check", "Finding", "Ruler", "audit"]

Check = Callable[[Data, Ruler], list[Finding]]

CHECKS: Registry[Check] = Registry(
    "audits",
    {
        "duplicates": "tunewise.data.audit.duplicates:check",
        "conflicts": "tunewise.data.audit.conflicts:check",
        "balance": "tunewise.data.audit.balance:check",
        "lengths": "tunewise.data.audit.lengths:check",
        "languages": "tunewise.data.audit.languages:check",
        "label_names": "tunewise.data.audit.label_names:check",
        "characters": "tunewise.data.audit.characters:check",
    },
)


def audit(
    data: Data,
    *,
    length_of: Callable[[Sequence[tuple[str, ...]]], list[int]] | None,
    max_tokens: int | None,
    answers_too: bool = False,
) -> list[Finding]:
    """All findings on train and dev, in the order of the registry; held_out is not looked at.

    `length_of` gives the tokens of each row's texts as the base reads them; `answers_too`: `max_tokens` holds for what
    is read and written together.
    """
    ruler = Ruler(length_of=length_of, max_tokens=max_tokens, answers_too=answers_too)
    return [finding for name in CHECKS for finding in CHECKS.get(name)(data, ruler)]
