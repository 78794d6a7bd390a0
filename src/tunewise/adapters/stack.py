"""What every kind of adapter has in common: P members on one frozen base, computed in one pass.

Axes: P members, A of them active in a pass, S sequences of one member, T positions, M tokens of one member, N all rows
of a call (A times M), I inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from tunewise.adapters.masks import dropout_masks, token_hash
from tunewise.errors import ModelError

DRAWN_AT_ONCE = 1 << 27
"""Numbers of dropout masks that a GPU draws together: the draws of one layer are many kernels with hardly any work."""


class NotStackable(Exception):
    """This base calls a layer with rows that belong to no single member; train its members one by one."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """What may differ between the members of a stack."""

    seed: int = 0
    """Of its start and its dropout masks."""
    scale: float = 1.0
    """Of its update, where its kind of adapter has one."""
    dropout: float = 0.0
    rank: int | None = None
    """Of its update, where it is smaller than the stack's."""


@dataclass
class Pass:
    """What a forward pass is about: which members, which sequences, which step."""

    active: tuple[int, ...]
    sequences: int
    """S, of one member."""
    positions: int
    step: int | None = None
    """The optimiser step, which dropout masks come from; None where nothing is dropped."""
    sequence_S: Tensor | None = None
    """Numbers of the sequences in the whole data set, for dropout masks."""
    answer_positions: int | None = None
    """Of the decoder, where the base has one."""
    hashes: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Dropout masks by site and tokens, where those of several sites were drawn together."""
    chosen: Tensor | None = None
    """The active members as indices on the device."""


class Stack(ABC):
    """P members of one kind of adapter on one base."""

    kind: ClassVar[str]
    """Who speaks in its messages."""
    reserved: int = 0
    """Positions of the base's limit that it takes for itself."""

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self.device = device
        self.tensors: dict[str, Tensor] = {}
        self.now = Pass(active=(0,), sequences=0, positions=0)
        self._sites: dict[int, list[str]] = {}
        """By number of features, those whose inputs were dropped before."""
        self._members(members)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: copies of a module tree share the weights of the base, and so they do its members."""
        return self

    def _members(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.scale_P = torch.tensor([member.scale for member in members], device=self.device)

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one member's tensors, by name."""

    @abstractmethod
    def initial(self, name: str, member: Member) -> Tensor:
        """Where a member's tensor starts, float32; from its own seed, so that it does not depend on the others."""

    @abstractmethod
    def attach(self, model: nn.Module) -> nn.Module:
        """Put the members into `model`, whose own weights stay as they are; returns what to call instead of it."""

    def padding(self, member: Member) -> int:
        """Numbers of a member's tensors that stay zero, because it is smaller than the stack."""
        return 0

    def decays(self, name: str) -> bool:
        """Whether weight decay applies to this tensor."""
        return True

    def rate(self, name: str) -> float:
        """By how much the learning rate is multiplied for this tensor."""
        return 1.0

    def start(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Fresh tensors {name: [P, ...]}."""
        return {
            name: torch.stack([self.initial(name, member) for member in self.members]).to(self.device, dtype)
            for name in self.shapes()
        }

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Use these tensors (named and shaped as in `start`).

        Raises:
            ModelError: a tensor is missing, left over, or of another shape.
        """
        expected = {name: (len(self.members), *shape) for name, shape in self.shapes().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in expected.keys() | found.keys():
            if expected.get(name) != found.get(name):
                raise ModelError(
                    f"{self.kind}: tensor '{name}' should have shape {expected.get(name)}, found {found.get(name)}. "
                    "The adapter was made for another base."
                )
        self.tensors = dict(tensors)

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all members but these; `bind` their tensors next."""
        self._members([self.members[i] for i in indices])

    def hold(self, stacks: "Sequence[Stack]", tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Have the one member of each of these stacks, which are alike, with its tensors; all take part at first."""
        self._members([stack.members[0] for stack in stacks])
        self.bind({name: torch.stack([own[name] for own in tensors]).to(self.device) for name in tensors[0]})
        self.now = Pass(active=tuple(range(len(stacks))), sequences=0, positions=0)

    def active(self, name: str) -> Tensor:
        """A tensor [A, ...] of the members that take part in the present pass."""
        return self._chosen(self.tensors[name])

    @property
    def active_scale(self) -> Tensor:
        """Scales [A] of the members that take part in the present pass."""
        return self._chosen(self.scale_P)

    def _chosen(self, tensor: Tensor) -> Tensor:
        if len(self.now.active) == len(self.members):
            return tensor
        if self.now.chosen is None:
            self.now.chosen = torch.tensor(self.now.active, device=tensor.device)
        return tensor[self.now.chosen]

    def by_member(self, x: Tensor, site: str) -> Tensor:
        """Rows [A * S, ..., I] as [A, M, I].

        Raises:
            NotStackable: there are several members, and the rows cannot be told apart by member.
        """
        now = self.now
        whole = now.sequences * len(now.active)
        if len(now.active) > 1 and x.shape[0] not in (whole, whole * now.positions):
            raise NotStackable(
                f"{self.kind}: layer '{site}' is called with {x.shape[0]} rows where {len(now.active)} members with "
                f"{now.sequences} sequences each were expected; this base trains one member at a time."
            )
        return x.reshape(len(now.active), -1, x.shape[-1])

    def mask(self, site: str, tokens: int, features: int, dtype: torch.dtype) -> Tensor | None:
        """Dropout mask [A, M, I] of the present pass for M tokens a member, or None where nothing is dropped."""
        now = self.now
        chosen = [self.members[i] for i in now.active]
        if now.step is None or now.sequence_S is None or not any(member.dropout for member in chosen):
            return None
        if tokens not in now.hashes:
            widths = [width for width in (now.positions, now.answer_positions) if width is not None]
            width = next((width for width in widths if tokens == now.sequences * width), None)
            # rows that are no tokens of the batch, such as relative positions, are numbered by themselves
            numbers = torch.arange(tokens, device=self.device) if width is None else now.sequence_S
            now.hashes[tokens] = token_hash(numbers, width or 1)
        if (site, tokens) in now.masks:
            return now.masks[site, tokens]
        sites = self._drawn_with(site, features, len(chosen) * tokens * features)
        masks_KPMI = dropout_masks(
            now.hashes[tokens],
            features,
            rate_P=torch.tensor([member.dropout for member in chosen], device=self.device),
            seeds=[member.seed for member in chosen],
            step=now.step,
            sites=sites,
            dtype=dtype,
        )
        if len(sites) > 1:
            now.masks |= {(own, tokens): mask for own, mask in zip(sites, masks_KPMI, strict=True)}
        return masks_KPMI[0]

    def _drawn_with(self, site: str, features: int, numbers: int) -> list[str]:
        """The site whose mask is asked for and, on a GPU, those that came after it in earlier passes."""
        if self.device.type == "cpu":
            return [site]
        known = self._sites.setdefault(features, [])
        if site not in known:
            known.append(site)
        at = known.index(site)
        return known[at : at + max(1, DRAWN_AT_ONCE // numbers)]


class Form(Protocol):
    """How one member's tensors become an adapter again, and what its two files hold."""

    peft_type: ClassVar[str]
    """PEFT's name of the method, or our own where PEFT has none."""

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> Stack:
        """A stack of one member on this model, with nothing bound yet.

        Raises:
            ModelError: the tensors were made for another base.
        """

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """What its config file says besides what every adapter's says, as the PEFT library writes it."""

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the names and in the layout of the PEFT library."""

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], "Form"]:
        """What `config` and `to_disk` wrote.

        Raises:
            ValueError: it is not such an adapter; the message says what is wrong, as the end of a sentence.
        """


def linear_of(model: nn.Module, path: str, kind: str) -> nn.Linear:
    """The linear layer at this path.

    Raises:
        ModelError: there is none.
    """
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"{kind}: '{path}' is not a linear layer of {type(model).__name__}. The adapter was made for another base."
        )
    return layer


def turned(model: nn.Module) -> bool:
    """Whether the base's own files hold its layers the other way round, [inputs, outputs], as GPT-2's do."""
    return any(getattr(layer, "turned", False) for layer in model.modules())


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` where `path` leads."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
