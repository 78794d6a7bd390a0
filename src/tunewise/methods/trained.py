"""A bracket of trained candidates: loops of one or several members, grown, scored and shrunk together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewise.adapters.lora import NotStackable
from tunewise.errors import RunError
from tunewise.methods.base import Context
from tunewise.predictors.base import Predictor
from tunewise.training.loop import Loop, Rows
from tunewise.types import Curve, Example, Prediction

RACE_ROWS = 1000
"""Dev loss during training is taken on at most this many race rows, the same for every member."""

Build = Callable[[Sequence[int]], Loop]
"""A loop of the configs with these indices, which have one structure."""
Finish = Callable[[int, Mapping[str, Tensor]], Predictor]
"""What answers as the member with this config's index and these tensors."""


def rows_of(context: Context, examples: Sequence[Example], name: str) -> Rows:
    """Tokens and target indices under the task's truncation policy."""
    tokens = context.base.encode([example.texts for example in examples], context.task.truncation, name=name)
    return Rows(tokens, context.target_indices(examples))


def watched(examples: Sequence[Example], most: int = RACE_ROWS) -> list[int]:
    """At most `most` rows, picked by the hash of their content: the same ones in every bracket."""
    if len(examples) <= most:
        return list(range(len(examples)))
    return sorted(sorted(range(len(examples)), key=lambda i: examples[i].digest)[:most])


def subset(rows: Rows, indices: Sequence[int]) -> Rows:
    return Rows(rows.tokens.of_rows(indices), rows.target_E[list(indices)])


def balanced_weights(target_E: np.ndarray, labels: int) -> np.ndarray:
    """Weight of each label [L] so that all that occur weigh the same together; 1 on average over rows."""
    count_L = np.bincount(target_E, minlength=labels)
    present = count_L > 0
    weight_L = np.zeros(labels)
    weight_L[present] = len(target_E) / (present.sum() * count_L[present])
    return weight_L


def choose_population(build: Build, indices: Sequence[int]) -> tuple[list[list[int]], str]:
    """Groups of members to stack, and the sentence that says why: stacked only where a step of it is no slower.

    Measured on the first batch. The results do not depend on it beyond rounding.
    """
    everyone = list(indices)
    alone = [[i] for i in everyone]
    if len(everyone) == 1:
        return alone, "one candidate: nothing to stack"
    try:
        together = build(everyone).step_seconds()
    except NotStackable as error:
        return alone, f"trained one by one: {error}"
    single = build(everyone[:1]).step_seconds() * len(everyone)
    times = f"a step of {len(everyone)} takes {together * 1e3:.0f} ms stacked, {single * 1e3:.0f} ms one by one"
    return ([everyone], f"stacked: {times}") if together <= single else (alone, f"trained one by one: {times}")


class TrainedBracket:
    """Members in the order of the race, each in one of several loops; fidelity is steps of the longest horizon."""

    def __init__(
        self,
        *,
        labels: tuple[str, ...],
        race: Rows,
        build: Build,
        finish: Finish,
        groups: Sequence[Sequence[int]],
        watched_rows: int,
        notes: Sequence[str] = (),
    ) -> None:
        """`race` is all race rows; the loops that `build` makes see the first `watched_rows` picked by `watched`."""
        self.labels, self.race, self.notes = labels, race, tuple(notes)
        self._build, self._finish = build, finish
        self._all_watched = watched_rows == race.tokens.rows
        self._open([list(group) for group in groups])
        self.members = sorted(i for group in self.groups for i in group)
        self._fidelity = 0

    def _open(self, groups: list[list[int]]) -> None:
        self.groups = groups
        self.loops = [self._build(group) for group in groups]
        self._scored: dict[int, tuple[int, Tensor]] = {}

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def _horizon(self) -> int:
        return max(loop.horizon for loop in self.loops)

    @property
    def fidelity(self) -> int:
        return self._fidelity

    def advance(self, fidelity: int) -> int:
        fidelity = min(fidelity, self.horizon)
        work = 0
        for loop in self.loops:
            work += loop.advance(round(fidelity * loop.horizon / self.horizon))
        self._fidelity = max(self._fidelity, fidelity)
        return work

    def failure(self, member: int) -> str | None:
        """Why this member has no result, or None."""
        loop, place = self._place(member)
        record = loop.members[place]
        return record.reason if record.course == "diverged" else None

    def losses(self) -> np.ndarray:
        """As in `Bracket`, of each member at its best step so far; NaN in the row of a member that diverged."""
        log_PEL = torch.log_softmax(self._logits(), dim=-1)
        target = torch.as_tensor(self.race.target_E)
        loss_PE = -log_PEL.gather(-1, target.expand(self.size, -1)[..., None])[..., 0].numpy()
        for member in range(self.size):
            if self.failure(member) is not None:
                loss_PE[member] = np.nan
        return loss_PE

    def predictions(self) -> list[list[Prediction]]:
        """As in `Bracket`, of each member at its best step so far; none for a member that diverged."""
        share_PEL = torch.softmax(self._logits(), dim=-1).numpy()
        return [
            [] if self.failure(member) is not None else [_prediction(self.labels, row) for row in share_PEL[member]]
            for member in range(self.size)
        ]

    def _logits(self) -> Tensor:
        return torch.stack([self._loop_logits(*self._where(member)) for member in range(self.size)])

    def _loop_logits(self, number: int, place: int) -> Tensor:
        loop = self.loops[number]
        if number not in self._scored or self._scored[number][0] != loop.step:
            tokens = None if self._all_watched else self.race.tokens
            self._scored[number] = (loop.step, loop.best_logits(tokens))
        return self._scored[number][1][place]

    def _where(self, member: int) -> tuple[int, int]:
        """Number of the loop that holds a member, and its place there."""
        config = self.members[member]
        return next((n, group.index(config)) for n, group in enumerate(self.groups) if config in group)

    def _place(self, member: int) -> tuple[Loop, int]:
        number, place = self._where(member)
        return self.loops[number], place

    def keep(self, indices: Sequence[int]) -> None:
        self.members = [self.members[i] for i in indices]
        groups, loops = [], []
        for group, loop in zip(self.groups, self.loops, strict=True):
            stay = [place for place, config in enumerate(group) if config in self.members]
            if len(stay) < len(group) and stay:
                loop.keep(stay)
            if stay:
                groups.append([group[place] for place in stay])
                loops.append(loop)
        self.groups, self.loops = groups, loops
        self._scored = {}

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors: dict[str, Any] = {}
        metas = []
        for number, loop in enumerate(self.loops):
            own, meta = loop.state()
            tensors.update({f"{number}/{name}": tensor for name, tensor in own.items()})
            metas.append(meta)
        return tensors, {
            "members": list(self.members), "groups": self.groups, "fidelity": self._fidelity, "loops": metas,
        }

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self._open([[int(i) for i in group] for group in meta["groups"]])
        self.members = [int(i) for i in meta["members"]]
        self._fidelity = int(meta["fidelity"])
        for number, (loop, own) in enumerate(zip(self.loops, meta["loops"], strict=True)):
            prefix = f"{number}/"
            loop.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, own)

    def curve(self, member: int) -> Curve:
        loop, place = self._place(member)
        return loop.curve(place)

    def trainable_parameters(self, member: int) -> int:
        return self._place(member)[0].population.trainable_parameters

    def predictor(self, member: int) -> Predictor:
        """The member at its best step.

        Raises:
            RunError: the member diverged.
        """
        reason = self.failure(member)
        if reason is not None:
            raise RunError(f"this candidate has no predictor: {reason}. Use a lower learning rate.")
        loop, place = self._place(member)
        return self._finish(self.members[member], loop.export(place))

    def close(self) -> None:
        self.loops, self.groups, self.members, self._scored = [], [], [], {}


def _prediction(labels: tuple[str, ...], share_L: np.ndarray) -> Prediction:
    scores = dict(zip(labels, share_L.tolist(), strict=True))
    return Prediction(text=labels[int(share_L.argmax())], scores=scores)
