"""What a task sets for a rung holds for every candidate of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tunewise.config import DataConfig, Task
from tunewise.errors import ConfigError
from tunewise.methods import get_method
from tunewise.methods.base import Context, default_of, proposed
from tunewise.search.space import OptunaSpace
from tunewise.story.session import check_names


def with_settings(context: Context, settings: Mapping[str, Mapping[str, Any]]) -> Context:
    return dataclasses.replace(context, task=dataclasses.replace(context.task, settings=settings))


@pytest.mark.parametrize(
    ("rung", "own"),
    [
        ("lora", {"targets": "attention", "rank": 4}),
        ("full", {"layer_decay": 0.8}),
        ("peft:VERA", {"options": {"r": 16}}),
    ],
)
def test_settings_hold_for_the_default_and_for_what_is_searched(
    rung: str, own: dict[str, Any], context_for: Callable[[str], Context]
) -> None:
    method, context = get_method(rung), with_settings(context_for("bert"), {rung: own, "ia3": {"epochs": 1.0}})
    configs = [
        default_of(method, context),
        *proposed(method, context, OptunaSpace(0, []), np.random.default_rng(0), 5),
    ]
    assert len(configs) > 2
    assert all(getattr(config, name) == value for config in configs for name, value in own.items())
    assert len({str(config) for config in configs}) == len(configs)
    plain = method.default(context)
    assert any(getattr(plain, name) != value for name, value in own.items())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lora": {"rnk": 4}}, r"settings.lora: there is no key 'rnk'.*rank"),
        ({"lora": {"rank": "four"}}, "settings.lora.rank: expected a whole number"),
        ({"lora": {"rank": 0}}, "`rank` must be 1 or more"),
        ({"lorra": {}}, "lorra"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(settings: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_names(Task(data=DataConfig(train="not-there.csv"), settings=settings))
