import sysconfig
from pathlib import Path

import pytest

from examples.code_summary.build import first_sentence, functions, module_files, part_of

FILE = '''
class Stack:
    @property
    def top(self):
        """Return the last item.  It stays where it is.

        Raises IndexError.
        """

        # the end is the top
        return self.items[-1]

    def empty(self):
        """Nothing but this line."""

    def size(self):
        return len(self.items)
'''


def test_a_function_is_shown_without_its_docstring_and_its_indentation():
    [only] = functions(FILE)
    assert only.name == "top"
    assert only.summary == "Return the last item."
    assert only.code == "@property\ndef top(self):\n    # the end is the top\n    return self.items[-1]"


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return it, e.g. as a str. Or not.", "Return it, e.g. as a str."),
        ("Two lines\nmake a sentence.\n\nMore.", "Two lines make a sentence."),
        ("no capital letter, no sentence.", ""),
        ("Without an end", ""),
        ("Too short.", ""),
        ("A" + " very" * 30 + " long one.", ""),
    ],
)
def test_a_summary_is_a_whole_sentence_or_nothing(docstring, sentence):
    assert first_sentence(docstring) == sentence


def test_modules_of_a_package_are_in_one_part_and_no_test_is_read():
    modules = [name for name, _ in module_files(Path(sysconfig.get_path("stdlib")))]
    assert "json.decoder" in modules
    assert not [name for name in modules if name.startswith("test.")]
    assert len({part_of(name) for name in modules if name.startswith("json.")}) == 1
    assert {part_of(name) for name in modules} == {"train", "dev", "held_out"}
