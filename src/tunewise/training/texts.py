"""Members that learn to write: the tokens of an answer and of its end are to be foreseen, those of the prompt never.

Axes: A active members, E rows, R rows of a micro-batch, N tokens that are learnt.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunewise.models.prefix_tree import Request
from tunewise.models.tokens import Tokens
from tunewise.models.writing_base import Lesson, WritingBase
from tunewise.training.batches import Sizes
from tunewise.training.objective import Part
from tunewise.training.population import Key, Population
from tunewise.training.vocabulary import token_log_probabilities, token_losses


@dataclass(frozen=True)
class Texts:
    """Answers after their prompts; None for a row whose answer has no room after its prompt."""

    base: WritingBase
    requests: tuple[Request | None, ...]

    @functools.cached_property
    def sizes(self) -> Sizes:
        """A row without a request is not read."""
        known = [request for request in self.requests if request is not None]
        read = np.zeros(len(self.requests), dtype=np.int64)
        read[[request is not None for request in self.requests]] = self.base.lengths(known)
        return Sizes((read > 0).astype(np.int64), read, read)

    @functools.cached_property
    def wanted_E(self) -> np.ndarray:
        """Tokens of each answer with its end, 0 without a request."""
        return np.array([0 if r is None else len(r.continuation) for r in self.requests], dtype=np.int64)

    @property
    def tokens(self) -> Tokens:
        """What is read of all rows that are."""
        read = [request.read for request in self.requests if request is not None]
        return Tokens(ids=read, types=None, row_S=np.arange(len(read)), rows=len(read))

    def subset(self, indices: Sequence[int]) -> "Texts":
        return Texts(self.base, tuple(self.requests[i] for i in indices))


class Writing:
    """Negative log-likelihood of answers by token; of every dev row it is remembered, summed over its tokens."""

    numbers = 1

    def __init__(self, train: Texts, race: Texts) -> None:
        """Every row of `train` has at least one token that is learnt."""
        assert all(train.wanted_E > 0), "a row without anything to learn"
        self.train, self.race = train, race

    def weight(self, rows: np.ndarray) -> float:
        """Tokens that are learnt from: each counts the same, whichever micro-batch it is in."""
        return float(self.train.wanted_E[rows].sum())

    def losses(self, population: Population, part: Part) -> Tensor:
        lesson = _lesson(self.train, part.rows)
        (key,) = part.keys(np.array(part.rows))
        hidden_ANH, token_N = _foreseen(population, lesson, part.active, key)
        writer = _writer(population)
        shares = part.smoothing
        smoothing = [
            torch.full(token_N.shape, share, device=token_N.device) if any(shares) else None for share in shares
        ]
        return torch.stack(
            [token_losses(writer, own_NH, token_N, s) for own_NH, s in zip(hidden_ANH, smoothing, strict=True)]
        )

    def answers(self, population: Population, rows: Texts, run: list[int], active: Sequence[int]) -> Tensor:
        """[A, R, 1]; NaN of a row that cannot be read."""
        loss_AR = torch.full((len(active), len(run)), torch.nan, dtype=torch.float64)
        read = [place for place, row in enumerate(run) if rows.requests[row] is not None]
        if read:
            lesson = _lesson(rows, [run[place] for place in read])
            hidden_ANH, token_N = _foreseen(population, lesson, active, None)
            row_N = torch.from_numpy(lesson.row_N)
            for member, own_NH in enumerate(hidden_ANH):
                log_N = token_log_probabilities(_writer(population), own_NH, token_N)
                loss_AR[member, read] = -torch.zeros(len(read), dtype=torch.float64).index_add_(0, row_N, log_N)
        return loss_AR[..., None]

    def dev_losses(self, answers_EK: Tensor) -> tuple[float, float] | None:
        """Mean over all tokens. It is the one to stop by, too: what is written is the likeliest, at any temperature."""
        known = torch.from_numpy(self.race.wanted_E > 0)
        mean = float(answers_EK[known, 0].sum()) / max(1, int(self.race.wanted_E.sum()))
        return (mean, mean) if np.isfinite(mean) else None


def _lesson(rows: Texts, run: Sequence[int]) -> Lesson:
    return rows.base.lesson([request for row in run if (request := rows.requests[row]) is not None])


def _writer(population: Population) -> WritingBase:
    assert isinstance(population.encoder, WritingBase)
    return population.encoder


def _foreseen(population: Population, lesson: Lesson, active: Sequence[int], key: Key | None) -> tuple[Tensor, Tensor]:
    """Hidden states [A, N, H] from which the tokens are foreseen, no others, and those tokens."""
    hidden_STH = population.hidden(lesson.batch, active, key)
    device = hidden_STH.device
    row_N, place_N = torch.from_numpy(lesson.row_N).to(device), torch.from_numpy(lesson.place_N).to(device)
    hidden_ASTH = hidden_STH.view(len(active), -1, *hidden_STH.shape[1:])
    return hidden_ASTH[:, row_N, place_N], torch.from_numpy(lesson.token_N).to(device)
