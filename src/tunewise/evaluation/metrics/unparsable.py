"""Share of answers from which no answer could be read; lower is better."""

from tunewise.evaluation.metrics.base import FREE_TEXT, LABELS
from tunewise.evaluation.metrics.share import ShareMetric
from tunewise.types import Prediction


class Unparsable(ShareMetric):
    """1 where the predictor abstained, because what the model said did not hold what was asked for."""

    name = "unparsable"
    signature = "unparsable|impl:abstained"
    kinds = LABELS | FREE_TEXT
    greater_is_better = False
    hit = "unparsable"
    miss = "parsable"

    def holds(self, prediction: Prediction) -> bool:
        return prediction.abstained


unparsable = Unparsable()
