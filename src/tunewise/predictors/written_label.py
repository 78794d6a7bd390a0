"""Answer with the label whose words the base writes; what is no label's words stays what it is, and counts as wrong."""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tunewise.config import Truncation
from tunewise.errors import PromptError
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder
from tunewise.models.generate import Decoding
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_settings
from tunewise.predictors.neighbours import Neighbours
from tunewise.predictors.prompted import Token
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Prompt
from tunewise.types import UNPARSABLE, Example, Prediction


class WrittenLabelPredictor(WrittenPredictor):
    """The label that is written, without probabilities; an answer that is none begins with `(unparsable)`."""

    kind = "written_label"

    def __init__(
        self,
        *,
        base: Encoder,
        labels: tuple[str, ...],
        policy: Truncation,
        prompt: Prompt,
        decoding: Decoding,
        neighbours: Neighbours | None = None,
        features: Features | None = None,
    ) -> None:
        """As for every writer; `prompt` must have words for every label.

        Raises:
            ModelError: the base does not write, or has no room for prompt and answer.
            PromptError: a label has no words.
        """
        missing = [label for label in labels if label not in prompt.words]
        if missing:
            raise PromptError(f"written_label: the prompt has no words for the label '{missing[0]}'. Give it some.")
        super().__init__(
            base=base, policy=policy, prompt=prompt, decoding=decoding, neighbours=neighbours, features=features
        )
        self.labels = labels
        self._label_of = labels_by_words({label: prompt.words[label] for label in labels})

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        return [self._read(answer) for answer in super().predict(_without_targets(examples))]

    def _read(self, answer: Prediction) -> Prediction:
        label = self._label_of.get(answer.text, self._label_of.get(plainly(answer.text)))
        text = f"{UNPARSABLE} {answer.text}" if label is None else label
        return dataclasses.replace(answer, text=text, abstained=label is None)

    def tokens(self, examples: Sequence[Example]) -> int:
        return super().tokens(_without_targets(examples))

    def laid_out(self, example: Example) -> tuple[str, list[Token]]:
        label = str(example.target) if example.target is not None else self.labels[0]
        return super().laid_out(dataclasses.replace(example, target=self.prompt.words[label]))

    def log_probability(self, example: Example, text: str) -> float | None:
        said = self.prompt.words.get(text, text.removeprefix(UNPARSABLE).strip())
        return super().log_probability(example, said)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "labels": self.labels}

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        found = cls._from_settings(folder, bases)
        labels = tuple(map(str, read_settings(folder / f"{cls.kind}.json", {"labels": list})["labels"]))
        return cls(**found, labels=labels, neighbours=Neighbours.load(folder, found["base"].info.hidden_size))


def labels_by_words(words: Mapping[str, str]) -> dict[str, str]:
    """The label of each words, as they are, and plainly where that tells labels apart."""
    plain: dict[str, list[str]] = {}
    for label, said in words.items():
        plain.setdefault(plainly(said), []).append(label)
    alone = {said: labels[0] for said, labels in plain.items() if len(labels) == 1 and said}
    return {**alone, **{said: label for label, said in words.items()}}


def plainly(text: str) -> str:
    """Without case, blanks and the signs around it: `Billing.` is "billing"."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _without_targets(examples: Sequence[Example]) -> list[Example]:
    return [dataclasses.replace(example, target=None) for example in examples]
