"""A bracket whose members answer the race rows in parts: what was answered is kept, and never asked again.

Between parts a run may be left, saved and taken up again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewise.methods.base import MadeAtOnce
from tunewise.types import Prediction, to_plain

SHARED_AGAIN = 0.25
"""By how much the parts together may take longer than all rows at once, since what prompts share is read in each."""
MOST_PARTS = 8


@dataclass
class AnsweringBracket(MadeAtOnce):
    """Fidelity counts the parts that every member has answered."""

    parts: int = 1
    answers: dict[int, list[list[Prediction]]] = field(default_factory=dict)
    """By member, the answers of each part so far."""
    whole_work: dict[int, int] = field(default_factory=dict)

    @property
    def horizon(self) -> int:
        return self.parts

    @property
    def fidelity(self) -> int:
        return min((self._reached(member) for member in self.members), default=self.parts)

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        work = 0
        for member in self.members if members is None else [self.members[i] for i in members]:
            self._made(member)
            for part in range(self._reached(member), min(fidelity, self.parts)):
                self.answers[member].append(self.done[member].predict(self._rows(part)))
                work += self._end(self.whole_work[member], part) - self._end(self.whole_work[member], part - 1)
        return work

    def _made(self, member: int) -> None:
        if member not in self.done:
            self.done[member], self.whole_work[member] = self.make(member)
            self.answers.setdefault(member, [])

    def _reached(self, member: int) -> int:
        return len(self.answers.get(member, ()))

    def _end(self, whole: int, part: int) -> int:
        """How much of so much lies before the end of a part."""
        return whole * (part + 1) // self.parts

    def _rows(self, part: int) -> Sequence[Any]:
        race = self.context.fold.race
        return race[self._end(len(race), part - 1) : self._end(len(race), part)]

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        said = [[answer for part in self.answers[member] for answer in part] for member in self.members]
        return said if rows is None else [[answers[row] for row in rows] for answers in said]

    def keep(self, indices: Sequence[int]) -> None:
        super().keep(indices)
        self.answers = {member: self.answers[member] for member in self.members if member in self.answers}

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, meta = super().state()
        said = [[m, [[_plain(answer) for answer in part] for part in parts]] for m, parts in self.answers.items()]
        return tensors, {**meta, "answers": said}

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        super().restore(tensors, meta)
        self.answers = {
            int(member): [[_prediction(plain) for plain in part] for part in parts] for member, parts in meta["answers"]
        }

    def close(self) -> None:
        super().close()
        self.answers.clear()


def parts_of(rows: int, tokens: int, shared: int) -> int:
    """In how many parts to answer so many rows, whose prompts take `tokens` in all, `shared` of them in common."""
    affordable = MOST_PARTS if shared == 0 else 1 + int(SHARED_AGAIN * tokens / shared)
    return max(1, min(MOST_PARTS, affordable, rows))


def _plain(answer: Prediction) -> dict[str, Any]:
    """JSON-ready; JSON has no infinity, which a text that a base rules out has for its log-probability."""
    known = answer.target_log_probability
    return {**to_plain(answer), "target_log_probability": None if known is None else repr(known)}


def _prediction(plain: Mapping[str, Any]) -> Prediction:
    lists = {name: None if plain[name] is None else tuple(plain[name]) for name in ("labels", "evidence")}
    known = plain["target_log_probability"]
    return Prediction(**{**plain, **lists, "target_log_probability": None if known is None else float(known)})
