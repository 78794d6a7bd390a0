"""What a trained candidate is expected to take: work, seconds, memory."""

from torch import nn

from tunewise.methods.base import Context
from tunewise.methods.trained_config import TrainedConfig
from tunewise.models.seq2seq import AtAnswer, EncoderDecoder
from tunewise.models.writing_base import WritingBase
from tunewise.training.estimate import estimate
from tunewise.training.precision import working_dtype
from tunewise.types import Cost

DECODER_LAYER = 1.4
"""What a layer that also looks at an encoder keeps for the backward pass, of what one that does not keeps."""


def trained_cost(
    context: Context,
    config: TrainedConfig,
    *,
    work_per_token: int,
    adapted_numbers: int,
    copied_numbers: int,
    kept_layers: float | None = None,
) -> Cost:
    """Cost of one candidate; `adapted_numbers` are trained besides the head, `copied_numbers` held once more.

    `kept_layers`: how many layers keep what the backward pass needs (None: all).
    """
    info = context.base.info
    head = len(context.labels) * (info.hidden_size + 1)
    expected = estimate(
        info,
        config.plan(context.seed),
        train_tokens=context.train_tokens,
        race_tokens=context.watched_tokens,
        work_per_token=work_per_token,
        layers=_layers(context.base.model) if kept_layers is None else kept_layers,
        kept_numbers=adapted_numbers + head,
        copied_numbers=copied_numbers,
        bytes_per_number=working_dtype(context.task.dtype, context.base).itemsize,
    )
    work = expected.work + context.closing_tokens
    return Cost(
        work=work,
        seconds=work * context.seconds_per_work,
        memory_bytes=expected.memory_bytes,
        trainable_parameters=adapted_numbers + head,
        fits=_fits(config.rung, expected.memory_bytes),
    )


def numbers_of(context: Context) -> int:
    """Weights that are trained or adapted: of what reads, and where texts are learnt of what reads the vocabulary."""
    base = context.base
    model = base.whole if context.task.kind == "generate" and isinstance(base, WritingBase) else base.model
    return sum(weight.numel() for weight in model.parameters())


def _layers(model: nn.Module) -> float:
    """Layers that keep what the backward pass needs of a token; in an encoder-decoder it passes one of the two.

    Where labels are read at the answer it passes the encoder: the decoder reads the few places an answer starts from.
    """
    pair = next((module for module in model.modules() if isinstance(module, EncoderDecoder)), None)
    if pair is None:
        return float(getattr(model.config, "num_hidden_layers", 12))
    encoder, decoder = (
        max(len(part) for part in stack.children() if isinstance(part, nn.ModuleList))
        for stack in (pair.encoder, pair.decoder)
    )
    return float(encoder) if isinstance(pair, AtAnswer) else max(float(encoder), DECODER_LAYER * decoder)


def _fits(rung: str, memory_bytes: int) -> str | None:
    import psutil

    free = int(psutil.virtual_memory().available)
    if memory_bytes <= free:
        return None
    return f"{rung}: needs about {memory_bytes / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free."
