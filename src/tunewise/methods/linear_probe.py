"""Train a linear head on the frozen base's features; the base itself never changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunewise.errors import ConfigError
from tunewise.methods.base import Bracket, Context, MadeAtOnce, Parameters, Real, Space
from tunewise.models.embed import searched_layers
from tunewise.predictors.base import Predictor
from tunewise.predictors.head import HeadPredictor, vectors
from tunewise.types import Cost

MAX_ITERATIONS = 400


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """How freely the head may fit."""

    c: float = 10.0
    """Inverse strength of the L2 penalty."""
    layer: int | None = None
    """After how many blocks the base's hidden states are read; None: its own vectors, after all of them."""

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer < 0:
            raise ConfigError(f"linear_probe: `layer` must be 0 (the embeddings) or more, got {self.layer}.")
        if not 0 < self.c < float("inf"):
            raise ConfigError(f"linear_probe: `c` must be a finite number above 0, got {self.c}.")


class LinearProbe:
    r"""Multinomial logistic regression on fixed features (Alain and Bengio 2016); of several labels, one for each.

    $\min_{W,b} \tfrac12 \|W\|^2 + C \sum_i w_{y_i} (-\log \mathrm{softmax}(W f(x_i) + b)_{y_i})$, with every class
    weighing the same where the metric is an average over classes.
    """

    name = "linear_probe"
    families = frozenset({"causal", "masked", "encoder", "seq2seq"})
    kinds = frozenset({"classify"})
    Config = LinearProbeConfig
    parameters: ClassVar[Parameters] = {"c": Real(0.1, 1000.0, log=True)}
    trained = False
    several = True
    default_share = 0.0

    def skip(self, context: Context) -> str | None:
        if context.several or len({str(example.target) for example in context.fold.train}) > 1:
            return None
        return "linear_probe: the training rows hold one label; there is nothing to tell apart."

    def default(self, context: Context) -> LinearProbeConfig:
        return LinearProbeConfig()

    def propose(self, context: Context, space: Space, rng: np.random.Generator, n: int) -> list[LinearProbeConfig]:
        """Layers first; none where the base is a sentence encoder, whose vectors were made to be read."""
        penalties = [LinearProbeConfig(c=c) for c in (1.0, 100.0, 3.0, 30.0, 0.3, 300.0)]
        if context.base.info.family == "encoder":
            return penalties[:n]
        layers = [LinearProbeConfig(layer=layer) for layer in searched_layers(context.base.depth)]
        return [*layers, *penalties][:n]

    def cost(self, context: Context, config: LinearProbeConfig) -> Cost:
        head = len(context.labels) * (context.base.info.hidden_size + 1)
        work = self._fit_work(context, MAX_ITERATIONS // 4) + _pass_work(context, config)
        memory = 8 * len(context.fold.train) * context.base.info.hidden_size
        return Cost(work=work, seconds=work * context.seconds_per_work, memory_bytes=memory, trainable_parameters=head)

    def open(self, context: Context, configs: Sequence[Any]) -> Bracket:
        targets = context.targets(context.fold.train)

        def make(member: int) -> tuple[Predictor, int]:
            config = configs[member]
            feature_EH = vectors(None, context.fold.train, context.task.truncation, context.features, config.layer)
            weight_LH, bias_L, iterations = fit_head(feature_EH, targets, len(context.labels), config.c)
            predictor = HeadPredictor(
                base=context.base,
                labels=context.labels,
                policy=context.task.truncation,
                weight_LH=weight_LH,
                bias_L=bias_L,
                unit_length=False,
                features=context.features,
                thresholds=context.thresholds,
                layer=config.layer,
            )
            return predictor, self._fit_work(context, iterations) + _pass_work(context, config)

        size = len(context.labels) * (context.base.info.hidden_size + 1)
        return MadeAtOnce(context, make, len(configs), parameters=lambda member: size)

    def _fit_work(self, context: Context, iterations: int) -> int:
        """Passes over the features, as tokens of a forward pass that cost as many multiplications."""
        multiplications = 2 * iterations * len(context.fold.train) * len(context.labels) * context.base.info.hidden_size
        return multiplications // max(1, context.base.info.parameters)


def _pass_work(context: Context, config: LinearProbeConfig) -> int:
    """Of reading another layer than the one whose vectors the run has; as if each candidate paid for the pass alone."""
    return 0 if config.layer is None else context.train_tokens + context.race_tokens


def fit_head(
    feature_EH: np.ndarray, target_E: np.ndarray, n_labels: int, c: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights [labels, hidden] and biases [labels] as float32, and the iterations it took (L-BFGS, scikit-learn).

    Labels that no row has get no weight and a bias that keeps them below every other. Where the targets are 0 or 1 for
    each of several labels, [rows, labels], each label has a regression of its own.
    """
    if target_E.ndim == 2:
        return _one_against_rest(feature_EH, target_E, c)
    from sklearn.linear_model import LogisticRegression

    scale = float(np.sqrt((feature_EH**2).sum(axis=1).mean())) or 1.0
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=1e-3)
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # a head stopped after MAX_ITERATIONS is a fine head: it is measured on dev like every other
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(feature_EH / scale, target_E)
    weight_LH = np.zeros((n_labels, feature_EH.shape[1]), dtype=np.float32)
    bias_L = np.full(n_labels, -30.0, dtype=np.float32)
    if len(model.classes_) == 2:
        first, second = model.classes_
        weight_LH[second], bias_L[first], bias_L[second] = model.coef_[0] / scale, 0.0, model.intercept_[0]
    else:
        weight_LH[model.classes_] = model.coef_ / scale
        bias_L[model.classes_] = model.intercept_
    return weight_LH, bias_L, int(np.max(model.n_iter_))


def _one_against_rest(feature_EH: np.ndarray, wanted_EL: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray, int]:
    """As `fit_head`; a label that all rows have or none has keeps a weight of zero and a bias that says so."""
    weight_LH = np.zeros((wanted_EL.shape[1], feature_EH.shape[1]), dtype=np.float32)
    bias_L = np.where(wanted_EL.any(axis=0), 30.0, -30.0).astype(np.float32)
    longest = 0
    for label in np.flatnonzero(wanted_EL.any(axis=0) & ~wanted_EL.all(axis=0)):
        weight_2H, bias_2, iterations = fit_head(feature_EH, wanted_EL[:, label].astype(np.int64), 2, c)
        weight_LH[label], bias_L[label] = weight_2H[1], bias_2[1]
        longest = max(longest, iterations)
    return weight_LH, bias_L, longest
