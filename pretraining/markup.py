"""HTML, Mallard pages and man pages as plain text, by `inscriptis` and, for man pages, by Debian's `mandoc`."""

import gzip
import re
import resource
import subprocess
from pathlib import Path

from inscriptis.css_profiles import STRICT_CSS_PROFILE
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_element import HtmlElement
from lxml import etree, html

# what holds a page's own text, the most particular first
MAIN = (
    "//*[@role='main']",
    "//main",
    "//article",
    "//*[@id='DisplayArea' or @id='page-content' or @id='docs-body']",
    "//body",
)
# what stands around it in the documentation of these packages
AROUND = (
    ".//nav|.//script|.//style|.//header|.//footer|.//form|.//button|.//comment()"
    "|.//*[contains(concat(' ', normalize-space(@class), ' '), ' headerlink ')]"
    "|.//*[contains(@class, 'nav') or contains(@class, 'sidebar')]"
    "|.//*[contains(concat(' ', @class), ' toc') or @id='toc']"
    "|.//*[@class='debug' or @class='related' or @class='nosearch' or @class='lang-links']"
)
CSS = {
    **STRICT_CSS_PROFILE,
    "dt": HtmlElement(display=Display.block),
    "dd": HtmlElement(display=Display.block, padding_inline=4),
}
MALLARD = {
    **CSS,
    "info": HtmlElement(display=Display.none),
    **{tag: HtmlElement(display=Display.block, margin_before=1, margin_after=1) for tag in ("title", "p", "item")},
    **{
        tag: HtmlElement(display=Display.block, margin_before=1, margin_after=1) for tag in ("section", "note", "steps")
    },
}


def of_html(raw: bytes) -> tuple[str, str]:
    """Title and text of a page."""
    page = html.fromstring(raw, parser=html.HTMLParser(encoding=_encoding(raw)))
    main = next((found[0] for each in MAIN if (found := page.xpath(each))), page)
    for node in main.xpath(AROUND):
        if node.getparent() is not None:
            node.drop_tree()
    heading = main.xpath(".//h1") or main.xpath(".//h2") or page.xpath("//title")
    title = " ".join(heading[0].text_content().split()) if heading else ""
    return title.rstrip("\u00b6 "), tidy(Inscriptis(main, ParserConfig(css=CSS)).get_text())


def of_mallard(raw: bytes) -> tuple[str, str]:
    """Title and text of a page of GNOME's help."""
    page = etree.fromstring(raw, parser=etree.XMLParser(recover=True, resolve_entities=False, no_network=True))
    for node in page.iter():  # `ns:title` and `title` are the same here
        if isinstance(node.tag, str):
            node.tag = etree.QName(node).localname
    title = page.findtext("title") or ""
    return " ".join(title.split()), tidy(Inscriptis(page, ParserConfig(css=MALLARD)).get_text())


def of_man(path: Path, mandoc: Path) -> tuple[str, str]:
    """Title and text of a man page; empty where the page only points to another, or cannot be read."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if raw.lstrip().startswith(b".so "):
        return "", ""
    done = subprocess.run(
        [mandoc, "-T", "html", "-O", "fragment"], input=raw, capture_output=True, check=False, preexec_fn=_few_seconds
    )
    if done.returncode < 0 or not done.stdout.strip():
        return "", ""
    page = html.fromstring(b"<body>" + done.stdout + b"</body>", parser=html.HTMLParser(encoding="utf-8"))
    for node in page.xpath("//table[@class='head' or @class='foot']"):
        node.drop_tree()
    title = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return title, tidy(Inscriptis(page, ParserConfig(css=CSS)).get_text())


def _few_seconds() -> None:
    """For a page on which mandoc does not come to an end: seconds of work, so that a busy machine reads the same."""
    resource.setrlimit(resource.RLIMIT_CPU, (5, 5))


def tidy(text: str) -> str:
    """Without trailing blanks, paragraph signs, private characters and more than one empty line."""
    lines = [
        re.sub(r"[\u00b6\u200b\ufeff\ue000-\uf8ff]", "", line).replace("\xa0", " ").rstrip()
        for line in text.split("\n")
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _encoding(raw: bytes) -> str:
    declared = re.search(rb"charset=[\"']?([A-Za-z0-9_-]+)", raw[:3000])
    return declared[1].decode() if declared else "utf-8"
