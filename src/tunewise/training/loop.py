"""The one training loop: P members, the same batches, each with its own rate, decay, warm-up and course.

What they learn is the objective's. Axes: P members (A of them active), E race rows, K numbers that an objective
remembers of a row, N trainable numbers of a member.
"""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.errors import NotEnoughMemory, RunError
from tunewise.models.precision import fast_float32
from tunewise.training.batches import by_length, epoch_order, micro_batches, steps_per_epoch
from tunewise.training.objective import Material, Objective, Part, Settings
from tunewise.training.optimizer import MemberOptimizer, OptimizerName, ScheduleName, clip, schedule
from tunewise.training.population import WORK_FORWARD, Population
from tunewise.training.stopping import Course, Member, evaluation_steps
from tunewise.types import Curve

__all__ = ["Loop", "Plan", "Settings"]

CPU_TOKENS = 4096
CUDA_TOKENS = 65536
"""Padded tokens of a micro-batch, over all members."""
TRAIN_POINTS = 200
"""A train curve has at most about this many points."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the members of a loop share."""

    epochs: float
    batch_size: int
    seed: int
    evaluations: int = 8
    """Dev loss is taken this often, at even distances, the last time at the end."""
    patience: int = 4
    """A member stops after this many evaluations without a better one."""
    clip_norm: float = 1.0
    optimizer: OptimizerName = "adamw"
    schedule: ScheduleName = "linear"
    consistency: float = 0.0
    """Weight of the divergence between two passes with different dropout, R-Drop (Liang et al. 2021); doubles the work.

    Helps where few rows are read many times; without dropout it does nothing."""
    tokens_per_pass: int | None = None
    """Padded tokens of a micro-batch, over all members; None: what suits the device."""

    @property
    def passes(self) -> int:
        """Forward and backward passes over a batch."""
        return 2 if self.consistency else 1

    def horizon(self, rows: int) -> int:
        """Optimiser steps in all."""
        return max(1, round(self.epochs * steps_per_epoch(rows, self.batch_size)))


class Loop:
    """Trains a population to the horizon, in slices of any size, with the same result."""

    def __init__(self, population: Population, objective: Objective, plan: Plan, settings: Sequence[Settings]) -> None:
        """The objective's race rows are scored for early stopping."""
        self.population, self.objective, self.plan = population, objective, plan
        self.settings = list(settings)
        self.train_sizes, self.race_sizes = objective.train.sizes, objective.race.sizes
        self.device = torch.device(population.encoder.device)
        self.horizon = plan.horizon(self.train_sizes.rows)
        self.points = evaluation_steps(self.horizon, plan.evaluations)
        self.step = 0
        self.work_share = 1.0
        """Of the base that is computed for a token; smaller where the rest was computed once and kept."""
        self.budget = plan.tokens_per_pass or (CUDA_TOKENS if self.device.type == "cuda" else CPU_TOKENS)
        self.members = [Member() for _ in settings]
        self.optimizer = MemberOptimizer(population.flat, [each.weight_decay for each in settings], plan.optimizer)
        self._best: list[Tensor | None] = [None] * len(self.settings)
        """Weights [N] of each member at its best step; None where they are those of now, or none was measured."""
        self.best_answers_PEK = self._no_answers(objective.race, len(self.settings))
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def active(self) -> list[int]:
        """Members that still train."""
        return [i for i, member in enumerate(self.members) if member.course is Course.TRAINING]

    # --- going forward

    def advance(self, to_step: int) -> int:
        """Train up to this optimiser step (at most the horizon); returns the work spent.

        Work is unpadded tokens of the members that took part: `population.work_per_token` each in training, 1 in
        scoring; it does not depend on how members are grouped or batches are cut.
        """
        work = 0
        while self.step < min(to_step, self.horizon):
            if not self.active:
                self.step = min(to_step, self.horizon)
                break
            with fast_float32():
                work += self._train_step()
                if self.step in self.points:
                    work += self._evaluate()
        self.population.release()
        return work

    def _rows_of_step(self) -> np.ndarray:
        epoch, place = divmod(self.step, steps_per_epoch(self.train_sizes.rows, self.plan.batch_size))
        if self._epoch is None or self._epoch[0] != epoch:
            order = epoch_order(self.train_sizes, batch_size=self.plan.batch_size, seed=self.plan.seed, epoch=epoch)
            self._epoch = (epoch, order)
        return self._epoch[1][place]

    def _train_step(self) -> int:
        rows, active = self._rows_of_step(), self.active
        loss_A = self._gradients_within_memory(rows, active)
        norm_P = clip(self.population.flat.grads_PN, self.plan.clip_norm)
        healthy = self._healthy(active, loss_A, norm_P)
        for i in healthy:
            if self.members[i].best_step >= 0 and self._best[i] is None:
                self._best[i] = self.population.flat.values_PN[i].clone()
        self.optimizer.step({i: self._rate(i) for i in healthy})
        self.population.refresh()
        self.step += 1
        if self.step % max(1, self.horizon // TRAIN_POINTS) == 0:
            for i, loss in zip(active, loss_A, strict=True):
                if i in healthy:
                    self.members[i].train_steps.append(self.step)
                    self.members[i].train_losses.append(loss)
        tokens = int(self.train_sizes.tokens_E[rows].sum())
        return self._work(tokens * self.population.work_per_token * self.plan.passes) * len(active)

    def _work(self, of_whole_base: int) -> int:
        return round(of_whole_base * self.work_share)

    def _rate(self, member: int) -> float:
        own = self.settings[member]
        share = schedule(self.plan.schedule, self.step, horizon=self.horizon, warmup_share=own.warmup_share)
        return own.learning_rate * share

    def _healthy(self, active: list[int], loss_A: list[float], norm_P: Tensor) -> list[int]:
        """Members whose loss and gradient are numbers; the others stop before they take the step."""
        healthy = []
        norms = norm_P.tolist()
        for i, loss in zip(active, loss_A, strict=True):
            if np.isfinite(loss) and np.isfinite(norms[i]):
                healthy.append(i)
            else:
                what = f"loss {loss}" if not np.isfinite(loss) else f"gradient norm {norms[i]}"
                self.members[i].diverge(
                    f"diverged: {what} at step {self.step + 1} of {self.horizon}, "
                    f"learning rate {self.settings[i].learning_rate:g}"
                )
        return healthy

    def _gradients_within_memory(self, rows: np.ndarray, active: list[int]) -> list[float]:
        """Gradients of the whole step; where memory is short, with smaller micro-batches and the same result."""
        while True:
            try:
                return self._gradients(rows, active)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(rows, error)

    def _halve(self, rows: np.ndarray, error: RuntimeError) -> None:
        longest = int(self.train_sizes.longest_E[rows].max())
        if self.budget <= longest:
            raise NotEnoughMemory(
                f"training: not enough memory for a single row of {longest} tokens with {len(self.active)} member(s). "
                "Use a smaller base, a shorter truncation, or fewer members."
            ) from error
        self.budget = max(longest, self.budget // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _gradients(self, rows: np.ndarray, active: list[int]) -> list[float]:
        """Mean loss of each active member over the step; its gradient is in the flat buffer."""
        self.population.start_step()
        total = self.objective.weight(rows)
        loss_A = torch.zeros(len(active), dtype=torch.float64)
        for run in micro_batches(self.train_sizes, rows, max(1, self.budget // len(active))):
            part_A = self.objective.losses(self.population, self._part(run, active)) / total
            part_A.sum().backward()  # type: ignore[no-untyped-call]
            self.population.gather()
            loss_A += part_A.detach().double().cpu()
        return [float(loss) for loss in loss_A]

    def _part(self, run: list[int], active: list[int]) -> Part:
        return Part(
            rows=run,
            active=active,
            settings=[self.settings[i] for i in active],
            # steps beyond the horizon name dropout masks that no other pass has
            passes=[self.step + number * self.horizon for number in range(self.plan.passes)],
            consistency=self.plan.consistency,
        )

    # --- scoring

    def _evaluate(self) -> int:
        active = self.active
        if not active:
            return 0
        answers_AEK = self.score(self.objective.race, active)
        for i, answers_EK in zip(active, answers_AEK, strict=True):
            found = self.objective.dev_losses(answers_EK)
            if found is None:
                self.members[i].diverge(f"diverged: scores on dev are not numbers at step {self.step}")
                continue
            if self.members[i].record(self.step, *found, self.plan.patience):
                self._best[i] = None
                self.best_answers_PEK[i] = answers_EK
        return self._work(int(self.race_sizes.tokens_E.sum()) * WORK_FORWARD) * len(active)

    def score(self, rows: Material, members: Sequence[int]) -> Tensor:
        """What the objective remembers [A, E, K] of these rows, of these members as they are now."""
        sizes = self.race_sizes if rows is self.objective.race else rows.sizes
        answers_AEK = self._no_answers(rows, len(members))
        with torch.no_grad(), fast_float32():
            for run in micro_batches(sizes, by_length(sizes), max(1, self.budget // len(members))):
                answers_AEK[:, run] = self.objective.answers(self.population, rows, run, members)
        return answers_AEK

    def _no_answers(self, rows: Material, members: int) -> Tensor:
        return torch.zeros(members, rows.sizes.rows, self.objective.numbers, dtype=torch.float64)

    def reading_work(self, tokens: int) -> int:
        """Of scoring rows of so many tokens by one member as it stands."""
        return self._work(tokens * WORK_FORWARD)

    @property
    def remembers(self) -> bool:
        """Whether every member was evaluated, so that its answers on the race rows cost nothing."""
        return all(member.best_step >= 0 for member in self.members)

    def best_answers(self, rows: Material | None = None) -> Tensor:
        """Of every member at its best step [P, E, K]: on the race rows (remembered), or on other rows."""
        if rows is None and self.remembers:
            return self.best_answers_PEK
        with self._at_best():
            return self.score(self.objective.race if rows is None else rows, range(self.size))

    def best_weights(self, member: int) -> Tensor:
        """A member's row [N] at its best step, or as it is where none was measured yet."""
        best_N = self._best[member]
        return self.population.flat.values_PN[member] if best_N is None else best_N

    @contextlib.contextmanager
    def _at_best(self) -> Any:
        values_PN = self.population.flat.values_PN
        now = {i: values_PN[i].clone() for i, best_N in enumerate(self._best) if best_N is not None}
        for i in now:
            values_PN[i] = self.best_weights(i)
        self.population.refresh()
        try:
            yield
        finally:
            for i, now_N in now.items():
                values_PN[i] = now_N
            self.population.refresh()
            self.population.release()

    def step_seconds(self) -> float:
        """How long the gradients of the first step take, the better of two; nothing is changed by it."""
        rows = self._rows_of_step()
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            with fast_float32():
                self._gradients_within_memory(rows, list(range(self.size)))
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    # --- members

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these."""
        chosen = list(indices)
        self.population.keep(chosen)
        self.optimizer.keep(chosen)
        self.members = [self.members[i] for i in chosen]
        self.settings = [self.settings[i] for i in chosen]
        self._best = [self._best[i] for i in chosen]
        self.best_answers_PEK = self.best_answers_PEK[chosen].clone()

    def export(self, member: int) -> dict[str, Tensor]:
        """A member's tensors at its best step, or as they are where none was measured yet."""
        return self.population.export(self.best_weights(member))

    def curve(self, member: int) -> Curve:
        return dataclasses.replace(self.members[member].curve, horizon=self.horizon)

    # --- state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that training goes on from: tensors by name, and JSON-ready values.

        The tensors are those that training changes: to be written before it goes on.
        """
        tensors = {
            "values_PN": self.population.flat.values_PN,
            "best_PN": torch.stack([self.best_weights(i) for i in range(self.size)]),
            "best_answers_PEK": self.best_answers_PEK,
            **self.optimizer.state(),
        }
        return tensors, {"step": self.step, "members": [_plain(member) for member in self.members]}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            RunError: the state is of other members, data or shapes.
        """
        found, expected = tuple(tensors["values_PN"].shape), tuple(self.population.flat.values_PN.shape)
        if found != expected or tuple(tensors["best_answers_PEK"].shape) != tuple(self.best_answers_PEK.shape):
            raise RunError(
                f"training: the checkpoint holds {found[0]} member(s) of {found[1]} numbers, expected {expected[0]} of "
                f"{expected[1]}, or other dev rows. It belongs to another configuration; start the run again."
            )
        self.population.flat.values_PN.copy_(tensors["values_PN"])
        self.population.refresh()
        self.optimizer.restore(tensors)
        now_and_best = zip(self.population.flat.values_PN, tensors["best_PN"], strict=True)
        self._best = [
            None if torch.equal(now_N, best_N.to(now_N)) else best_N.to(now_N, copy=True)
            for now_N, best_N in now_and_best
        ]
        self.best_answers_PEK.copy_(tensors["best_answers_PEK"])
        self.step = int(meta["step"])
        self.members = [_member(plain) for plain in meta["members"]]


def _plain(member: Member) -> dict[str, Any]:
    # JSON has no infinity: a member that was never measured has no best loss
    best = None if member.best_step < 0 else member.best_loss
    return {**dataclasses.asdict(member), "course": member.course.value, "best_loss": best}


def _member(plain: Mapping[str, Any]) -> Member:
    best = float("inf") if plain["best_loss"] is None else plain["best_loss"]
    return Member(**{**plain, "course": Course(plain["course"]), "best_loss": best})


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
