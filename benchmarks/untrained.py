"""A base that knows nothing, to be set beside one that was trained."""

from pathlib import Path


def random_base(base: str, folder: Path, seed: int = 0) -> str:
    """The architecture and the tokenizer of a base, with the random weights that transformers starts from."""
    import torch
    import transformers

    from tunewise.models.load import describe_base

    known = describe_base(base).path
    config = transformers.AutoConfig.from_pretrained(known, dtype="float32")
    torch.manual_seed(seed)
    getattr(transformers, config.architectures[0])(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(known).save_pretrained(folder)
    return str(folder)
