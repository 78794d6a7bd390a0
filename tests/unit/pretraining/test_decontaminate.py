import json

import pytest

from pretraining.decontaminate import Overlap, evaluation_texts

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def overlap():
    found = Overlap()
    found.add("long", LONG)
    found.add("short", "Return the name of the file that was read.")
    found.add("tiny", "Return the name.")
    return found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("It counts: ONE, two, three four five six seven eight nine ten eleven twelve -- thirteen!", "long"),
        ("two three four five six seven eight nine ten eleven twelve thirteen fourteen and so on", "long"),
        ("one two three four five six seven eight nine ten eleven twelve", None),  # twelve words are too few
        ("They return the name of the file that was read before.", "short"),
        ("return the name of the file that was", None),
        ("Return the name. " * 20, None),  # shorter than eight words: not looked for
        ("", None),
    ],
)
def test_thirteen_words_in_a_row_or_a_whole_short_text(overlap, text, name):
    assert overlap.found(text) == name


def test_what_is_added_later_is_found_too(overlap):
    text = "some words that nobody has added to the sets that we measure on until now"
    assert overlap.found(text) is None
    overlap.add("late", text)
    assert overlap.found(text) == "late"
    assert overlap.sizes() == {"late": 3, "long": 2, "short": 1}  # 15, 14 and 9 words


def test_all_that_is_measured_on_is_read(tmp_path):
    data, examples, library = (tmp_path / name for name in ("data", "examples", "library"))
    for folder in (data / "faq", data / "lm_text", data / "models", examples / "tickets", library):
        folder.mkdir(parents=True)
    (data / "faq" / "all.jsonl").write_text(json.dumps({"q": "why", "a": ["because", "of it"], "n": 3}) + "\n")
    (data / "faq" / "dev.tsv").write_text("text\tlabel\nit works\t1\n")
    (data / "faq" / "README.md").write_text("not a row")
    (data / "lm_text" / "book.txt").write_text("learnt")
    (data / "lm_text" / "wikitext2_valid.raw").write_text(" = Lobster = \n It lives .\n")
    (data / "models" / "config.json").write_text('{"x": "no text"}')
    (examples / "tickets" / "tickets.csv").write_text('id,text\n1,"my app,\nit broke"\n')
    (library / "shell.py").write_text('def read():\n    """Read a line of the shell."""\n    return input()\n')
    (library / "test").mkdir()
    (library / "test" / "test_shell.py").write_text("# a test")
    found = list(evaluation_texts(data, examples, library))
    for expected in [
        ("faq", "why"),
        ("faq", "because of it"),
        ("faq", "it works"),
        ("wikitext2", " = Lobster = \n It lives .\n"),
        ("examples/tickets", "my app,\nit broke"),
        ("standard library", "Read a line of the shell."),
        ("standard library", (library / "shell.py").read_text()),
    ]:
        assert expected in found
    assert not {"learnt", "no text", "not a row", "# a test"} & {text for _, text in found}
