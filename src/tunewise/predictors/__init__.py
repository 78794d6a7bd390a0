"""The ways to answer, by the name that stands in a bundle."""

from tunewise.predictors.base import Predictor
from tunewise.registry import Registry

KINDS: Registry[type[Predictor]] = Registry(
    "predictors",
    {
        "constant": "tunewise.predictors.constant:ConstantPredictor",
        "fixed_text": "tunewise.predictors.fixed_text:FixedTextPredictor",
        "written": "tunewise.predictors.written:WrittenPredictor",
        "written_label": "tunewise.predictors.written_label:WrittenLabelPredictor",
        "prompted": "tunewise.predictors.prompted:PromptedPredictor",
        "head": "tunewise.predictors.head:HeadPredictor",
        "retrieved": "tunewise.predictors.retrieved:RetrievedPredictor",
        "adapted_writer": "tunewise.predictors.adapted_writer:AdaptedWriter",
        "adapted": "tunewise.predictors.adapted:AdaptedPredictor",
    },
)
