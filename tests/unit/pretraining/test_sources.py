import gzip

import pytest

from pretraining import debian, lm_text, python_code, wordnet
from pretraining.debian import Package, Unpacked
from pretraining.sources import sources


@pytest.fixture
def unpacked(tmp_path):
    """A cache in which the package `toy` was unpacked already."""
    pages = tmp_path / "unpacked" / "toy" / "usr/share"
    (pages / "doc").mkdir(parents=True)
    (pages / "dictd").mkdir()
    (pages / "wordnet").mkdir()
    (pages / "doc" / "page.html").write_text("<body><h1>Ports</h1><p>A port is a number.</p></body>")
    (pages / "doc" / "genindex.html").write_text("<body><p>Port, 1</p></body>")
    return Unpacked(tmp_path)


def test_pages_of_a_package_are_read_but_for_its_index(unpacked):
    package = Package(name="toy", license="MIT", topic="networks", files=("usr/share/doc/*.html",))
    [page] = debian.documents(package, unpacked)
    assert (page.id, page.title, page.topic) == ("toy/usr/share/doc/page.html", "Ports", "networks")
    assert page.text == "Ports\n\nA port is a number."


def test_entries_of_a_dictionary_stand_at_the_margin(unpacked):
    path = unpacked.root("toy") / "usr/share/dictd/toy.dict.dz"
    entries = "00-database-info\n   A dictionary.\n\nactor\n\n   An {object} which\n   acts.\n\n   (1994-11-08)\n\n"
    entries += "port\n\n   A number.\n"
    path.write_bytes(gzip.compress(entries.encode()))
    package = Package(name="toy", license="MIT", topic="terms", files=("usr/share/dictd/*.dz",))
    assert {each.title: each.text for each in debian.documents(package, unpacked)} == {
        "actor": "actor\n\nAn object which acts.",
        "port": "port\n\nA number.",
    }


@pytest.mark.parametrize(
    ("text", "section", "pair"),
    [
        ("NAME\n\nls - list directory contents\n\nSYNOPSIS", "1", ("command", "ls", "list directory contents")),
        ("Name\n\nopen, creat - open a file or device", "2", ("function", "open", "open a file or device")),
        ("NAME\n\npasswd - the password file of users", "5", None),
    ],
)
def test_a_man_page_says_in_its_name_line_what_it_is_for(text, section, pair):
    found = [(p.task, p.fields[p.task], p.answer) for p in debian._name_line("d", text, section)]
    assert found == ([pair] if pair else [])


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    with pytest.raises(SystemExit, match="'no-such-doc' could not be fetched"):
        Unpacked(tmp_path / "cache").root("no-such-doc")


def test_definitions_are_read_without_their_examples(unpacked):
    folder = unpacked.root("toy") / "usr/share/wordnet"
    for part in ("verb", "adj", "adv"):
        (folder / f"data.{part}").write_text("")
    (folder / "data.noun").write_text(
        "  1 This file is under a license.\n"
        '00402308 04 n 02 living_will 2 change 2 000 | a change of form; "the change of the old house"  \n'
        "00000001 04 n 01 x 0 000 | short  \n"
    )
    [pair] = wordnet.pairs(unpacked.root("toy"))
    assert pair.fields == {"word": "living will", "part_of_speech": "noun"}
    assert pair.answer == "a change of form"


def test_code_is_what_has_a_docstring_and_a_long_class_is_its_methods():
    method = '    def two(self):\n        """Return 2."""\n        return 2\n'
    long = "    x = 1\n" * 1000
    source = 'def one():\n    """Return 1."""\n    return 1\n\n\ndef bare():\n    pass\n\n\n'
    source += f'class Long:\n    """It is long."""\n\n{method}{long}'
    assert list(python_code._documented(source)) == [
        'def one():\n    """Return 1."""\n    return 1',
        'def two(self):\n    """Return 2."""\n    return 2',
    ]


def test_the_standard_library_the_peps_and_wikitext_are_no_source():
    names = [source.name for source in sources()]
    assert len(set(names)) == len(names)
    assert all(source.license for source in sources())
    assert not {"python/typing_extensions", "python/setuptools", "python/pip"} & set(names)
    assert not {"peps_public_domain.txt", lm_text.WIKITEXT} & {book.file for book in lm_text.BOOKS}
    python = next(package for package in debian.PACKAGES if package.name == "python3.11-doc")
    assert not [pattern for pattern in python.files if "/library/" in pattern or "/faq/" in pattern]
