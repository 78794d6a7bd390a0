import numpy as np
import pytest

from pretraining import quality
from pretraining.documents import Document, Pair, held_out, passages, unwrapped
from pretraining.tasks import PHRASINGS, asked, entry_pair, pairs_of

PAGE = """Sockets

A socket is one end of a connection between two programs, which may be on two machines that are far apart.

How do I open a socket?

You call the function that makes one, and then another that connects it to the address which you want to reach.

Really?

No."""


def test_passages_end_where_paragraphs_do_and_lose_nothing():
    blocks = ["a" * 40, "b" * 50, "c" * 30, "d d. " * 40]
    found = [each.text for each in passages(Document(id="x", text="\n\n".join(blocks)), longest=100)]
    assert found[:2] == [f"{'a' * 40}\n\n{'b' * 50}", "c" * 30]
    assert all(len(text) <= 100 for text in found)
    assert "".join("".join(found).split()) == "".join("".join(blocks).split())


def test_two_documents_in_a_hundred_are_held_out_by_name_alone():
    share = np.mean([held_out(f"document {i}") for i in range(20_000)])
    assert share == pytest.approx(0.02, abs=0.004)


def test_wrapped_paragraphs_become_lines_and_lists_stay():
    wrapped = "This is a long line of a paragraph that was wrapped\nat a column.\n\n- one\n- two\n\nSHORT\nVERSE"
    assert unwrapped(wrapped) == (
        "This is a long line of a paragraph that was wrapped at a column.\n\n- one\n- two\n\nSHORT\nVERSE"
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The shell reads a line of text and does what is asked of it. " * 4, None),
        ("The shell.", "short"),
        ("| 0x12 | 0x34 | 17.5 | 99 | of the to be " * 10, "few letters"),
        ("Der Befehl liest eine Zeile von der Eingabe und schreibt, was to the of war. " * 3, "not English"),
        ("Commands print files, directories, names, sizes, owners, groups, dates, links. " * 4, "few common words"),
        ("\n".join(["the end of the line stands here and that matters"] * 12), "repeated lines"),
        ("The shell \x07 reads a line of text and does what is asked of it. " * 4, "damaged"),
    ],
)
def test_each_rule_drops_what_it_names(text, rule):
    assert quality.fault(text, quality.TEXT_RULES) == rule


def test_paragraphs_that_a_source_repeats_are_taken_out():
    footer = "This page is a part of the manual of the shell, version 5."
    documents = [Document(id=f"{i}", text=f"NAME\n\npage {i}\n\n{footer}") for i in range(11)]
    assert quality.without_boilerplate(documents)[3].text == "NAME\n\npage 3"
    assert quality.without_boilerplate(documents[:10])[3].text == documents[3].text


def test_a_page_asks_for_its_title_its_topic_and_its_own_questions():
    found = {pair.task: pair for pair in pairs_of(Document(id="p", title="1.2. Network sockets", topic="C", text=PAGE))}
    assert found["title"].answer == "Network sockets"
    assert found["title"].fields["text"].startswith("A socket is one end")
    assert found["topic"].answer == "C"
    assert found["question"].fields == {"question": "How do I open a socket?"}
    assert found["question"].answer.startswith("You call the function")


def test_an_entry_of_a_dictionary_is_a_term_and_what_it_means():
    entry = Document(id="d", title="actor", text="actor\n\n1. <programming> In object-oriented programming, an object.")
    [pair] = entry_pair(entry)
    assert (pair.fields, pair.answer) == ({"term": "actor"}, "In object-oriented programming, an object.")


def test_every_pair_is_asked_or_shown_once_in_the_form_of_the_projects_prompts():
    pairs = [
        Pair(document=f"d{i}", task="term", fields={"term": f"term{i:03}"}, answer=f"It is {i:03}.") for i in range(200)
    ]
    texts = list(asked("term", pairs, np.random.default_rng(0)))
    joined = "\n".join(text.text for text in texts)
    assert all(joined.count(f"term{i:03}") == joined.count(f"It is {i:03}.") == 1 for i in range(200))
    for text in texts:
        assert text.text[text.answer_at :].startswith(" It is ")
        assert text.text[: text.answer_at].endswith(tuple(phrasing.lead for phrasing in PHRASINGS["term"]))
    shown = {text.text.count("It is") - 1 for text in texts}
    assert shown == {0, 1, 2, 4}
    assert [text.text for text in asked("term", pairs, np.random.default_rng(0))] == [text.text for text in texts]


@pytest.mark.parametrize("task", sorted(PHRASINGS))
def test_all_phrasings_read_fields_that_pairs_have(task):
    fields = {
        "code_summary": {"code"}, "command": {"command"}, "function": {"function"}, "term": {"term"},
        "definition": {"word", "part_of_speech"}, "question": {"question"}, "title": {"text"}, "topic": {"text"},
    }[task]  # fmt: skip
    for phrasing in PHRASINGS[task]:
        assert {*phrasing.reads.values(), phrasing.writes} <= fields | {"answer"}
        assert phrasing.writes not in phrasing.reads.values()
    assert any(phrasing.lead == "\nAnswer:" for phrasing in PHRASINGS[task])
