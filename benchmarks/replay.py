"""How much the race saves and what it misses, replayed on learning curves in seconds: the driver's own rule and peers.

A set is a number of candidates with their losses at 20 equal steps and the score they ended with. Subsets of 8, 16
and 32 candidates are drawn 1,000 times; a search sees the losses only, and picks the lowest at the end among those it
ran in full. Cost is in full runs of one candidate, regret is the score of the best of the subset minus the pick's.

- published: 63 configurations of PEFT's method comparison (MetaMathQA), train loss every 250 of 5,000 steps, test
  accuracy in points. The rule's constants (`search/halving.py`) were chosen on this set, and on nothing else.
- recorded-*: curves that other benchmarks left in `results/curves/` (dev loss; score in points).
- shuffled: the published ones, where the first half of the steps tells nothing (each step in an order of its own).
- crossing: curves that start anywhere and approach their end at a speed of their own; turned: the final order slowly
  turned into from its reverse; noise: every step in an order of its own, also the last.

Peers: Optuna's pruners at several settings on the published set (200 of the subsets), random search that spends as
much, and the full grid.

python benchmarks/replay.py
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sets import data_root

from tunewise.search.halving import Measured, decide, looks, pilots

RESULTS = Path(__file__).parent / "results"
POINTS, SUBSETS, PEER_SUBSETS = 20, 1000, 200
SIZES = (8, 16, 32)


@dataclass(frozen=True)
class Curves:
    """Losses [candidates, POINTS] and final scores [candidates], higher is better."""

    losses: np.ndarray
    scores: np.ndarray
    steps: int = 5000
    """Of a full run: the first looks of a short one come later."""


@dataclass
class Outcome:
    cost: float
    regret: float


def published() -> Curves:
    losses, scores = [], []
    for path in sorted((data_root() / "peft_method_comparison").glob("*.json")):
        entries = json.loads(path.read_text("utf-8"))["train_info"]["metrics"]
        by_step = {entry["step"]: entry["train loss"] for entry in entries if "valid accuracy" in entry}
        losses.append([by_step[step] for step in range(250, 5001, 250)])
        scores.append(100 * entries[-1]["test accuracy"])
    return Curves(np.array(losses), np.array(scores))


def built(seed: int) -> dict[str, Curves]:
    rng, real = np.random.default_rng(seed), published()
    n = len(real.scores)
    shuffled = real.losses.copy()
    for step in range(POINTS // 2):
        shuffled[:, step] = real.losses[rng.permutation(n), step]
    rank = (rankdata(real.losses[:, -1]) - 1) / (n - 1)
    start, speed = rng.normal(size=n), np.exp(rng.normal(-1, 1, size=n))
    steps = np.arange(1, POINTS + 1)
    crossing = 3 * rank[:, None] + start[:, None] * np.exp(-steps * speed[:, None] / 4)
    share = np.linspace(0, 1, POINTS)
    turned = (1 - share) * (1 - rank)[:, None] + share * rank[:, None]
    noise = rng.normal(size=(n, POINTS))
    return {
        "shuffled": Curves(shuffled, real.scores),
        "crossing": Curves(crossing, -10 * crossing[:, -1]),
        "turned": Curves(turned, -10 * rank),
        "noise": Curves(noise, -3 * noise[:, -1]),
    }


def recorded() -> dict[str, Curves]:
    """Curves of real brackets, brought to POINTS steps by the last value that was known."""
    found = {}
    for path in sorted((RESULTS / "curves").glob("*.json")):
        raw = json.loads(path.read_text("utf-8"))
        found[f"recorded-{path.stem}"] = Curves(np.array(raw["losses"]), np.array(raw["scores"]), raw["steps"])
    return found


def race(curves: Curves, subset: np.ndarray, rng: np.random.Generator) -> Outcome:
    """The driver's rule: the looks of `search/halving.py`, with the loss as the only example."""
    reached = dict.fromkeys(map(int, subset), 0)
    alive = list(reached)

    def to(mark: int, who: Sequence[int]) -> np.ndarray:
        for member in who:
            reached[member] = max(mark, reached[member])
        return np.array([[curves.losses[member, reached[member] - 1]] for member in alive])

    measured: list[Measured] = []
    before: dict[int, float] = {}
    for step, look in looks(len(alive), curves.steps):
        mark = math.ceil(POINTS * step / curves.steps)
        now_P1 = to(mark, alive[: pilots(len(alive))] if look == "pilots" else alive)
        before_P1 = np.array([[before[member]] for member in alive]) if before else None
        decision = decide(look, before_P1, now_P1, measured, rng=rng)
        if decision.measured is not None:
            measured.append(decision.measured)
        if look != "pilots":
            before = {member: float(now_P1[place, 0]) for place, member in enumerate(alive)}
        alive = [alive[place] for place in decision.keep]
    to(POINTS, alive)
    return Outcome(sum(reached.values()) / POINTS, regret(curves, subset, alive))


def regret(curves: Curves, subset: np.ndarray, finished: Sequence[int]) -> float:
    pick = min(finished, key=lambda member: curves.losses[member, -1])
    return float(curves.scores[subset].max() - curves.scores[pick])


def at_random(curves: Curves, subset: np.ndarray, cost: float, rng: np.random.Generator) -> Outcome:
    """As many full runs as this cost pays for; a part of one is run with that probability."""
    runs = min(len(subset), int(cost) + int(rng.random() < cost % 1))
    return Outcome(runs, regret(curves, subset, [int(member) for member in rng.permutation(subset)[: max(1, runs)]]))


def pruned(curves: Curves, subset: np.ndarray, pruner: Callable[[], Any]) -> Outcome:
    """Optuna: the candidates one after another in the drawn order, each stopped when the pruner says so."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="replay", pruner=pruner(), sampler=optuna.samplers.RandomSampler(seed=0)
    )  # Hyperband draws by the name
    steps, finished, last = 0, [], {}
    for member in map(int, subset):
        trial = study.ask()
        stopped = False
        for step in range(1, POINTS + 1):
            steps += 1
            last[member] = float(curves.losses[member, step - 1])
            trial.report(last[member], step)
            if step < POINTS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                stopped = True
                break
        if not stopped:
            study.tell(trial, last[member])
            finished.append(member)
    return Outcome(steps / POINTS, regret(curves, subset, finished))


def peers() -> dict[str, Callable[[], Any]]:
    from optuna import pruners

    return {
        "median (default)": pruners.MedianPruner,
        "percentile 25": lambda: pruners.PercentilePruner(25.0),
        "percentile 10": lambda: pruners.PercentilePruner(10.0),
        "hyperband (1, 20, 3)": lambda: pruners.HyperbandPruner(1, POINTS, 3),
        **{
            f"successive halving {factor}": lambda factor=factor: pruners.SuccessiveHalvingPruner(1, factor)
            for factor in (2, 3, 4)
        },
        "successive halving 3, early rate 1": lambda: pruners.SuccessiveHalvingPruner(1, 3, min_early_stopping_rate=1),
    }


def described(outcomes: Sequence[Outcome]) -> dict[str, float]:
    regrets = np.array([outcome.regret for outcome in outcomes])
    return {
        "cost": float(np.mean([outcome.cost for outcome in outcomes])),
        "regret": float(regrets.mean()),
        "regret_p90": float(np.quantile(regrets, 0.9)),
    }


def compared(curves: Curves, size: int, seed: int) -> dict[str, Any]:
    """The race and random search of the same cost, on the same subsets."""
    rng = np.random.default_rng(seed)
    subsets = [rng.choice(len(curves.scores), size, replace=False) for _ in range(SUBSETS)]
    ours = [race(curves, subset, rng) for subset in subsets]
    cost = float(np.mean([outcome.cost for outcome in ours]))
    chance = [at_random(curves, subset, cost, rng) for subset in subsets]
    grid = [Outcome(size, regret(curves, subset, list(map(int, subset)))) for subset in subsets]
    gaps = np.array([own.regret - other.regret for own, other in zip(ours, chance, strict=True)])
    half = 1.96 * gaps.std(ddof=1) / SUBSETS**0.5
    return {
        "race": described(ours),
        "random": described(chance),
        "grid": described(grid),
        "race_minus_random": [float(gaps.mean() - half), float(gaps.mean()), float(gaps.mean() + half)],
    }


def against_optuna(curves: Curves, size: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    subsets = [rng.choice(len(curves.scores), size, replace=False) for _ in range(PEER_SUBSETS)]
    ours = described([race(curves, subset, rng) for subset in subsets])
    others = {
        name: described([pruned(curves, subset, pruner) for subset in subsets]) for name, pruner in peers().items()
    }
    at_equal_regret = cost_at(ours["regret"], [(row["regret"], row["cost"]) for row in others.values()])
    ratio = None if at_equal_regret is None else at_equal_regret / ours["cost"]
    return {"race": ours, "optuna": others, "optuna_cost_at_equal_regret": at_equal_regret, "times_cheaper": ratio}


def cost_at(regret: float, settings: Sequence[tuple[float, float]]) -> float | None:
    """What a peer's best settings cost at this regret: on the lower convex hull of their (regret, cost), or None."""
    points = sorted(settings)
    costs = [
        a[1] + (b[1] - a[1]) * (regret - a[0]) / (b[0] - a[0])
        for i, a in enumerate(points)
        for b in points[i + 1 :]
        if a[0] <= regret < b[0]
    ]
    costs += [cost for known, cost in points if known <= regret]
    return min(costs, default=None)


def main() -> None:
    real = published()
    sets = {"published": real, **recorded(), **built(seed=0)}
    found: dict[str, Any] = {"subsets": SUBSETS, "sets": {}}
    for name, curves in sets.items():
        for size in SIZES:
            if size <= len(curves.scores):
                found["sets"][f"{name}, {size} candidates"] = compared(curves, size, seed=size)
    found["against_optuna"] = {"subsets": PEER_SUBSETS, **against_optuna(real, 32, seed=32)}
    (RESULTS / "replay.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, row in found["sets"].items():
        low, mean, high = row["race_minus_random"]
        own, chance = row["race"], row["random"]["regret"]
        print(f"{name}: {own['cost']:.2f} full runs, regret {own['regret']:.2f}; random search {chance:.2f}")
        print(f"    difference {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
    print(json.dumps(found["against_optuna"], indent=1))


if __name__ == "__main__":
    main()
