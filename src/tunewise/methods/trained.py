"""A bracket of trained candidates: loops of one or several members, grown, scored and shrunk together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tunewise.adapters.stack import NotStackable
from tunewise.errors import NotEnoughMemory, RunError
from tunewise.methods.bench import Answering, Bench
from tunewise.predictors.base import Predictor
from tunewise.training.loop import Loop
from tunewise.types import Curve, Prediction

Build = Callable[[Sequence[int]], Loop]
"""A loop of the configs with these indices, which have one structure."""
Finish = Callable[[int, Mapping[str, Tensor]], Predictor]
"""What answers as the member with this config's index and these tensors."""


def choose_population(build: Build, indices: Sequence[int]) -> tuple[list[list[int]], str]:
    """Groups of members to stack, and the sentence that says why: stacked only where a step of it is no slower.

    Measured on the first batch. Where so many do not fit in memory together, each half is looked at by itself. The
    results do not depend on the grouping beyond rounding.
    """
    everyone = list(indices)
    alone = [[i] for i in everyone]
    if len(everyone) == 1:
        return alone, "one candidate: nothing to stack"
    try:
        together = build(everyone).step_seconds()
    except NotStackable as error:
        return alone, f"trained one by one: {error}"
    except NotEnoughMemory:
        half = len(everyone) // 2
        first, why = choose_population(build, everyone[:half])
        second, _ = choose_population(build, everyone[half:])
        return [*first, *second], f"{len(everyone)} candidates do not fit in memory together, so half of them: {why}"
    single = build(everyone[:1]).step_seconds() * len(everyone)
    times = f"a step of {len(everyone)} takes {together * 1e3:.0f} ms stacked, {single * 1e3:.0f} ms one by one"
    return ([everyone], f"stacked: {times}") if together <= single else (alone, f"trained one by one: {times}")


class TrainedBracket:
    """Members in the order of the race, each in one of several loops; fidelity is steps of the longest horizon."""

    def __init__(
        self,
        *,
        bench: Bench,
        build: Build,
        finish: Finish,
        groups: Sequence[Sequence[int]],
        notes: Sequence[str] = (),
        benches: Mapping[int, Bench] | None = None,
        alike: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """`benches`: by config index, where candidates do not all read the same tokens.

        `alike`: candidates of one structure, however they are trained (None: those that are trained in one stack).
        """
        self._first_bench, self._bench_of = bench, benches or {}
        self._benches = list({id(own): own for own in (bench, *self._bench_of.values())}.values())
        self._notes = tuple(notes)
        self._alike = [list(group) for group in (groups if alike is None else alike)]
        self.thresholds = bench.context.thresholds
        self._build, self._finish = build, finish
        self._all_rows = tuple(range(len(bench.context.fold.race)))
        self._watched = tuple(bench.context.watched(bench.context.fold.race))
        self._open([list(group) for group in groups])
        self.members = sorted(i for group in self.groups for i in group)
        # of all candidates, also those that leave: the unit of fidelity must not change under way
        self._horizon = max(loop.horizon for loop in self.loops)
        self._fidelity = 0
        self._owed = sum(own.work for own in self._benches)

    def _open(self, groups: list[list[int]]) -> None:
        self.groups = groups
        self.loops = [self._build(group) for group in groups]
        self._scored: dict[int, tuple[tuple[int, tuple[int, ...]], Tensor]] = {}
        self._made: dict[int, tuple[int, Predictor]] = {}
        """By config index, the step of its loop and what answers as the member does there."""

    @property
    def notes(self) -> tuple[str, ...]:
        return (*[note for own in self._benches for note in own.notes], *self._notes)

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def fidelity(self) -> int:
        return self._fidelity

    def advance(self, fidelity: int, members: Sequence[int] | None = None) -> int:
        fidelity = min(fidelity, self.horizon)
        wanted = None if members is None else {self.members[member] for member in members}
        work, self._owed = self._owed, 0
        for group, loop in zip(self.groups, self.loops, strict=True):
            if wanted is None or not wanted.isdisjoint(group):
                work += loop.advance(round(fidelity * loop.horizon / self.horizon))
        if members is None:
            self._fidelity = max(self._fidelity, fidelity)
        return work

    @property
    def layout(self) -> list[list[int]]:
        """Indices of the configs that are trained in one stack."""
        return [list(group) for group in self.groups]

    def failure(self, member: int) -> str | None:
        """Why this member has no result, or None."""
        loop, place = self._place(member)
        record = loop.members[place]
        return record.reason if record.course == "diverged" else None

    def losses(self, rows: tuple[int, ...] | None = None) -> np.ndarray:
        """As in `Bracket`, of each member at its best step so far; NaN in the row of a member that diverged."""
        asked = self._asked(rows)
        found = [self._bench(member).losses(self._answers(member, asked), asked) for member in range(self.size)]
        loss_PE = np.stack(found)
        for member in range(self.size):
            if self.failure(member) is not None:
                loss_PE[member] = np.nan
        return loss_PE

    def reading_work(self, member: int, tokens: int) -> int:
        return self._place(member)[0].reading_work(tokens)

    def remembers(self, member: int) -> bool:
        return self._place(member)[0].remembers

    def predictions(self, rows: tuple[int, ...] | None = None) -> list[list[Prediction]]:
        """As in `Bracket`, of each member at its best step so far; none for a member that diverged."""
        asked = self._asked(rows)
        found: list[list[Prediction]] = [[] for _ in self.members]
        for group in self._alike:
            members = [p for p, config in enumerate(self.members) if config in group and self.failure(p) is None]
            if members:
                answering = [
                    Answering(functools.partial(self._answers, p, asked), functools.partial(self.predictor, p))
                    for p in members
                ]
                for p, own in zip(members, self._bench(members[0]).predictions(answering, asked), strict=True):
                    found[p] = own
        return found

    def _asked(self, rows: tuple[int, ...] | None) -> tuple[int, ...]:
        return self._all_rows if rows is None else rows

    def _bench(self, member: int) -> Bench:
        return self._bench_of.get(self.members[member], self._first_bench)

    def _answers(self, member: int, rows: tuple[int, ...]) -> Tensor:
        """What is remembered of these race rows [E, K], or read anew where they are not among the watched ones."""
        number, place = self._where(member)
        loop = self.loops[number]
        known = self._scored.get(number)
        if known is None or known[0] != (loop.step, rows):
            if loop.remembers and set(rows) <= set(self._watched):
                answers_PEK = loop.best_answers()[:, [self._watched.index(row) for row in rows]]
            else:
                race = self._bench(member).race
                answers_PEK = loop.best_answers(race if rows == self._all_rows else race.subset(rows))
            known = self._scored[number] = ((loop.step, rows), answers_PEK)
        return known[1][place]

    def _where(self, member: int) -> tuple[int, int]:
        """Number of the loop that holds a member, and its place there."""
        config = self.members[member]
        return next((n, group.index(config)) for n, group in enumerate(self.groups) if config in group)

    def _place(self, member: int) -> tuple[Loop, int]:
        number, place = self._where(member)
        return self.loops[number], place

    def keep(self, indices: Sequence[int]) -> None:
        self.members = [self.members[i] for i in indices]
        groups: list[list[int]] = []
        loops, scored = [], {}
        for number, (group, loop) in enumerate(zip(self.groups, self.loops, strict=True)):
            stay = [place for place, config in enumerate(group) if config in self.members]
            if len(stay) < len(group) and stay:
                loop.keep(stay)
            if stay:
                if len(stay) == len(group) and number in self._scored:
                    scored[len(groups)] = self._scored[number]
                groups.append([group[place] for place in stay])
                loops.append(loop)
        self.groups, self.loops, self._scored = groups, loops, scored

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors: dict[str, Any] = {}
        metas = []
        for number, loop in enumerate(self.loops):
            own, meta = loop.state()
            tensors.update({f"{number}/{name}": tensor for name, tensor in own.items()})
            metas.append(meta)
        return tensors, {
            "members": list(self.members),
            "groups": self.groups,
            "fidelity": self._fidelity,
            "horizon": self._horizon,
            "owed": self._owed,
            "benches": [own.state() for own in self._benches],
            "loops": metas,
        }

    def restore(self, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self._open([[int(i) for i in group] for group in meta["groups"]])
        self.members = [int(i) for i in meta["members"]]
        self._fidelity, self._horizon = int(meta["fidelity"]), int(meta["horizon"])
        self._owed = int(meta["owed"])
        for bench, state in zip(self._benches, meta["benches"], strict=True):
            bench.restore(state)
        for number, (loop, own) in enumerate(zip(self.loops, meta["loops"], strict=True)):
            prefix = f"{number}/"
            loop.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, own)

    def curve(self, member: int) -> Curve:
        loop, place = self._place(member)
        return loop.curve(place)

    def trainable_parameters(self, member: int) -> int:
        loop, place = self._place(member)
        return loop.population.trainable_parameters(place)

    def predictor(self, member: int) -> Predictor:
        """The member at its best step.

        Raises:
            RunError: the member diverged.
        """
        loop, place = self._place(member)
        step, known = self._made.get(self.members[member], (None, None))
        if known is not None and step == loop.step:
            return known
        tensors = {} if self.failure(member) is not None else loop.export(place)
        reason = self.failure(member)  # what is exported may be fitted only then, and fail
        if reason is not None:
            raise RunError(f"this candidate has no predictor: {reason}. Use a lower learning rate.")
        predictor = self._finish(self.members[member], tensors)
        predictor.thresholds = self.thresholds
        self._made[self.members[member]] = (loop.step, predictor)
        return predictor

    def close(self) -> None:
        self.loops, self.groups, self.members, self._scored, self._made = [], [], [], {}, {}
