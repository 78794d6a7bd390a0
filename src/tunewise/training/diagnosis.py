"""What a training curve says about its settings: one finding, its evidence in numbers, and what to try next.

Train losses are of single batches, so they are judged by means of quarters and the spread between neighbours; dev
losses are of the same rows each time, so they are judged by how far they leave a straight line.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunewise.types import Curve

Name = Literal["overfitting", "underfitting", "divergence", "plateau", "label noise", "healthy"]

LEAST_TRAIN, LEAST_DEV = 8, 4
"""Points below which nothing is said."""
SURE = 3.0
"""Standard errors beyond which a change is taken for real: the lowest of several dev losses is a lucky one."""
SMALL = 0.02
"""Share of a loss below which a change does not matter, real or not."""
STILL_FALLING = 0.1
"""Share of the whole fall of dev that the last quarter of the steps must bring to speak of underfitting."""
LEARNED = 0.05
"""Nats of train loss below which there is nothing left to learn."""
FLOOR = 0.35
"""Share of the first train loss above which a loss that stops falling stands on a floor."""
SLOWER = 0.25
"""Share of its former speed at which train goes on once only single rows are left to learn."""

ADVICE: dict[Name, str] = {
    "overfitting": "more regularisation or fewer steps",
    "underfitting": "more steps or a higher learning rate",
    "divergence": "a lower learning rate or a longer warm-up",
    "plateau": "a higher learning rate, or a method that trains more of the base",
    "label noise": "look at rows whose labels contradict each other; label smoothing, or fewer steps",
    "healthy": "nothing to change",
}
HINTS: dict[Name, dict[str, float]] = {
    "overfitting": {"epochs": 0.5, "learning_rate": 0.7},
    "underfitting": {"epochs": 1.5, "learning_rate": 2.0},
    "divergence": {"learning_rate": 0.3},
    "plateau": {"learning_rate": 3.0},
    "label noise": {"epochs": 0.5},
    "healthy": {},
}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One finding about one curve."""

    name: Name
    sentence: str
    """The evidence, in numbers."""

    @property
    def advice(self) -> str:
        return ADVICE[self.name]


def nudge(diagnosis: Diagnosis | None) -> dict[str, float]:
    """Factors by which to multiply settings of the next candidate, by name; empty where nothing should change.

    They are hints for a proposal, to be cut to the bounds of the search: `epochs` and `learning_rate` only, since both
    are above 0 on every trained rung (a decay or smoothing of 0 cannot be multiplied).
    """
    return {} if diagnosis is None else dict(HINTS[diagnosis.name])


def diagnose(curve: Curve) -> Diagnosis | None:
    """The first finding that fits, from the gravest on; None where the curve is too short to say.

    - divergence: a loss is not finite, or train ends above where it began.
    - plateau: neither train nor dev falls although there is something to learn.
    - label noise: train and dev fall together to a floor (train still above a third of its start); from dev's minimum
      on train falls at less than a quarter of its former speed and dev not at all. What is left to learn then is single
      rows by heart (Arpit et al. 2017, arXiv 1706.05394). A hard task with right labels can look the same.
    - overfitting: dev rises from its minimum while train falls. Not where dev at its best temperature still got
      better to the end: then only the confidence grew too fast, which calibration mends.
    - underfitting: both still fall at the end.
    - healthy: none of these.
    """
    train, dev = np.array(curve.train_losses, dtype=float), np.array(curve.dev_losses, dtype=float)
    for what, losses, steps in (("train", train, curve.train_steps), ("dev", dev, curve.dev_steps)):
        if not np.isfinite(losses).all():
            step = steps[int(np.flatnonzero(~np.isfinite(losses))[0])]
            return Diagnosis(name="divergence", sentence=f"{what} loss was not a finite number at step {step}")
    if len(train) < LEAST_TRAIN or len(dev) < LEAST_DEV:
        return None
    seen = _Seen(curve, train, dev)
    for name, rule in RULES.items():
        if (found := rule(seen)) is not None:
            return Diagnosis(name=name, sentence=found)
    sentence = f"train fell from {seen.first:.3f} to {seen.last:.3f}, dev to {dev.min():.3f} at step {seen.best_step}"
    return Diagnosis(name="healthy", sentence=sentence)


class _Seen:
    """A curve and what the rules ask of it."""

    def __init__(self, curve: Curve, train: np.ndarray, dev: np.ndarray) -> None:
        self.curve, self.train, self.dev = curve, train, dev
        self.train_steps, self.dev_steps = np.array(curve.train_steps), np.array(curve.dev_steps)
        self.quarter = max(2, len(train) // 4)
        self.first, self.last = float(train[: self.quarter].mean()), float(train[-self.quarter :].mean())
        # neighbours differ by noise and hardly by progress
        self.train_noise = _robust_sd(np.diff(train)) / math.sqrt(2)
        self.quarter_error = self.train_noise * math.sqrt(2 / self.quarter)
        self.dev_noise = _robust_sd(np.diff(dev, n=2)) / math.sqrt(6)
        self.best = int(dev.argmin())
        self.best_step = int(self.dev_steps[self.best])

    @property
    def train_falls_on(self) -> float:
        """By how much train falls from dev's minimum to the end; 0 where that is no more than noise."""
        before = self.train[self.train_steps <= self.best_step][-self.quarter :]
        after = self.train[self.train_steps > self.best_step][-self.quarter :]
        if len(before) < 2 or len(after) < 2:
            return 0.0
        fall = float(before.mean() - after.mean())
        error = self.train_noise * math.sqrt(1 / len(before) + 1 / len(after))
        return fall if fall > max(SURE * error, SMALL * float(before.mean())) else 0.0

    @property
    def dev_rise(self) -> float:
        """Of the end, over the minimum; 0 where that is no more than noise."""
        if self.best >= len(self.dev) - 1:
            return 0.0
        end = self.dev[max(self.best + 1, len(self.dev) - 2) :]
        rise = float(end.mean() - self.dev[self.best])
        return rise if rise > max(SURE * self.dev_noise, SMALL * float(self.dev[self.best])) else 0.0


def _robust_sd(differences: np.ndarray) -> float:
    return float(np.median(np.abs(differences))) / 0.6745


def _divergence(seen: _Seen) -> str | None:
    if seen.last - seen.first <= max(SURE * seen.quarter_error, 0.2 * seen.first):
        return None
    return f"train loss rose from {seen.first:.3f} in the first quarter to {seen.last:.3f} in the last"


def _plateau(seen: _Seen) -> str | None:
    unsure = max(SURE * seen.quarter_error, SMALL * seen.first)
    dev_fall = float(seen.dev[0] - seen.dev[-2:].mean())
    if seen.first < LEARNED or seen.first - seen.last > unsure:
        return None
    if dev_fall > max(SURE * seen.dev_noise, SMALL * float(seen.dev[0])):
        return None
    return (
        f"train loss is {seen.first:.3f} in the first quarter and {seen.last:.3f} in the last, where noise may make "
        f"{unsure:.3f}, and dev went from {seen.dev[0]:.3f} to {seen.dev[-1]:.3f}"
    )


def _label_noise(seen: _Seen) -> str | None:
    until, after = seen.train_steps <= seen.best_step, seen.train_steps > seen.best_step
    if seen.best == 0 or seen.best_step > 0.6 * seen.dev_steps[-1] or until.sum() < 4 or after.sum() < 4:
        return None
    start, floor = float(seen.train[until][:2].mean()), float(seen.train[until][-seen.quarter :].mean())
    fall = seen.train_falls_on
    if floor < FLOOR * start or floor < 2 * LEARNED or fall == 0.0:
        return None
    speed_before = (start - floor) / seen.best_step
    speed_after = fall / (seen.dev_steps[-1] - seen.best_step)
    apart = abs(float(seen.dev[seen.best]) - floor) > max(0.3 * floor, SURE * seen.dev_noise)
    if apart or speed_after > SLOWER * speed_before:
        return None
    return (
        f"train and dev fell together to {floor:.3f} and {seen.dev[seen.best]:.3f} at step {seen.best_step}; since "
        f"then train falls at {100 * speed_after / speed_before:.0f} % of that speed and dev no more"
    )


def _overfitting(seen: _Seen) -> str | None:
    rise = seen.dev_rise
    only_confidence = seen.curve.best_step >= seen.dev_steps[-1]
    if rise == 0.0 or seen.train_falls_on == 0.0 or only_confidence:
        return None
    return (
        f"dev loss rose by {rise:.3f} from its minimum {seen.dev[seen.best]:.3f} at step {seen.best_step} "
        f"of {seen.dev_steps[-1]}, while train fell by {seen.train_falls_on:.3f}"
    )


def _underfitting(seen: _Seen) -> str | None:
    whole = float(seen.dev[0] - seen.dev[-1])
    late = seen.dev_steps >= 0.75 * seen.dev_steps[-1]
    before = float(seen.dev[~late][-1]) if (~late).any() else float(seen.dev[0])
    fall = before - float(seen.dev[-1])
    if seen.best < len(seen.dev) - 1 or fall <= max(SURE * seen.dev_noise, STILL_FALLING * whole, SMALL * before):
        return None
    middle = float(seen.train[-2 * seen.quarter : -seen.quarter].mean())
    if middle - seen.last <= max(SURE * seen.quarter_error, SMALL * middle):
        return None
    return (
        f"in the last quarter of the steps dev still fell by {fall:.3f} to {seen.dev[-1]:.3f} "
        f"and train by {middle - seen.last:.3f} to {seen.last:.3f}"
    )


RULES: dict[Name, Callable[[_Seen], str | None]] = {
    "divergence": _divergence,
    "plateau": _plateau,
    "label noise": _label_noise,
    "overfitting": _overfitting,
    "underfitting": _underfitting,
}
"""From the gravest on; each gives its evidence, or None."""
