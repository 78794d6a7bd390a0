"""Which configurations to try next: Optuna's samplers over a method's parameters, told what was tried before."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunewise.methods.base import Choice, Parameters

STARTUP = 8
"""Trials after which the sampler models the results; until then it spreads (quasi-random)."""


class OptunaSpace:
    """Suggestions by TPE (Bergstra et al. 2011) once there are enough results, quasi-random points before."""

    def __init__(self, seed: int, earlier: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        """`earlier` holds configurations with their losses on race, lower is better."""
        self._seed = seed
        self._earlier = list(earlier)

    def ask(self, parameters: Parameters, n: int) -> list[dict[str, Any]]:
        """N different points, none of them tried before; fewer when the space has no more."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distributions: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution(part.values)
            if isinstance(part, Choice)
            else optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
            for name, part in parameters.items()
        }
        sampler: optuna.samplers.BaseSampler
        if len(self._earlier) >= STARTUP:
            sampler = optuna.samplers.TPESampler(seed=self._seed % 2**32, n_startup_trials=STARTUP, constant_liar=True)
        else:
            sampler = optuna.samplers.RandomSampler(seed=self._seed % 2**32)
        study = optuna.create_study(sampler=sampler)
        for values, loss in self._earlier:
            known = {name: values[name] for name in distributions if name in values}
            if len(known) == len(distributions) and all(_inside(distributions[k], v) for k, v in known.items()):
                study.add_trial(optuna.trial.create_trial(params=known, distributions=distributions, value=loss))
        seen = [{name: values.get(name) for name in parameters} for values, _ in self._earlier]
        found: list[dict[str, Any]] = []
        for _ in range(20 * n):
            if len(found) == n:
                break
            values = study.ask(distributions).params
            if values not in seen and values not in found:
                found.append(values)
        return found


class FixedGrid:
    """Suggests nothing: for rungs that propose a grid of their own."""

    def ask(self, parameters: Parameters, n: int) -> list[dict[str, Any]]:
        return []


def _inside(distribution: Any, value: Any) -> bool:
    return bool(distribution._contains(distribution.to_internal_repr(value)))
