"""Prompts of different lengths leave different room for the text: each candidate is measured on what it will read."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tunewise.methods import get_method
from tunewise.methods.base import Context, Fold
from tunewise.types import Example


@pytest.mark.parametrize("rung", ["prompt_tuning", "prefix_tuning", "peft:PROMPT_TUNING"])
def test_a_text_at_the_limit_is_scored_as_it_will_be_served(rung: str, context_for: Callable[[str], Context]) -> None:
    context = context_for("bert")
    fold = context.fold
    long = tuple(
        Example(id=f"long-{i}", fields={"text": " ".join([f"the card {i}"] * 40 + ["invoice crash"])}, target="billing")
        for i in range(4)
    )
    context = dataclasses.replace(context, folds=(Fold(train=fold.train, race=(*fold.race, *long)),))
    method = get_method(rung)
    default = dataclasses.replace(method.default(context), epochs=1.0, batch_size=8)
    lengths = [{"length": n} if "peft" not in rung else {"options": {"num_virtual_tokens": n}} for n in (2, 16)]
    bracket = method.open(context, [dataclasses.replace(default, **length) for length in lengths])
    bracket.advance(bracket.horizon)
    for member, said in enumerate(bracket.predictions()):
        served = bracket.predictor(member).predict(context.race)
        for one, other in zip(said, served, strict=True):
            np.testing.assert_allclose(
                list((one.scores or {}).values()), list((other.scores or {}).values()), atol=1e-4
            )
