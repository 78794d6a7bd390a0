"""The metrics by name; each declares its direction, its signature and the kinds of task it is for."""

from tunewise.config import OWN_METRIC
from tunewise.evaluation.metrics.base import Metric
from tunewise.registry import Registry


class Metrics(Registry[Metric]):
    """By name, or by file and function: `python:FILE.py:FUNCTION`."""

    def get(self, name: str) -> Metric:
        """The metric called `name`; a function of the user's own is declared here, and run only once it is loaded.

        Raises:
            ConfigError: no metric has that name; the message offers the closest one.
        """
        if not name.startswith(OWN_METRIC):
            return super().get(name)
        from tunewise.evaluation.metrics.own import own_metric

        return own_metric(name)


METRICS = Metrics(
    "metrics",
    {
        "accuracy": "tunewise.evaluation.metrics.accuracy:accuracy",
        "macro_f1": "tunewise.evaluation.metrics.macro_f1:macro_f1",
        "balanced_accuracy": "tunewise.evaluation.metrics.balanced_accuracy:balanced_accuracy",
        "weighted_f1": "tunewise.evaluation.metrics.weighted_f1:weighted_f1",
        "mcc": "tunewise.evaluation.metrics.mcc:mcc",
        "log_loss": "tunewise.evaluation.metrics.log_loss:log_loss",
        "cohen_kappa": "tunewise.evaluation.metrics.cohen_kappa:cohen_kappa",
        "quadratic_kappa": "tunewise.evaluation.metrics.quadratic_kappa:quadratic_kappa",
        "mae": "tunewise.evaluation.metrics.mae:mae",
        "micro_f1": "tunewise.evaluation.metrics.micro_f1:micro_f1",
        "subset_accuracy": "tunewise.evaluation.metrics.subset_accuracy:subset_accuracy",
        "exact_match": "tunewise.evaluation.metrics.exact_match:exact_match",
        "token_f1": "tunewise.evaluation.metrics.token_f1:token_f1",
        "bleu": "tunewise.evaluation.metrics.bleu:bleu",
        "chrf": "tunewise.evaluation.metrics.chrf:chrf",
        "rouge1": "tunewise.evaluation.metrics.rouge:rouge1",
        "rouge2": "tunewise.evaluation.metrics.rouge:rouge2",
        "rougeL": "tunewise.evaluation.metrics.rouge:rouge_l",
        "similarity": "tunewise.evaluation.metrics.similarity:similarity",
        "bits_per_byte": "tunewise.evaluation.metrics.bits_per_byte:bits_per_byte",
        "perplexity": "tunewise.evaluation.metrics.perplexity:perplexity",
        "valid_python": "tunewise.evaluation.metrics.valid_python:valid_python",
        "valid_json": "tunewise.evaluation.metrics.valid_json:valid_json",
        "unparsable": "tunewise.evaluation.metrics.unparsable:unparsable",
        "length_ratio": "tunewise.evaluation.metrics.length_ratio:length_ratio",
    },
)
