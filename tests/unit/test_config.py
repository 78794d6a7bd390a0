"""A task file is read strictly: what is not meant is not accepted."""

from pathlib import Path

import pytest

from tunewise.config import Budget, DataConfig, Task, load_yaml
from tunewise.errors import ConfigError


def task_file(folder: Path, text: str) -> Path:
    path = folder / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_smallest_task_is_one_line(tmp_path: Path) -> None:
    task = Task.from_file(task_file(tmp_path, "train: tickets.csv\n"))
    assert task.data.train == str(tmp_path / "tickets.csv")
    assert task.name == "tickets"
    assert task.budget.minutes == 10.0


def test_a_data_file_alone_is_a_task() -> None:
    task = Task.from_file("some/tickets.csv")
    assert task.data.train == str(Path("some/tickets.csv").absolute())


def test_an_unknown_key_is_answered_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no key 'metrik'. Did you mean 'metric'\?"):
        Task.from_file(task_file(tmp_path, "train: a.csv\nmetrik: accuracy\n"))


def test_an_unknown_nested_key_is_answered_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.budget: there is no key 'minuts'. Did you mean 'minutes'\?"):
        Task.from_file(task_file(tmp_path, "train: a.csv\nbudget: {minuts: 3}\n"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: a\ntrain: b\n", "the key 'train' stands twice, again on line 2"),
        ("train: !!python/object/apply:os.system [ls]\n", "not plain YAML"),
        ("a: &x [1]\nb: *x\n", r"line 2 uses an alias \(\*name\)"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper than 50"),
        ("- 1\n", "a task file is a mapping of keys, found list"),
        ("train: [", "not plain YAML"),
    ],
)
def test_tricky_yaml_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Task.from_file(task_file(tmp_path, text))


def test_yaml_words_and_octals_stay_text(tmp_path: Path) -> None:
    path = task_file(tmp_path, "a: no\nb: on\nc: 012\nd: 1:30\ne: 1e3\nf: true\ng: 7\nh: NO\n")
    assert load_yaml(path) == {
        "a": "no", "b": "on", "c": "012", "d": "1:30", "e": 1000.0, "f": True, "g": 7, "h": "NO",
    }  # fmt: skip


def test_a_wrong_type_names_the_key_and_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.seed: expected a whole number, got 'three'"):
        Task.from_file(task_file(tmp_path, "train: a.csv\nseed: three\n"))


def test_true_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.seed: expected a whole number, got True"):
        Task.from_file(task_file(tmp_path, "train: a.csv\nseed: true\n"))


def test_a_task_without_data_says_what_the_smallest_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The smallest task is one line"):
        Task.from_file(task_file(tmp_path, "metric: accuracy\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Task.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_budget_must_be_above_zero_and_finite(value: float) -> None:
    with pytest.raises(ConfigError, match="`minutes` must be a finite number above 0"):
        Budget(minutes=value)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="give `minutes`, `work` or `trials`"):
        Budget()


def test_a_flag_replaces_the_budget_of_the_file(tmp_path: Path) -> None:
    path = task_file(tmp_path, "train: a.csv\nbudget: {minutes: 5}\n")
    assert Task.from_file(path, overrides={"budget.work": 1000}).budget == Budget(work=1000)
    both = Task.from_file(path, overrides={"budget.minutes": 2.0, "budget.trials": 4}).budget
    assert both == Budget(minutes=2.0, trials=4)


def test_nested_overrides_reach_their_place(tmp_path: Path) -> None:
    path = task_file(tmp_path, "train: a.csv\n")
    assert Task.from_file(path, overrides={"data.delimiter": ";"}).data.delimiter == ";"


def test_a_name_that_is_no_folder_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="`name` becomes a folder"):
        Task(name="../x", data=DataConfig(train="a.csv"))


def test_every_key_of_a_task_changes_the_task() -> None:
    plain = Task(data=DataConfig(train="a.csv"))
    changed = {
        "name": "other", "kind": "generate", "input": ("a",), "target": "b", "metric": "accuracy", "slices": ("c",),
        "cluster": "d", "labels": {"x": "y"}, "truncation": "keep_end", "models": ("m",), "methods": ("lora",),
        "budget": Budget(work=1), "margin": 0.02, "level": 0.9, "seed": 1, "device": "cpu", "dtype": "float32",
        "allow_pickle": True, "trust_remote_code": True, "disk_gb": 1.0,
    }  # fmt: skip
    for key, value in changed.items():
        assert Task(data=DataConfig(train="a.csv"), **{key: value}) != plain, key


@pytest.mark.parametrize(("kind", "base"), [("classify", "bundled:minilm"), ("generate", "bundled:causal")])
def test_a_task_that_names_no_base_has_the_one_that_is_installed_for_its_kind(kind: str, base: str) -> None:
    assert Task.from_dict({"train": "a.csv", "kind": kind}).models == (base,)
    assert Task.from_dict({"train": "a.csv", "kind": kind, "models": ["own"]}).models == ("own",)
    with pytest.raises(ConfigError, match="`models` is empty; name at least one base"):
        Task.from_dict({"train": "a.csv", "kind": kind, "models": []})
