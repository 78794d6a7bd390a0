"""Random bases to try everything with."""

from pathlib import Path

import pytest

from tunewise.errors import ConfigError
from tunewise.models.load import describe_base
from tunewise.models.tiny import tiny_encoder


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two, other = (tiny_encoder(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    digests = [describe_base(str(folder)).sha256 for folder in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_size_is_as_asked(tmp_path: Path) -> None:
    info = describe_base(str(tiny_encoder(tmp_path, architecture="distilbert", hidden=16, layers=1)))
    assert (info.architecture, info.hidden_size) == ("distilbert", 16)


def test_an_unknown_architecture_is_answered_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no 'robertta'\. Did you mean 'roberta'\?"):
        tiny_encoder(tmp_path, architecture="robertta")


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_tokenizer_is_the_same_every_time(architecture: str, tmp_path: Path) -> None:
    folders = [tiny_encoder(tmp_path / str(i), architecture=architecture) for i in range(3)]
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1
