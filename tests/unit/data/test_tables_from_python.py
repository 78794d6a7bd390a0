"""Parquet, `datasets` and pandas give the same texts as a file would."""

import datetime
import decimal
from pathlib import Path

import pytest

from tunewise.data.loaders import load_table
from tunewise.errors import DataError

pa = pytest.importorskip("pyarrow")


def parquet(folder: Path, **columns: object) -> Path:
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_values_become_exact_text(tmp_path):
    path = parquet(
        tmp_path,
        text=["007", None, "NA"],
        big=pa.array([9007199254740993, None, -1], pa.int64()),
        f32=pa.array([0.1, 1.0, None], pa.float32()),
        f64=[0.1, 1e300, None],
        flag=[True, False, None],
        day=[datetime.date(2024, 2, 29), None, None],
        price=[decimal.Decimal("1.10"), None, None],
        coded=pa.array(["a", "b", "a"]).dictionary_encode(),
    )
    table = load_table(path)
    assert table.columns == {
        "text": ["007", None, "NA"],
        "big": ["9007199254740993", None, "-1"],
        "f32": ["0.1", "1.0", None],
        "f64": ["0.1", "1e+300", None],
        "flag": ["true", "false", None],
        "day": ["2024-02-29", None, None],
        "price": ["1.10", None, None],
        "coded": ["a", "b", "a"],
    }
    assert table.where(2) == "row 3"


def test_parquet_columns_without_text_are_set_aside(tmp_path):
    path = parquet(tmp_path, text=["a"], many=[["x", "y"]], one=[{"k": 1}], raw=[b"\xff"], bad=[float("nan")])
    kinds = {name: found.kind for name, found in load_table(path).unusable.items()}
    assert kinds == {"many": "list", "one": "mapping", "raw": "bytes", "bad": "not finite"}


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    path = parquet(tmp_path, text=["a", "b"] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"rows.parquet: not a Parquet file, or a damaged one"):
        load_table(path)


def test_parquet_without_rows_or_with_too_many_bytes_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no rows"):
        load_table(parquet(tmp_path, text=pa.array([], pa.string())))
    monkeypatch.setattr("tunewise.data.loaders.parquet.MAX_BYTES", 10)
    with pytest.raises(DataError, match=r"unpacks to [\d,]+ bytes"):
        load_table(parquet(tmp_path, text=["a" * 100]))


def test_a_folder_named_like_a_key_adds_no_column(tmp_path):
    folder = tmp_path / "split=train"
    folder.mkdir()
    assert load_table(parquet(folder, text=["a"])).names == ("text",)


def test_a_dataset_keeps_the_names_of_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    assert load_table(rows).columns["label"] == ["spam", "ham", None]
    both = datasets.DatasetDict({"train": rows, "validation": rows.select([1])})
    both.save_to_disk(tmp_path / "saved")
    train, dev = load_table(tmp_path / "saved"), load_table(tmp_path / "saved", role="dev")
    assert (train.columns["text"], dev.columns["text"]) == (["a", "b", "c"], ["b"])
    assert any("also there: validation" in note for note in train.notes)
    with pytest.raises(DataError, match=r"has the splits train, validation, none of them called test or held_out"):
        load_table(both, role="held_out")


def test_a_hub_data_set_that_cannot_be_had_is_an_error_at_once():
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"data.train: 'hub:nobody/nothing:train' cannot be had"):
        load_table("hub:nobody/nothing:train")
    with pytest.raises(DataError, match=r"expected `hub:<id>`"):
        load_table("hub:")


def test_without_the_datasets_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tunewise\[data\]'"):
        load_table("hub:someone/something")


def test_a_data_frame_keeps_texts_and_knows_what_is_missing():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "text": ["NA", None, "007"],
            "n": pd.array([1, None, 9007199254740993], dtype="Int64"),
            "f": [1.0, float("nan"), 0.5],
            "flag": [True, False, True],
            "kind": pd.Categorical(["a", "b", None]),
            "tags": [["x"], [], None],
        }
    )
    table = load_table(frame)
    assert table.columns == {
        "text": ["NA", None, "007"],
        "n": ["1", None, "9007199254740993"],
        "f": ["1.0", None, "0.5"],
        "flag": ["true", "false", "true"],
        "kind": ["a", "b", None],
    }
    assert table.unusable["tags"].sentence == "row 1 holds a list"
    assert table.source == "the DataFrame given as train"


def test_a_data_frame_with_two_columns_of_one_name_is_refused():
    pd = pytest.importorskip("pandas")
    with pytest.raises(DataError, match=r"'text' stands more than once"):
        load_table(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_a_list_of_dicts_is_read_and_anything_else_refused():
    assert load_table([{"text": "a", "label": 1}, {"text": "b"}]).columns == {"text": ["a", "b"], "label": ["1", None]}
    with pytest.raises(DataError, match=r"cannot read rows from int"):
        load_table(7)
