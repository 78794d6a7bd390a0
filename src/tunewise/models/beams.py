"""Beam search: several answers to a prompt are kept while they are written, and the likeliest by token is given.

Axes: V vocabulary, C candidates for the next step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewise.models.going import Allowed, Going


@dataclass(frozen=True)
class Beam:
    """An answer, or the beginning of one."""

    ids: tuple[int, ...] = ()
    """Without the token that ended it."""
    total: float = 0.0
    """Natural log-probability, with the token that ended it."""
    ended: bool = False
    text: str | None = None
    """Up to a stop, where it met one."""


class BeamSearch:
    """As transformers' generate with `length_penalty=1` and `early_stopping=True`.

    The search after a prompt ends once as many answers as there are beams have ended, and the one of the largest
    log-probability by token is given.
    """

    def __init__(
        self,
        going: Going,
        *,
        beams: int,
        max_new_tokens: int,
        end_ids: Sequence[int],
        stopped: Callable[[Sequence[int]], str | None],
        allowed: Allowed | None = None,
    ) -> None:
        """`stopped`: the text of these ids up to a stop; None where they met none."""
        self.going, self.beams, self.most = going, beams, max_new_tokens
        self.end_ids, self.stopped, self.allowed = frozenset(end_ids), stopped, allowed
        self.width = max(2, 1 + len(self.end_ids)) * beams

    def run(self, prompts: int) -> list[Beam]:
        """The answer to each prompt."""
        searches = [_Search(self) for _ in range(prompts)]
        live = list(searches)
        for step in range(1, self.most + 1):
            log_BV = torch.log_softmax(self.going.logits(), dim=-1)
            parents: list[int] = []
            start = 0
            for search in live:
                end = start + len(search.running)
                parents += [start + place for place in search.step(log_BV[start:end], step)]
                start = end
            live = [search for search in live if search.running]
            if not live:
                break
            self.going.select(parents)
            self.going.go_on([beam.ids[-1] for search in live for beam in search.running])
        return [search.best for search in searches]

    def only(self, log_RV: Tensor, running: Sequence[Beam]) -> Tensor:
        """Log-probabilities with all tokens ruled out that may not follow."""
        if self.allowed is None:
            return log_RV
        ruled_RV = torch.full_like(log_RV, -torch.inf)
        for row, beam in enumerate(running):
            may = self.allowed(beam.ids)
            at = slice(None) if may is None else torch.as_tensor(may, dtype=torch.long, device=log_RV.device)
            ruled_RV[row, at] = log_RV[row, at]
        return ruled_RV

    def complete(self, ids: Sequence[int]) -> bool:
        """Whether nothing may follow."""
        may = None if self.allowed is None else self.allowed(ids)
        return may is not None and len(may) == 0


class _Search:
    """The beams of one prompt."""

    def __init__(self, how: BeamSearch) -> None:
        self.how = how
        self.running = [Beam()]
        self.finished: list[tuple[float, Beam]] = []

    @property
    def best(self) -> Beam:
        return self.finished[0][1]

    def step(self, log_RV: Tensor, length: int) -> list[int]:
        """Take the next token of each beam; the places of the beams that those that go on come from."""
        how, beams = self.how, self.how.beams
        start_R = torch.tensor([beam.total for beam in self.running], device=log_RV.device)
        total_RV = how.only(log_RV, self.running) + start_R[:, None]
        top_C, place_C = total_RV.flatten().topk(min(how.width, total_RV.numel()))
        going: list[tuple[int, Beam]] = []
        ended: list[tuple[float, Beam]] = []
        for rank, (total, place) in enumerate(zip(top_C.tolist(), place_C.tolist(), strict=True)):
            if total == float("-inf"):
                break
            parent, token = divmod(place, log_RV.shape[1])
            beam = self._after(self.running[parent], token, total)
            if beam.ended or length == how.most:
                if rank < beams:
                    ended.append((total / length, beam))
            elif len(going) < beams:
                going.append((parent, beam))
        self.finished = sorted([*self.finished, *ended], key=lambda each: -each[0])[:beams]
        if len(self.finished) == beams or length == how.most:
            going = []
        self.running = [beam for _, beam in going]
        return [parent for parent, _ in going]

    def _after(self, beam: Beam, token: int, total: float) -> Beam:
        if token in self.how.end_ids:
            return Beam(beam.ids, total, ended=True)
        ids = (*beam.ids, token)
        text = self.how.stopped(ids)
        return Beam(ids, total, ended=text is not None or self.how.complete(ids), text=text)
