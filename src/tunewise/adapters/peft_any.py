"""Any adapter of the PEFT library: built, kept and read by the library, on weights that nobody else holds.

Axes: T positions.
"""

import dataclasses
import enum
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from tunewise.adapters.lora import target_layers
from tunewise.adapters.stack import Form, Member, Stack
from tunewise.errors import ConfigError, ModelError, did_you_mean

VIRTUAL_TOKENS = 20
"""Length of a soft prompt where the options say none."""
NORMS = ("LN_TUNING",)
"""Types that train the blocks' norms instead of their linear layers."""
DEEP = ("PREFIX_TUNING", "CARTRIDGE")
"""Types whose soft prompt enters at every layer, not at the embeddings."""
REFUSED = {
    "XLORA": "it mixes adapters that were trained before",
    "SHADOW": "it reads a second pre-trained model",
    "POLY": "it is for several tasks at once",
    "MULTITASK_PROMPT_TUNING": "it is for several tasks at once",
}
"""Types that are more than one adapter of one task, some of which fetch other files when they are built or loaded."""
STATED = frozenset(
    ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type")
)
"""Keys of a config that are not options: every adapter's file has them."""


def peft_types() -> tuple[str, ...]:
    """Names of all adapters that the installed PEFT library has and that are one adapter of one task, sorted."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return tuple(sorted({str(each.value) for each in PEFT_TYPE_TO_CONFIG_MAPPING} - REFUSED.keys()))


def check_type(name: str) -> str:
    """The name, where it is a type that can be used here.

    Raises:
        ConfigError: it is not; the message says why, or offers the closest one.
    """
    if name in REFUSED:
        raise ConfigError(f"peft: '{name}' cannot be trained here: {REFUSED[name]}. Name another type.")
    if name not in peft_types():
        raise ConfigError(f"peft: the PEFT library has no type '{name}'.{did_you_mean(name.upper(), peft_types())}")
    return name


def config_class(peft_type: str) -> Any:
    """The library's config of this type."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return next(each for key, each in PEFT_TYPE_TO_CONFIG_MAPPING.items() if key.value == peft_type)


def check_options(peft_type: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError where the type's config has no such key; the message offers the closest one."""
    known = [f.name for f in dataclasses.fields(config_class(peft_type)) if f.init and f.name not in STATED]
    for name in options:
        if name not in known:
            raise ConfigError(f"peft:{peft_type}: there is no option '{name}'.{did_you_mean(name, known)}")


def completed(peft_type: str, model: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, and where they say nothing: all linear layers of the blocks, and the sizes a soft prompt needs."""
    fields = {f.name for f in dataclasses.fields(config_class(peft_type))}
    config: Any = model.config
    # ELECTRA's embeddings may be narrower than its layers
    embedded = model.get_input_embeddings().embedding_dim  # type: ignore[operator]
    defaults: dict[str, Callable[[], Any]] = {
        "target_modules": lambda: _norms(model) if peft_type in NORMS else list(target_layers(model, kind="peft")),
        "feedforward_modules": lambda: [],
        "num_virtual_tokens": lambda: VIRTUAL_TOKENS,
        "num_layers": lambda: config.num_hidden_layers,
        "num_attention_heads": lambda: config.num_attention_heads,
        "token_dim": lambda: config.hidden_size if peft_type in DEEP else embedded,
        "encoder_hidden_size": lambda: config.hidden_size,
    }
    return {name: make() for name, make in defaults.items() if name in fields and name not in options} | dict(options)


def _norms(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and any(part.isdigit() for part in name.split("."))
    ]


def prompt_length(options: Mapping[str, Any]) -> int:
    """Positions of the base's limit that a soft prompt with these options takes."""
    return int(options.get("num_virtual_tokens") or 0)


class PeftBase(nn.Module):
    """A base with an adapter of the library, called as the base alone: positions of a soft prompt are cut off again."""

    def __init__(self, model: nn.Module, *, prompted: bool, added: Sequence[nn.Module]) -> None:
        super().__init__()
        self.peft, self.prompted = model, prompted
        self._added = list(added)

    @property
    def config(self) -> Any:
        return self.peft.config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **options: Any
    ) -> Any:
        """The base's output; token types are left out where there is a soft prompt, as the library does."""
        if token_type_ids is not None and not self.prompted:
            options["token_type_ids"] = token_type_ids
        output = self.peft(input_ids=input_ids, attention_mask=attention_mask, **options)
        positions = input_ids.shape[1]
        if self.prompted and output.last_hidden_state.shape[1] != positions:
            output.last_hidden_state = output.last_hidden_state[:, -positions:]
        return output

    @contextmanager
    def training_adapter(self) -> Iterator[None]:
        """The adapter's own modules in training mode, the base's still not: its dropout stays off."""
        for module in self._added:
            module.training = True
        try:
            yield
        finally:
            for module in self._added:
                module.training = False


def build(
    model: nn.Module,
    peft_type: str,
    options: Mapping[str, Any],
    *,
    seed: int,
    finished: Mapping[str, Tensor] | None = None,
) -> PeftBase:
    """An adapter on this module tree, which is used up; the tensors of the tree stay as they are.

    It is at its start and to be trained, or `finished`: with these tensors (see `adapter_state`), for answering only.

    Raises:
        ModelError: the library refuses this base or these options, in its own words; or the tensors do not fit.
    """
    with _own_weights(model), quietly(seed):
        known = {id(module) for module in model.modules()}
        try:
            config = config_class(peft_type).from_peft_type(
                **options, peft_type=peft_type, task_type="FEATURE_EXTRACTION", inference_mode=finished is not None
            )
            from peft import get_peft_model

            whole = get_peft_model(model, config, autocast_adapter_dtype=False)
        except Exception as error:
            raise ModelError(f"peft:{peft_type}: {sentence_of(error)}") from error
        added = [module for module in whole.modules() if id(module) not in known]
        built = PeftBase(whole.eval(), prompted=bool(config.is_prompt_learning), added=added)
        if finished is not None:
            _load(built, peft_type, finished)
        return built


def _load(built: PeftBase, peft_type: str, tensors: Mapping[str, Tensor]) -> None:
    from peft import set_peft_model_state_dict

    expected = {name: tuple(tensor.shape) for name, tensor in adapter_state(built).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"peft:{peft_type}: tensor '{name}' should have shape {expected.get(name)}, found {found.get(name)}. "
                "The adapter was made for another base."
            )
    set_peft_model_state_dict(built.peft, dict(tensors))
    built.requires_grad_(False)


def adapter_state(built: PeftBase) -> dict[str, Tensor]:
    """Copies of the tensors that the library keeps of an adapter, by the names in its files."""
    from peft import get_peft_model_state_dict

    with quietly(0), torch.no_grad():
        kept = get_peft_model_state_dict(built.peft, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in kept.items()}


@contextmanager
def quietly(seed: int) -> Iterator[None]:
    """A random stream of its own, and no warnings: the library speaks to those who call it themselves."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def sentence_of(error: BaseException) -> str:
    """What an error says, on one line and as a sentence."""
    words = " ".join(str(error).split())[:500] or "no message"
    return words if words.endswith((".", "!", "?")) else f"{words}."


@contextmanager
def _own_weights(model: nn.Module) -> Iterator[None]:
    """Copies of all weights inside the block, for whatever is done to them; what is left as it was is shared again."""
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    for module in model.modules():
        for name, shared in module._parameters.items():
            if shared is not None:
                seen = next((own for own, other in pairs if other is shared), None)
                own = seen if seen is not None else nn.Parameter(shared.detach().clone(), requires_grad=False)
                module._parameters[name] = own
                pairs.append((own, shared))
    yield
    for own, shared in pairs:
        left_alone = not own.requires_grad and own.shape == shared.shape and own.dtype == shared.dtype
        if left_alone and torch.equal(own, shared):
            own.data = shared.data


class PeftStack(Stack):
    """One finished member, which answers through the library."""

    kind = "peft"

    def __init__(self, model: nn.Module, form: "PeftForm", tensors: Mapping[str, Tensor]) -> None:
        self.form, self.given = form, dict(tensors)
        super().__init__([Member()], next(model.parameters()).device)
        self.reserved = prompt_length(form.options)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.given.items()}

    def initial(self, name: str, member: Member) -> Tensor:
        """Where training left it."""
        return self.given[name]

    def attach(self, model: nn.Module) -> nn.Module:
        """As `Stack.attach`; the tensors that were bound are copied.

        Raises:
            ModelError: the library refuses this base, or the tensors were made for another one.
        """
        finished = {name: tensor[0] for name, tensor in self.tensors.items()}
        return build(model, self.form.peft_type, self.form.options, seed=0, finished=finished)


@dataclass(frozen=True, kw_only=True)
class PeftForm:
    """An adapter as the library itself keeps it; tensors have the names of its files. See `form_of`."""

    peft_type: ClassVar[str]

    options: Mapping[str, Any]
    """Of the library's config, all that are not `STATED`."""

    def stack(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> PeftStack:
        return PeftStack(model, self, tensors)

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        given = config_class(self.peft_type).from_peft_type(
            **self.options, peft_type=self.peft_type, task_type="FEATURE_EXTRACTION"
        )
        return {name: _plain(value) for name, value in given.to_dict().items() if name not in STATED}

    def to_disk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    @classmethod
    def from_disk(cls, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Self]:
        length = config.get("num_virtual_tokens")
        if length is not None and (not isinstance(length, int) or length < 1):
            raise ValueError(f"says `num_virtual_tokens` {length!r}; it must be a whole number above 0.")
        return dict(stored), cls(options={name: value for name, value in config.items() if name not in STATED})


@functools.cache
def form_of(peft_type: str) -> type[PeftForm]:
    """The form of this type.

    Raises:
        ConfigError: as `check_type`.
    """
    return cast(type[PeftForm], type("PeftForm", (PeftForm,), {"peft_type": check_type(peft_type)}))


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value


_: type[Form] = PeftForm
