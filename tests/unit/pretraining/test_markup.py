from pretraining import markup

PAGE = b"""<html><head><title>Manual: Sockets</title><meta charset="utf-8"></head><body>
<nav>Home Up Next</nav>
<div role="main"><h1>Sockets<a class="headerlink" href="#">\xc2\xb6</a></h1>
<p>A <b>socket</b> is
one end.</p><ul><li>first</li><li>second</li></ul><pre>s = socket()
    s.close()</pre><dl><dt>-v</dt><dd>more</dd></dl>
<div class="sphinxsidebar">Search</div></div><footer>2022</footer></body></html>"""


def test_a_page_is_its_own_text_without_what_stands_around_it():
    title, text = markup.of_html(PAGE)
    assert title == "Sockets"
    assert text.split("\n\n")[:2] == ["Sockets", "A socket is one end."]
    assert "s = socket()\n    s.close()" in text
    assert "\n-v\n    more" in text
    assert not any(word in text for word in ("Home", "Search", "2022"))


def test_a_page_of_help_is_read_without_its_credits():
    page = (
        b'<page xmlns="http://projectmallard.org/1.0/"><info><credit>Jane</credit></info><title>Open <em>files</em>'
        b"</title><p>Press the key.</p><steps><item><p>First.</p></item></steps></page>"
    )
    assert markup.of_mallard(page)[1].split("\n\n") == ["Open files", "Press the key.", "First."]


def test_tidy_keeps_indentation_and_one_empty_line():
    assert markup.tidy("\n\na  \n\n\n\n    b\xa0c\u200b\n") == "a\n\n    b c"
