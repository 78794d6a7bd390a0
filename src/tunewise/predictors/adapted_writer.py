"""Answer by writing, with a base whose weights were changed: an adapter on it, or every weight of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewise.adapters.files import Use, load_adapter, save_adapter
from tunewise.adapters.stack import Form, Pass
from tunewise.config import Truncation
from tunewise.errors import BundleError, ModelError
from tunewise.models.answers import writer_of_members
from tunewise.models.encoder import Encoder
from tunewise.models.generate import Decoding, Writer
from tunewise.models.prefix_tree import Request
from tunewise.models.tree import shared_tree
from tunewise.models.writing_base import WritingBase
from tunewise.predictors.adapted import ADAPTER, WEIGHTS, own_weights, with_adapter, with_adapters
from tunewise.predictors.base import Bases
from tunewise.predictors.prompted import reading
from tunewise.predictors.written import WrittenPredictor
from tunewise.prompts.prompt import Prompt


class AdaptedWriter(WrittenPredictor):
    """As a frozen base writes, by the same prompts; the shared base is never changed, not even for a moment."""

    kind = "adapted_writer"

    def __init__(
        self,
        *,
        base: Encoder,
        policy: Truncation,
        prompt: Prompt,
        decoding: Decoding,
        tensors: Mapping[str, Tensor],
        adapter: Form | None,
    ) -> None:
        """`tensors`: of one member with an `adapter`, else every weight of the whole model by name.

        Raises:
            ModelError: the base does not write, has no room for prompt and answer, or the tensors do not fit it.
        """
        if not isinstance(base, WritingBase):
            raise ModelError(f"adapted_writer: {base.info.name} writes nothing. Use a causal or seq2seq base.")
        self.tensors, self.adapter = dict(tensors), adapter
        base = base.for_texts()
        self._changed = self._adapted(base)
        super().__init__(base=self._changed, policy=policy, prompt=prompt, decoding=decoding)
        self.base = base

    def _adapted(self, base: WritingBase) -> WritingBase:
        if self.adapter is not None:
            return with_adapter(base, self.tensors, self.adapter)
        whole = shared_tree(base.whole)
        own_weights(whole, self.tensors)
        return base.over(whole)

    @classmethod
    def at_once(cls, writers: Sequence[Self]) -> Writer:
        """What writes with all of these, which are alike but for their adapters' numbers, in one pass.

        Raises:
            NotStackable: in a pass, if the base calls a layer with rows that belong to no single member.
        """
        first = writers[0]
        base, stack = with_adapters(first._frozen, [(each.tensors, each._form) for each in writers])

        def turn(active: Sequence[int], rows: int, positions: int) -> None:
            stack.now = Pass(active=tuple(active), sequences=rows, positions=positions)

        return writer_of_members(reading(base, first.prompt), len(writers), turn)

    @property
    def _form(self) -> Form:
        assert self.adapter is not None, "weights of the base are nobody's to share"
        return self.adapter

    def changes_answers(self) -> bool:
        """Whether it gives other logits than the frozen base; an adapter that is not applied does not."""
        base, adapted = self._frozen, self._changed
        token = np.array([base.end_ids[0] if base.end_ids else base.pad_id])
        batch = base.lesson([Request(token, np.repeat(token, 2))]).batch
        with torch.inference_mode():
            before, now = (each.read(each.forward(batch)[0]) for each in (base, adapted))
        return not torch.equal(before, now)

    @property
    def _frozen(self) -> WritingBase:
        assert isinstance(self.base, WritingBase)
        return self.base

    def save(self, folder: Path) -> None:
        super().save(folder)
        base = self._frozen
        if self.adapter is None:
            whole = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
            return
        save_adapter(
            self.tensors,
            self.adapter,
            folder / ADAPTER,
            base_name=base.info.name,
            revision=base.info.revision,
            use=_use(base),
        )

    @classmethod
    def load(cls, folder: Path, bases: Bases) -> Self:
        found = cls._from_settings(folder, bases)
        base = found["base"]
        try:
            adapter = None
            if (folder / WEIGHTS).is_file():
                tensors = load_file(folder / WEIGHTS)
            else:
                tensors, adapter = load_adapter(folder / ADAPTER, _use(base))
            predictor = cls(**found, tensors=tensors, adapter=adapter)
        except (OSError, SafetensorError, ModelError, KeyError, TypeError) as error:
            raise BundleError(f"adapted_writer: {error} The bundle is damaged, or its base is another one.") from error
        if not predictor.changes_answers():
            raise BundleError(
                f"adapted_writer: what was trained changes nothing on {base.info.name}. It was made for another base."
            )
        return predictor


def _use(base: Encoder) -> Use:
    """What the PEFT library is to load the adapter on: `AutoModelForCausalLM` and its kin."""
    assert isinstance(base, WritingBase)
    return Use(base.task_type, base.above)
