"""Answer with a base whose weights were changed: an adapter on it, or every weight of its own; and a head.

Axes: E examples, H hidden, L labels.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunewise.adapters.files import FEATURES, Use, load_adapter, save_adapter
from tunewise.adapters.prefix import PrefixForm
from tunewise.adapters.stack import Form, Stack
from tunewise.config import Truncation
from tunewise.errors import BundleError, ModelError
from tunewise.models.asked import Asked
from tunewise.models.encoder import Encoder, answering
from tunewise.models.tree import shared_tree
from tunewise.predictors.base import Bases
from tunewise.predictors.files import read_arrays, read_settings, write_arrays, write_settings
from tunewise.predictors.prompted import check_turns, prompt_tokens
from tunewise.predictors.several import Thresholds, from_logits, from_settings, to_settings
from tunewise.prompts.prompt import Prompt
from tunewise.types import Example, Prediction

AnyBase = TypeVar("AnyBase", bound=Encoder)

SETTINGS, HEAD, ADAPTER, WEIGHTS = "adapted.json", "head.safetensors", "adapter", "model.safetensors"


class AdaptedPredictor:
    """softmax(W f(x) + b), or the sigmoid of each, with f the adapted base, pooled.

    The shared base is never changed, not even for a moment.
    """

    kind = "adapted"

    def __init__(
        self,
        *,
        base: Encoder,
        labels: tuple[str, ...],
        policy: Truncation,
        weight_LH: np.ndarray,
        bias_L: np.ndarray,
        tensors: Mapping[str, Tensor],
        adapter: Form | None,
        unit_length: bool = False,
        thresholds: Thresholds = None,
        prompt: Prompt | None = None,
    ) -> None:
        """`tensors`: of one member with an `adapter`, else every weight of the base by name.

        `unit_length`: whether the head reads vectors scaled to length 1. `prompt`: what the base reads of a row; the
        head then reads what it has where the answer to that stands, as it does with an adapter of the decoder.

        Raises:
            ModelError: the tensors do not fit the base.
        """
        self.base: Encoder | None = base
        self.labels, self.policy = labels, policy
        self.weight_LH, self.bias_L = weight_LH.astype(np.float32), bias_L.astype(np.float32)
        self.tensors, self.adapter, self.unit_length = dict(tensors), adapter, unit_length
        self.thresholds, self.prompt = thresholds, prompt
        if prompt is not None or _in_decoder(adapter):
            if not isinstance(base, Asked):
                raise ModelError(f"adapted: {base.info.name} gives no vectors that answers to prompts are read off.")
            self.base, base = base.origin, base.at_answer()
        if self.weight_LH.shape != (len(labels), base.info.hidden_size) or self.bias_L.shape != (len(labels),):
            raise ModelError(
                f"adapted: the head should be {len(labels)} labels by {base.info.hidden_size}, found "
                f"{self.weight_LH.shape} and {self.bias_L.shape}. It was made for another base."
            )
        self.encoder = self._adapted_encoder(base)

    def _adapted_encoder(self, base: Encoder) -> Encoder:
        """An encoder with a module tree of its own, in which only what was trained is not the base's."""
        if self.adapter is None:
            encoder = copy.copy(base)
            encoder.model = shared_tree(base.model)
            own_weights(encoder.model, self.tensors)
        else:
            encoder = with_adapter(base, self.tensors, self.adapter)
        encoder.info = dataclasses.replace(encoder.info, normalize=self.unit_length)
        return encoder

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if not examples:
            return []
        if self.prompt is None:
            feature_EH = self.encoder.features([example.texts for example in examples], answering(self.policy))
        else:
            assert isinstance(self.encoder, Asked)
            feature_EH = self.encoder.features_of(prompt_tokens(self.encoder, self.prompt, examples, self.policy))
        logits_EL = feature_EH.astype(np.float64) @ self.weight_LH.T.astype(np.float64) + self.bias_L
        return from_logits(logits_EL, self.labels, self.thresholds)

    def save(self, folder: Path) -> None:
        assert self.base is not None
        folder.mkdir(parents=True, exist_ok=True)
        info = self.base.info
        settings = {
            "base": info.name,
            "labels": self.labels,
            "policy": self.policy,
            "unit_length": self.unit_length,
            "weights": "full" if self.adapter is None else "adapter",
            "prompt": None if self.prompt is None else self.prompt.plain(),
            "digest": None if self.prompt is None else self.prompt.digest,
            **to_settings(self.thresholds),
        }
        write_settings(folder / SETTINGS, settings)
        write_arrays(folder / HEAD, {"weight": self.weight_LH, "bias": self.bias_L})
        if self.adapter is None:
            whole = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
        else:
            use = Use("SEQ_2_SEQ_LM") if _in_decoder(self.adapter) else FEATURES
            where = folder / ADAPTER
            save_adapter(self.tensors, self.adapter, where, base_name=info.name, revision=info.revision, use=use)

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        keys = {"base": str, "labels": list, "policy": str, "unit_length": bool, "weights": str}
        settings = read_settings(folder / SETTINGS, keys)
        base, labels = bases(settings["base"]), tuple(settings["labels"])
        prompt = _measured(settings)
        if prompt is not None:
            check_turns(prompt, base, SETTINGS)
        read = base.at_answer() if prompt is not None and isinstance(base, Asked) else base
        head = read_arrays(folder / HEAD, {"weight": (len(labels), read.info.hidden_size), "bias": (len(labels),)})
        try:
            adapter = None
            if settings["weights"] == "full":
                tensors = load_file(folder / WEIGHTS)
            else:
                tensors, adapter = load_adapter(folder / ADAPTER)
            return cls(
                base=base,
                labels=labels,
                policy=settings["policy"],
                weight_LH=head["weight"],
                bias_L=head["bias"],
                tensors=tensors,
                adapter=adapter,
                unit_length=settings["unit_length"],
                thresholds=from_settings(settings, labels),
                prompt=prompt,
            )
        except (OSError, SafetensorError, ModelError, KeyError, TypeError) as error:
            raise BundleError(f"adapted: {error} The bundle is damaged, or its base is another one.") from error


def _in_decoder(adapter: Form | None) -> bool:
    return isinstance(adapter, PrefixForm) and adapter.in_decoder


def _measured(settings: Mapping[str, Any]) -> Prompt | None:
    """The prompt that was trained with; None where the base reads rows as they are.

    Raises:
        BundleError: it is damaged, or another one.
    """
    if settings.get("prompt") is None:
        return None
    try:
        prompt = Prompt.from_plain(settings["prompt"])
    except (KeyError, TypeError) as error:
        raise BundleError(f"{SETTINGS}: the prompt cannot be read ({error}). The bundle is damaged.") from error
    if prompt.digest != settings.get("digest"):
        raise BundleError(f"{SETTINGS}: the prompt is not the one that was trained with. Copy the bundle again.")
    return prompt


def with_adapter(base: AnyBase, tensors: Mapping[str, Tensor], adapter: Form) -> AnyBase:
    """The base with an adapter in a module tree of its own, and the room that it leaves."""
    return with_adapters(base, [(tensors, adapter)])[0]


def with_adapters(base: AnyBase, members: Sequence[tuple[Mapping[str, Tensor], Form]]) -> tuple[AnyBase, Stack]:
    """As `with_adapter`, with several of one kind and shape, and their stack; rows are sorted by member."""
    adapted = copy.copy(base)
    tree = shared_tree(base.model)
    stacks = [adapter.stack(tree, tensors) for tensors, adapter in members]
    stack = stacks[0]
    stack.hold(stacks, [tensors for tensors, _ in members])
    adapted.model = stack.attach(tree)
    adapted.info = dataclasses.replace(base.info, max_tokens=base.info.max_tokens - stack.reserved)
    return adapted, stack


def own_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the module tree these weights instead of those it shares."""
    expected = dict(model.named_parameters())
    for name in expected.keys() | tensors.keys():
        found = tuple(tensors[name].shape) if name in tensors else None
        wanted = tuple(expected[name].shape) if name in expected else None
        if found != wanted:
            raise ModelError(
                f"adapted: weight '{name}' should have shape {wanted}, found {found}. It was made for another base."
            )
    own = {
        id(old): nn.Parameter(tensors[name].to(old.device, old.dtype), requires_grad=False)
        for name, old in expected.items()
    }
    # a weight that is tied has several names
    for name, old in list(model.named_parameters(remove_duplicate=False)):
        module, _, last = name.rpartition(".")
        model.get_submodule(module)._parameters[last] = own[id(old)]
