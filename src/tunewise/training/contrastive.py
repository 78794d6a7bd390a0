"""Tune vectors so that texts of one label lie close and others apart, by all pairs among the rows of a step.

SetFit (Tunstall et al. 2022) draws pairs first and encodes both texts of each, so that a text is encoded once per pair
it is in; here a step encodes each of its R texts once and takes all R (R - 1) / 2 pairs among them.
Axes: R rows of a step, E rows of a data set, H hidden, L labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tunewise.models.precision import fast_float32
from tunewise.seeding import generator
from tunewise.training.batches import by_length, micro_batches
from tunewise.training.labels import Labels, batch_of
from tunewise.training.loop import Loop, Plan
from tunewise.training.objective import Material, Settings
from tunewise.training.population import HEAD_BIAS, HEAD_WEIGHT, WORK_FORWARD
from tunewise.training.rows import Rows
from tunewise.training.whole import FullPopulation

PairLoss = Literal["cosine", "supcon"]
FitHead = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Weight [L, H] and bias [L] of a head, from vectors [E, H] and label indices [E]."""

PIECE_TOKENS = 512
"""Padded tokens of a pass on a CPU, of rows of like length: smaller ones are slow, larger ones read mostly padding."""
MOST_HEAD_ROWS = 1000
"""A head is fitted on at most this many rows of train, stratified by label."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What the pairs of a step are asked for."""

    loss: PairLoss = "cosine"
    temperature: float = 0.1
    """Of "supcon": lower looks harder at the nearest rows of other labels."""

    def of(self, vector_RH: Tensor, target_R: Tensor) -> Tensor:
        """Loss of all pairs among rows whose vectors have length 1."""
        cosine_RR = vector_RH @ vector_RH.T
        same_RR = target_R[:, None] == target_R
        if self.loss == "cosine":
            return cosine_loss(cosine_RR, same_RR)
        return supervised_contrastive_loss(cosine_RR / self.temperature, same_RR)


def cosine_loss(cosine_RR: Tensor, same_RR: Tensor) -> Tensor:
    """(cos - 1)^2 of pairs of one label and cos^2 of the others, both kinds weighing the same, as SetFit draws them.

    Where a step has pairs of one kind only, the mean of that kind.
    """
    above_RR = torch.ones_like(same_RR).triu(1)
    squared_RR = (cosine_RR - same_RR.to(cosine_RR.dtype)).square()
    kinds = (same_RR & above_RR, ~same_RR & above_RR)
    return torch.stack([squared_RR[kind].mean() for kind in kinds if bool(kind.any())]).mean()


def supervised_contrastive_loss(score_RR: Tensor, same_RR: Tensor) -> Tensor:
    """Log-loss of picking a row of the same label out of all other rows (Khosla et al. 2020, arXiv 2004.11362, L_out).

    Mean over the rows that have a partner.
    """
    itself_RR = torch.eye(len(score_RR), dtype=torch.bool, device=score_RR.device)
    log_RR = torch.log_softmax(score_RR.masked_fill(itself_RR, -torch.inf), dim=1)
    partner_RR = same_RR & ~itself_RR
    partners_R = partner_RR.sum(1)
    mean_R = torch.where(partner_RR, log_RR, 0.0).sum(1) / partners_R.clamp_min(1)
    return -mean_R[partners_R > 0].mean()


class Deck:
    """Items in a shuffled order, again and again; no item comes twice before every other has come."""

    def __init__(self, items: np.ndarray, rng: np.random.Generator) -> None:
        self.items, self.rng = items, rng
        self._next: list[int] = []

    def draw(self, count: int) -> list[int]:
        """The next items, all different; `count` is at most their number."""
        if len(self._next) < count:
            rest = self._next
            fresh = [int(item) for item in self.rng.permutation(self.items)]
            # what is left over comes first, and in the new round last: so it is not drawn twice at once
            self._next = rest + [item for item in fresh if item not in rest] + rest
        drawn, self._next = self._next[:count], self._next[count:]
        return drawn


def pair_batches(target_E: np.ndarray, *, batch_size: int, steps: int, seed: int) -> list[np.ndarray]:
    """Row numbers of every step: different rows, as many of each label as of the others, at least two where it has two.

    A step holds all labels where there is room for two rows of each, else as many as there is room for, in turn.
    Labels with a single row take their share of the places, as others' counterparts. A function of its arguments.
    """
    count_L = np.bincount(target_E)
    rows_of = [np.flatnonzero(target_E == label) for label in range(len(count_L))]
    paired = np.flatnonzero(count_L >= 2)
    singles = np.flatnonzero(count_L == 1)
    rng = generator(seed, "pairs")
    row_decks = {int(label): Deck(rows_of[label], rng) for label in (*paired, *singles)}
    share = -(-batch_size * len(singles) // len(target_E))
    places = max(0, min(len(singles), share, batch_size - 4))
    kinds = min(len(paired), max(2, (batch_size - places) // 2))
    paired_deck, single_deck = Deck(paired, rng), Deck(singles, rng)
    batches = []
    for _ in range(steps):
        labels = paired_deck.draw(kinds) + single_deck.draw(places)
        quota = _quotas([int(count_L[label]) for label in labels], batch_size)
        drawn = [row_decks[label].draw(n) for label, n in zip(labels, quota, strict=True)]
        batches.append(np.array([row for rows in drawn for row in rows], dtype=np.int64))
    return batches


def _quotas(counts: list[int], places: int) -> list[int]:
    """Places shared out one by one in turn, none to a label that has no row left."""
    quota = [0] * len(counts)
    while places > 0 and quota != counts:
        for i, count in enumerate(counts):
            if quota[i] < count and places > 0:
                quota[i] += 1
                places -= 1
    return quota


def stratified(target_E: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` row numbers, ascending, each label with its share of them and with one row at least."""
    order_E = generator(seed, "head rows").permutation(len(target_E))
    depth_E = np.zeros(len(target_E))
    for label in np.unique(target_E):
        rows = order_E[target_E[order_E] == label]
        depth_E[rows] = np.arange(len(rows)) / len(rows)
    return np.sort(order_E[np.argsort(depth_E[order_E], kind="stable")][:most])


class ContrastiveLoop(Loop):
    """The loop with pairs for its loss and a head that is fitted, not trained: anew at every evaluation.

    The head is part of the member's values, so that its best step and its state need no word of it.
    """

    population: FullPopulation

    def __init__(
        self,
        population: FullPopulation,
        objective: Labels,
        plan: Plan,
        settings: Settings,
        *,
        pairs: Pairs,
        fit_head: FitHead,
    ) -> None:
        """`population` must give vectors of length 1."""
        super().__init__(population, objective, plan, [settings])
        self.train = train = objective.train
        self.pairs, self.fit_head = pairs, fit_head
        self.batches = pair_batches(train.target_E, batch_size=plan.batch_size, steps=self.horizon, seed=plan.seed)
        self.head_rows = train.subset(stratified(train.target_E, MOST_HEAD_ROWS, plan.seed).tolist())

    def best_answers(self, rows: Material | None = None) -> Tensor:
        self._fit_where_unmeasured()
        return super().best_answers(rows)

    def export(self, member: int) -> dict[str, Tensor]:
        self._fit_where_unmeasured()
        return super().export(member)

    def reading_work(self, tokens: int) -> int:
        return super().reading_work(tokens) + (0 if self.remembers else self.head_rows.tokens.tokens * WORK_FORWARD)

    def _fit_where_unmeasured(self) -> None:
        """A head for the weights as they are; none was fitted where no evaluation has been."""
        if self.members[0].best_step < 0 and self.active:
            with fast_float32():
                self._fit_head()
            self.population.release()

    def _rows_of_step(self) -> np.ndarray:
        return self.batches[self.step]

    def _gradients(self, rows: np.ndarray, active: list[int]) -> list[float]:
        """Pair loss of the step; its gradient is in the flat buffer.

        Where the activations of all rows are too many to hold, rows are encoded twice, first for the gradient at their
        vectors and then for that at the weights: exact in any number of passes (GradCache, Gao et al. 2021).
        """
        self.population.start_step()
        sizes = self.train_sizes
        rows = rows[np.argsort(-sizes.longest_E[rows], kind="stable")]
        target_R = torch.as_tensor(self.train.target_E[rows], device=self.device)
        piece = min(self.budget, PIECE_TOKENS) if self.device.type == "cpu" else self.budget
        runs = list(micro_batches(sizes, rows, piece))
        padded = sum(int(sizes.longest_E[run].max()) * int(sizes.sequences_E[run].sum()) for run in runs)
        if padded <= self.budget or len(runs) == 1:
            loss = self.pairs.of(torch.cat([self._vectors(run) for run in runs]), target_R)
            loss.backward()  # type: ignore[no-untyped-call]
            self.population.gather()
            return [float(loss.detach())]
        with torch.no_grad():
            vector_RH = torch.cat([self._vectors(run) for run in runs])
        loss = self.pairs.of(vector_RH.requires_grad_(), target_R)
        loss.backward()  # type: ignore[no-untyped-call]
        assert vector_RH.grad is not None
        for run, gradient_RH in zip(runs, torch.split(vector_RH.grad, [len(run) for run in runs]), strict=True):
            self._vectors(run).backward(gradient_RH)  # type: ignore[no-untyped-call]
            self.population.gather()
        return [float(loss.detach())]

    def _vectors(self, run: list[int]) -> Tensor:
        """[R, H] of rows of train, differentiable."""
        return self.population.vectors(batch_of(self.population, self.train, run), None)

    def _evaluate(self) -> int:
        if not self.active or not self._fit_head():
            return 0
        return self.head_rows.tokens.tokens * WORK_FORWARD + super()._evaluate()

    def _fit_head(self) -> bool:
        """Put a head for the present weights among the values; whether there is one."""
        feature_EH = self._features(self.head_rows)
        if not bool(torch.isfinite(feature_EH).all()):
            self.members[0].diverge(f"diverged: vectors of train are not numbers at step {self.step}")
            return False
        weight_LH, bias_L = self.fit_head(feature_EH.numpy(), self.head_rows.target_E)
        values = self.population.flat.views(self.population.flat.values_PN)
        for name, fitted in ((HEAD_WEIGHT, weight_LH), (HEAD_BIAS, bias_L)):
            values[name][0].copy_(torch.as_tensor(fitted))
        return True

    def _features(self, rows: Rows) -> Tensor:
        """Vectors [E, H] under the present weights, in float64 on the CPU."""
        sizes = rows.sizes
        feature_EH = torch.zeros(rows.tokens.rows, self.population.encoder.info.hidden_size, dtype=torch.float64)
        with torch.no_grad():
            for run in micro_batches(sizes, by_length(sizes), self.budget):
                feature_EH[run] = self.population.vectors(batch_of(self.population, rows, run), None).double().cpu()
        return feature_EH
