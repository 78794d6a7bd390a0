"""The metrics by name; each declares its direction and its signature."""

from tunewise.evaluation.metrics.base import Metric
from tunewise.registry import Registry

METRICS: Registry[Metric] = Registry(
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
    },
)
