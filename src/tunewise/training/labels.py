"""Members that learn labels: cross-entropy of a head's logits, which are remembered of every dev row.

Axes: A active members, E rows, R rows of a micro-batch, L labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunewise.models.encoder import Batch, Tokens, collate
from tunewise.training.label_loss import label_divergence, label_losses, smoothed
from tunewise.training.objective import Part
from tunewise.training.population import Population
from tunewise.training.rows import Rows
from tunewise.training.stopping import dev_losses


class Labels:
    """One label of a row, or yes and no for each of several."""

    def __init__(self, train: Rows, race: Rows, labels: int, *, class_weight_L: np.ndarray | None = None) -> None:
        """`labels`: how many there are; `class_weight_L` weighs each row's loss by its label."""
        self.train, self.race = train, race
        weight_L = np.ones(labels) if class_weight_L is None else class_weight_L
        self.weight_L = torch.as_tensor(weight_L, dtype=torch.float64)

    @property
    def numbers(self) -> int:
        """L: the logits are remembered."""
        return len(self.weight_L)

    def weight(self, rows: np.ndarray) -> float:
        return float(self._row_weights(self.train.target_E[rows]).sum())

    def losses(self, population: Population, part: Part) -> Tensor:
        batch, target_R = batch_of(population, self.train, part.rows), self.train.target_E[part.rows]
        first, *others = part.keys(sequences_of(self.train.tokens, part.rows))
        logits_ARL = population.logits(batch, part.active, first)
        loss_A = self._loss(logits_ARL, target_R, part.smoothing)
        if not part.consistency:
            return loss_A
        (second,) = others
        again_ARL = population.logits(batch, part.active, second)
        loss_A = (loss_A + self._loss(again_ARL, target_R, part.smoothing)) / 2
        apart_AR = (label_divergence if target_R.ndim == 2 else _divergence)(logits_ARL, again_ARL)
        return loss_A + part.consistency / 4 * (apart_AR @ self._row_weights(target_R).to(apart_AR))

    def answers(self, population: Population, rows: Rows, run: list[int], active: Sequence[int]) -> Tensor:
        return population.logits(batch_of(population, rows, run), active, None).double().cpu()

    def dev_losses(self, answers_EK: Tensor) -> tuple[float, float] | None:
        """Mean negative log-probability of the targets; to stop by, at the best temperature."""
        if not bool(torch.isfinite(answers_EK).all()):
            return None
        return dev_losses(answers_EK, torch.as_tensor(self.race.target_E))

    def _row_weights(self, target_R: np.ndarray) -> Tensor:
        """What each row's loss counts [R], by its label; all the same where it may have several."""
        if target_R.ndim == 2:
            return torch.ones(len(target_R), dtype=torch.float64)
        return self.weight_L[torch.as_tensor(target_R)]

    def _loss(self, logits_ARL: Tensor, target_R: np.ndarray, smoothing: Sequence[float]) -> Tensor:
        """Summed, weighted cross-entropy of each active member [A], in the precision of the logits.

        Where a text may have several labels it is that of each label's yes or no, mean over the labels.
        """
        if target_R.ndim == 2:
            wanted_ARL = torch.as_tensor(target_R, device=logits_ARL.device).to(logits_ARL).expand_as(logits_ARL)
            return label_losses(logits_ARL, smoothed(wanted_ARL, logits_ARL.new_tensor(smoothing))).sum(-1)
        target = torch.as_tensor(target_R, device=logits_ARL.device)
        log_ARL = F.log_softmax(logits_ARL, dim=-1)
        loss_AR = -log_ARL.gather(-1, target.expand(len(smoothing), -1)[..., None])[..., 0]
        if any(smoothing):
            share_A1 = torch.tensor(smoothing, dtype=loss_AR.dtype, device=loss_AR.device)[:, None]
            loss_AR = (1.0 - share_A1) * loss_AR - share_A1 * log_ARL.mean(-1)
        return loss_AR @ self._row_weights(target_R).to(loss_AR)


def batch_of(population: Population, rows: Rows, run: list[int]) -> Batch:
    """These rows, as the population's base reads them."""
    encoder = population.encoder
    return collate(rows.tokens, run, pad_id=encoder.pad_id, device=encoder.device)


def sequences_of(tokens: Tokens, run: list[int]) -> np.ndarray:
    """Numbers, in the whole data set, of the sequences that `collate` lays out for these rows."""
    row_S = np.asarray(tokens.row_S)
    return np.concatenate([np.flatnonzero(row_S == row) for row in run])


def _divergence(one_ARL: Tensor, other_ARL: Tensor) -> Tensor:
    """KL(one, other) + KL(other, one) [A, R] of the label distributions."""
    one_ARL, other_ARL = F.log_softmax(one_ARL, dim=-1), F.log_softmax(other_ARL, dim=-1)
    return ((one_ARL.exp() - other_ARL.exp()) * (one_ARL - other_ARL)).sum(-1)
