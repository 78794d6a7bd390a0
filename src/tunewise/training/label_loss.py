"""The loss where a text may have several labels: each label is a yes or no of its own.

Axes: A active members, R rows, L labels.
"""

import torch.nn.functional as F
from torch import Tensor


def label_losses(logits_RL: Tensor, wanted_RL: Tensor) -> Tensor:
    """Mean over the labels of the binary cross-entropy, [..., R], in the precision of the logits."""
    wanted = wanted_RL.to(logits_RL).expand_as(logits_RL)
    return F.binary_cross_entropy_with_logits(logits_RL, wanted, reduction="none").mean(-1)


def smoothed(wanted_ARL: Tensor, share_A: Tensor) -> Tensor:
    """Targets moved by this share towards one half, as smoothing moves a single label towards all."""
    share_A11 = share_A[:, None, None]
    return (1.0 - share_A11) * wanted_ARL + 0.5 * share_A11


def label_divergence(one_ARL: Tensor, other_ARL: Tensor) -> Tensor:
    """KL(one, other) + KL(other, one) of each label's yes or no, mean over the labels, [A, R]."""
    return ((one_ARL.sigmoid() - other_ARL.sigmoid()) * (one_ARL - other_ARL)).mean(-1)
