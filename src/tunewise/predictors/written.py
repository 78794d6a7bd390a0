"""Answer by writing: the base goes on from the prompt, and what it writes is the answer."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from tunewise.config import Truncation
from tunewise.errors import BundleError, ConfigError, ModelError, PromptError
from tunewise.models.answers import scorer_of, writer_of
from tunewise.models.asked import Asked
from tunewise.models.constraint import of_choices, of_regex, of_schema, written_ids
from tunewise.models.embed import Features
from tunewise.models.encoder import Encoder
from tunewise.models.generate import Decoding, Writer, Written
from tunewise.models.going import Allowed
from tunewise.models.prefix_tree import Request
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_settings, write_settings
from tunewise.predictors.neighbours import Neighbours
from tunewise.predictors.prompted import (
    Token,
    check_turns,
    fitted_prompts,
    reading,
    said_to,
    shown_before,
    tokens_of,
    with_evidence,
)
from tunewise.predictors.several import Thresholds
from tunewise.prompts.prompt import Demonstration, Part, Prompt, joined
from tunewise.prompts.window import Given
from tunewise.types import Example, Prediction

WRITTEN = 6
"""How many tokens are read in the time that one is written: on a CPU 6 with 260 thousand weights, 5 with 8 million."""


class WrittenPredictor:
    """What a frozen base writes after a prompt; an answer that did not come to its end is marked as abstained."""

    kind = "written"
    labels: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        base: Encoder,
        policy: Truncation,
        prompt: Prompt,
        decoding: Decoding,
        neighbours: Neighbours | None = None,
        features: Features | None = None,
    ) -> None:
        """`decoding`: how long an answer may be, where it stops, and whether it is drawn.

        `neighbours` are shown in the place of what the prompt shows; `features` looks vectors up and is not saved.

        Raises:
            ModelError: the base does not write, or has no room for prompt and answer.
        """
        if not isinstance(base, Asked) or not base.writes:
            raise ModelError(f"written: {base.info.name} writes nothing. Use a causal or seq2seq base.")
        self.base: Encoder | None = base
        self._asked = base = reading(base, prompt)
        self.room = base.room(decoding.max_new_tokens)
        if self.room < 1:
            raise ModelError(
                f"written: answers of {decoding.max_new_tokens:,} tokens leave no room for a prompt: {base.info.name} "
                f"has {base.info.max_tokens:,} in all. Ask for shorter answers, or use a base with a longer limit."
            )
        self.policy, self.prompt, self.decoding = policy, prompt, decoding
        self.neighbours, self.features = neighbours, features
        self.thresholds: Thresholds = None
        self.given = Given()
        """What was given up for the last rows that were asked about."""
        self._allowed = allowed_by(self._asked, prompt, decoding)
        self.writer = writer_of(base)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Where an example has a target, its log-probability after the same prompt is told too."""
        if not examples:
            return []
        shown = shown_before(self, examples)
        fitted = self._fitted(examples, shown)
        return self._told(examples, fitted, shown, self._written(fitted, self.writer))

    def write(self, examples: Sequence[Example], writer: Writer) -> list[Written]:
        """Answers to the examples' prompts by a writer: of this predictor, or of several that ask the same."""
        return self._written(self._prompts(examples), writer)

    def telling(self, examples: Sequence[Example], answers: Sequence[Written]) -> list[Prediction]:
        """Predictions of the examples, by what was written for them."""
        shown = shown_before(self, examples)
        return self._told(examples, self._fitted(examples, shown), shown, answers)

    def _written(self, fitted: Sequence[Sequence[Part]], writer: Writer) -> list[Written]:
        prompts = self._asked.prompt_ids([joined(parts) for parts in fitted])
        return writer.write(prompts, self.decoding, allowed=self._allowed)

    def _told(
        self,
        examples: Sequence[Example],
        fitted: Sequence[tuple[Part, ...]],
        shown: Sequence[Sequence[Demonstration]] | None,
        answers: Sequence[Written],
    ) -> list[Prediction]:
        targets = self._targets(fitted, examples)
        predictions = [
            Prediction(
                text=answer.text.strip(),
                abstained=not answer.ended,
                target_log_probability=None if target is None else float(target.sum()),
                target_tokens=None if target is None else len(target),
            )
            for answer, target in zip(answers, targets, strict=True)
        ]
        return with_evidence(predictions, fitted, shown)

    def tokens(self, examples: Sequence[Example]) -> int:
        """Tokens that are computed for these rows at most: read, written, and read once more with the right answer."""
        base = self._asked
        texts = [joined(parts) for parts in self._prompts(examples)]
        targets = [str(example.target) for example in examples if example.target is not None]
        read = sum(map(len, base.text_ids(texts))) * (2 if targets else 1) + sum(map(len, base.text_ids(targets)))
        return read + WRITTEN * self.decoding.beams * len(texts) * self.decoding.max_new_tokens

    def _prompts(self, examples: Sequence[Example]) -> list[tuple[Part, ...]]:
        return self._fitted(examples, shown_before(self, examples))

    def _fitted(
        self, examples: Sequence[Example], shown: Sequence[Sequence[Demonstration]] | None
    ) -> list[tuple[Part, ...]]:
        found, self.given = fitted_prompts(self._asked, self.prompt, examples, self.policy, self.room, shown)
        return found

    def laid_out(self, example: Example) -> tuple[str, list[Token]]:
        """The text that is read for a row with its right answer, where it has one, and its tokens."""
        (parts,) = self._prompts([example])
        text = joined(parts)
        answer = "" if example.target is None else self._wanted(example)
        request = self._request(text, answer)
        if request is None:
            raise PromptError(f"written: the target of row '{example.id}' is longer than the room after its prompt.")
        return text + answer, tokens_of(self._asked, request)

    def requests(self, examples: Sequence[Example]) -> list[Request | None]:
        """The target of each row after its prompt; None where that is longer than the base's limit."""
        return [
            self._request(joined(parts), self._wanted(example))
            for parts, example in zip(self._prompts(examples), examples, strict=True)
        ]

    def _targets(self, fitted: Sequence[Sequence[Part]], examples: Sequence[Example]) -> list[np.ndarray | None]:
        """Log-probability of each token of the target and of the end after it; None where there is no target."""
        asked = [
            self._request(joined(parts), self._wanted(example))
            for parts, example in zip(fitted, examples, strict=True)
            if example.target is not None
        ]
        found = iter(scorer_of(self._asked).score([request for request in asked if request is not None]))
        known = iter([None if request is None else next(found) for request in asked])
        return [None if example.target is None else next(known) for example in examples]

    def _wanted(self, example: Example) -> str:
        """What follows the prompt where the target is the answer."""
        return self.prompt.answer(self.prompt.wanted(str(example.target)))

    def _request(self, prompt: str, answer: str) -> Request | None:
        """The answer after the prompt, and the end after it; None where that is longer than the base's limit."""
        (request,) = self._asked.requests(prompt, [answer], end=True)
        return request if self._asked.fits(request) else None

    def log_probability(self, example: Example, text: str) -> float | None:
        """Of a text as the answer to a row, natural log; None where it does not fit."""
        (parts,) = self._prompts([example])
        request = self._request(joined(parts), self.prompt.answer(text))
        return None if request is None else float(scorer_of(self._asked).score([request])[0].sum())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder / f"{self.kind}.json", self._settings())
        if self.neighbours is not None:
            self.neighbours.save(folder)

    def _settings(self) -> dict[str, Any]:
        assert self.base is not None
        return {
            "base": self.base.info.name,
            "policy": self.policy,
            "prompt": self.prompt.plain(),
            "digest": self.prompt.digest,
            "decoding": dataclasses.asdict(self.decoding),
        }

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        found = cls._from_settings(folder, bases)
        return cls(**found, neighbours=Neighbours.load(folder, found["base"].info.hidden_size))

    @classmethod
    def _from_settings(cls, folder: Path, bases: Bases) -> dict[str, Any]:
        """What a predictor is made of, from its settings."""
        name = f"{cls.kind}.json"
        keys = {"base": str, "policy": str, "prompt": dict, "digest": str, "decoding": dict}
        settings = read_settings(folder / name, keys)
        try:
            prompt = Prompt.from_plain(settings["prompt"])
            lists = {key: tuple(settings["decoding"][key]) for key in ("stop", "choices")}
            decoding = Decoding(**{**settings["decoding"], **lists})
        except (KeyError, TypeError, ConfigError) as error:
            raise BundleError(f"{name}: the prompt cannot be read ({error}). The bundle is damaged.") from error
        if prompt.digest != settings["digest"]:
            raise BundleError(f"{name}: the prompt is not the one that was measured. Copy the bundle again.")
        base = bases(settings["base"])
        check_turns(prompt, base, name)
        return {"base": base, "policy": settings["policy"], "prompt": prompt, "decoding": decoding}


def allowed_by(base: Asked, prompt: Prompt, decoding: Decoding) -> Allowed | None:
    """What may be written after this prompt; None: anything.

    Raises:
        ModelError: the base cannot write a choice, or not in so many tokens.
        ConfigError: an expression or a schema cannot be read, or what reads it is not installed.
    """
    before = said_to(base, prompt).before_answer
    if decoding.choices:
        answers = [prompt.answer(text) for text in decoding.choices]
        longest = max(map(len, written_ids(base, before, answers)))
        if longest > decoding.max_new_tokens:
            raise ModelError(
                f"written: of the choices the longest has {longest} tokens, and `max_new_tokens` is "
                f"{decoding.max_new_tokens}. Set it to {longest} or more."
            )
        return of_choices(base, before, answers)
    if decoding.regex is not None:
        return of_regex(base, prompt.answer(""), decoding.regex)
    if decoding.json_schema is not None:
        return of_schema(base, prompt.answer(""), decoding.json_schema)
    return None
