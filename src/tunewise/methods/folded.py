"""Cross-fitting: where rows are few, a candidate is fitted once per fold and answers for the rows it was not fitted on.

The answers on all folds together are its dev; what is served in the end is fitted on every row, for as many steps as
were best in the median fold.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunewise.data.references import apart
from tunewise.errors import NotEnoughMemory, RunError, TunewiseError
from tunewise.methods.base import Bracket, Context, Fold, Method
from tunewise.predictors.base import Predictor
from tunewise.types import Cost, Curve, Prediction


class RefitFailed(TunewiseError):
    """A member that did well on its folds cannot be fitted on all rows."""


def open_bracket(method: Method, context: Context, configs: Sequence[Any]) -> Bracket:
    """The candidates, on the one fold there is or on each of several."""
    return method.open(context, configs) if len(context.folds) == 1 else FoldedBracket(method, context, configs)


def cost_of(method: Method, context: Context, config: Any) -> Cost:
    """Of one candidate on all folds; `refit_work` comes on top for the one that wins."""
    one, k = method.cost(context, config), len(context.folds)
    return dataclasses.replace(one, work=k * one.work, seconds=k * one.seconds, memory_bytes=k * one.memory_bytes)


def refit_work(method: Method, context: Context, config: Any) -> int:
    """Of fitting one candidate on all rows, where a fold trains on k - 1 parts of k; 0 where there is one fold."""
    k = len(context.folds)
    if getattr(method, "asks", False):
        return 0  # a prompt is made of rows, not fitted on them
    return 0 if k == 1 else round(method.cost(context, config).work * k / (k - 1))


class FoldedBracket:
    """The same candidates on every fold, advanced side by side; a member's row is all folds' rows, in order."""

    def __init__(self, method: Method, context: Context, configs: Sequence[Any]) -> None:
        self._method, self._context, self._configs = method, context, list(configs)
        layouts = context.layout or [None] * len(context.folds)
        self.brackets = [
            method.open(dataclasses.replace(context, folds=(fold,), watch=context.watched_rows, layout=layout), configs)
            for fold, layout in zip(context.folds, layouts, strict=True)
        ]
        self.members = list(range(len(configs)))
        self._horizon = max(bracket.horizon for bracket in self.brackets)
        self._fidelity = 0
        self.spent_on_refits = 0

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def fidelity(self) -> int:
        return self._fidelity

    @property
    def layout(self) -> Any:
        layouts = [bracket.layout for bracket in self.brackets]
        return None if all(layout is None for layout in layouts) else layouts

    @property
    def notes(self) -> tuple[str, ...]:
        return self.brackets[0].notes

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        fidelity = min(fidelity, self.horizon)
        work = 0
        for bracket in self.brackets:
            work += bracket.advance(round(fidelity * bracket.horizon / self.horizon), members)
        if members is None:
            self._fidelity = max(self._fidelity, fidelity)
        return work

    def losses(self, rows: tuple[int, ...] | None = None) -> np.ndarray:
        parts = zip(self.brackets, self._by_fold(rows), strict=True)
        return np.concatenate([bracket.losses(own) for bracket, own in parts], axis=1)

    def reading_work(self, member: int, tokens: int) -> int:
        of_fold = tokens // len(self.brackets)
        return sum(bracket.reading_work(member, of_fold) for bracket in self.brackets)

    def remembers(self, member: int) -> bool:
        return all(bracket.remembers(member) for bracket in self.brackets)

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        parts = [bracket.predictions(own) for bracket, own in zip(self.brackets, self._by_fold(rows), strict=True)]
        return [
            [] if self.failure(member) is not None else [answer for part in parts for answer in part[member]]
            for member in range(self.size)
        ]

    def _by_fold(self, rows: tuple[int, ...] | None) -> list[tuple[int, ...] | None]:
        """These rows of all folds' as rows of each."""
        if rows is None:
            return [None] * len(self._context.folds)
        found: list[tuple[int, ...] | None] = []
        start = 0
        for fold in self._context.folds:
            end = start + len(fold.race)
            found.append(tuple(row - start for row in rows if start <= row < end))
            start = end
        return found

    def keep(self, indices: Sequence[int]) -> None:
        for bracket in self.brackets:
            bracket.keep(indices)
        self.members = [self.members[i] for i in indices]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors: dict[str, Any] = {}
        metas = []
        for number, bracket in enumerate(self.brackets):
            own, meta = bracket.state()
            tensors.update({f"fold{number}/{name}": tensor for name, tensor in own.items()})
            metas.append(meta)
        return tensors, {"members": list(self.members), "fidelity": self._fidelity, "folds": metas}

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        for number, (bracket, own) in enumerate(zip(self.brackets, meta["folds"], strict=True)):
            prefix = f"fold{number}/"
            bracket.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, own)
        self.members = [int(i) for i in meta["members"]]
        self._fidelity = int(meta["fidelity"])

    def failure(self, member: int) -> str | None:
        reasons = [bracket.failure(member) for bracket in self.brackets]
        return next((f"fold {number + 1}: {reason}" for number, reason in enumerate(reasons) if reason), None)

    def curve(self, member: int) -> Curve:
        """Of the first fold."""
        return self.brackets[0].curve(member)

    def trainable_parameters(self, member: int) -> int:
        return self.brackets[0].trainable_parameters(member)

    def predictor(self, member: int) -> Predictor:
        """Fitted on all rows, to the median of the folds' best steps.

        Raises:
            RefitFailed: that diverged, or does not fit in memory.
        """
        curves = [bracket.curve(member) for bracket in self.brackets]
        shares = [curve.best_step / curve.horizon for curve in curves if curve.best_step > 0]
        everything = tuple(example for fold in self._context.folds for example in fold.race)
        if self._context.task.kind == "generate":
            everything = apart(everything)
        context = dataclasses.replace(self._context, folds=(Fold(train=everything, race=()),), layout=None)
        whole = self._method.open(context, [self._configs[self.members[member]]])
        try:
            share = statistics.median(shares) if shares else 1.0
            self.spent_on_refits += whole.advance(max(1, round(share * whole.horizon)))
            return whole.predictor(0)
        except (RunError, NotEnoughMemory) as error:
            raise RefitFailed(f"fitted on all rows, after its folds: {error}") from error
        finally:
            whole.close()

    def close(self) -> None:
        for bracket in self.brackets:
            bracket.close()
