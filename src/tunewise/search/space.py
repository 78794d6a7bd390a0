"""Which configurations to try next: Optuna's samplers over a method's parameters, told what was tried before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tunewise.methods.base import Choice, Parameters

STARTUP = 8
"""Trials after which the sampler models the results; until then points are spread evenly."""


class OptunaSpace:
    """Suggestions by TPE (Bergstra et al. 2011) once there are enough results, scrambled Halton points before.

    Few points that are spread evenly cover a learning rate better than as many random ones (Bousquet et al. 2017).
    """

    def __init__(self, seed: int, earlier: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        """`earlier` holds configurations with their losses on race, lower is better."""
        self._seed = seed
        self._earlier = list(earlier)

    def ask(self, parameters: Parameters, n: int) -> list[dict[str, Any]]:
        """N different points, none of them tried before; fewer when the space has no more."""
        seen = [{name: values.get(name) for name in parameters} for values, _ in self._earlier]
        few = len(self._earlier) < STARTUP
        points = _spread(parameters, self._seed, 20 * n) if few else self._modelled(parameters, 20 * n)
        found: list[dict[str, Any]] = []
        for values in points:
            if len(found) == n:
                break
            if values not in seen and values not in found:
                found.append(values)
        return found

    def _modelled(self, parameters: Parameters, n: int) -> Iterator[dict[str, Any]]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        distributions: dict[str, Any] = {
            name: optuna.distributions.CategoricalDistribution(part.values)
            if isinstance(part, Choice)
            else optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
            for name, part in parameters.items()
        }
        sampler = optuna.samplers.TPESampler(seed=self._seed % 2**32, n_startup_trials=STARTUP, constant_liar=True)
        study = optuna.create_study(sampler=sampler)
        for values, loss in self._earlier:
            known = {name: values[name] for name in distributions if name in values}
            if len(known) == len(distributions) and all(_inside(distributions[k], v) for k, v in known.items()):
                study.add_trial(optuna.trial.create_trial(params=known, distributions=distributions, value=loss))
        for _ in range(n):
            yield dict(study.ask(distributions).params)


def _spread(parameters: Parameters, seed: int, n: int) -> Iterator[dict[str, Any]]:
    """Points that fill the space evenly, however many of them are taken."""
    from scipy.stats import qmc

    for point in qmc.Halton(len(parameters), rng=np.random.default_rng(seed)).random(n):
        values: dict[str, Any] = {}
        for (name, part), share in zip(parameters.items(), point.tolist(), strict=True):
            if isinstance(part, Choice):
                values[name] = part.values[int(share * len(part.values))]
            elif part.log:
                values[name] = part.low * (part.high / part.low) ** share
            else:
                values[name] = part.low + share * (part.high - part.low)
        yield values


class FixedGrid:
    """Suggests nothing: for rungs that propose a grid of their own."""

    def ask(self, parameters: Parameters, n: int) -> list[dict[str, Any]]:
        return []


def _inside(distribution: Any, value: Any) -> bool:
    return bool(distribution._contains(distribution.to_internal_repr(value)))
