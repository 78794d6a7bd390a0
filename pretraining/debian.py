"""Documentation packages of Debian: fetched by name, unpacked without being installed, read as documents."""

import gzip
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretraining import markup
from pretraining.documents import Document, Pair, unwrapped

DOC = "usr/share/doc/"


@dataclass(frozen=True, kw_only=True)
class Package:
    """Which files of a package are read, how, and what is known about them."""

    name: str
    license: str
    topic: str
    files: tuple[str, ...]
    """Globs below the package's root."""
    skip: str = r"genindex|py-modindex|/search\.html|searchindex|/_modules/|/_sources/|changelog|/index\.html"
    """Paths in which this is found are left out."""
    megabytes: float = 4.0
    """More text than this is not taken; which documents are, is decided by a hash of their names."""


# Of Python's documentation, the library reference is left out as a whole: it describes the functions of
# `examples/code_summary`. So are the FAQ (an evaluation set) and what lists every change.
PACKAGES = (
    Package(name="python3.11-doc", license="PSF-2.0", topic="Python",
            files=tuple(f"{DOC}python3.11/html/{part}/*.html" for part in
                        ("c-api", "distributing", "distutils", "extending", "howto", "reference", "tutorial", "using",
                         "whatsnew"))),
    Package(name="postgresql-doc-15", license="PostgreSQL", topic="databases",
            files=(f"{DOC}postgresql-doc-15/html/*.html",), skip=r"/release-|bookindex|/index\.html|/features-sql"),
    Package(name="sqlite3-doc", license="public domain", topic="databases", files=(f"{DOC}sqlite3/*.html",),
            skip=r"/keyword_index|/sitemap|/changes\.html|/index\.html|/doclist|/toc|test_coverage/|/search"),
    Package(name="git-doc", license="GPL-2.0", topic="version control",
            files=(f"{DOC}git-doc/*.html", f"{DOC}git-doc/technical/*.html", f"{DOC}git-doc/howto/*.html")),
    Package(name="mercurial-common", license="GPL-2.0-or-later", topic="version control",
            files=("usr/lib/python3/dist-packages/mercurial/helptext/*.txt",)),
    Package(name="bash-doc", license="GFDL-1.3", topic="the shell", files=(f"{DOC}bash/bashref.html",)),
    Package(name="zsh-doc", license="Zsh", topic="the shell", files=(f"{DOC}zsh-common/html/*.html",),
            skip=r"/zsh_toc|-Index|/index\.html", megabytes=2),
    Package(name="perl-doc", license="Artistic or GPL-1.0-or-later", topic="Perl", files=("usr/share/man/man1/*.1.gz",),
            skip=r"delta\.", megabytes=5),
    Package(name="debian-handbook", license="GPL-2.0-or-later or CC-BY-SA-3.0", topic="Debian",
            files=(f"{DOC}debian-handbook/html/en-US/*.html",)),
    Package(name="debian-reference-en", license="GPL-2.0-or-later", topic="Debian",
            files=("usr/share/debian-reference/*.en.html",)),
    Package(name="debian-faq", license="GPL-2.0-or-later", topic="Debian", files=(f"{DOC}debian/FAQ/*.en.html",)),
    Package(name="debian-policy", license="GPL-2.0-or-later", topic="Debian",
            files=(f"{DOC}debian-policy/policy.html/*.html",)),
    Package(name="developers-reference", license="GPL-2.0-or-later", topic="Debian",
            files=("usr/share/developers-reference/*.html",)),
    Package(name="harden-doc", license="GPL-2.0-or-later", topic="computer security",
            files=(f"{DOC}harden-doc/html/en-US/*.html",)),
    Package(name="installation-guide-amd64", license="GPL-2.0", topic="Debian",
            files=(f"{DOC}installation-guide-amd64/en/*.html",)),
    Package(name="aptitude-doc-en", license="GPL-2.0-or-later", topic="Debian",
            files=(f"{DOC}aptitude/html/en/*.html",)),
    Package(name="linux-doc-6.1", license="GPL-2.0", topic="the Linux kernel", megabytes=5,
            files=tuple(f"{DOC}linux-doc-6.1/html/{part}/**/*.html" for part in
                        ("admin-guide", "bpf", "core-api", "dev-tools", "doc-guide", "filesystems", "kbuild",
                         "kernel-hacking", "locking", "maintainer", "mm", "process", "scheduler", "security",
                         "trace", "RCU", "block", "accounting", "livepatch", "power", "virt"))),
    Package(name="apache2-doc", license="Apache-2.0", topic="web servers",
            files=(f"{DOC}apache2-doc/manual/en/**/*.html",),
            skip=r"/index\.html|sitemap|directives\.html|quickreference"),
    Package(name="postfix-doc", license="IPL-1.0 or EPL-2.0", topic="mail servers",
            files=(f"{DOC}postfix/html/*.html",), megabytes=2),
    Package(name="exim4-doc-html", license="GPL-2.0-or-later", topic="mail servers",
            files=(f"{DOC}exim4-doc-html/spec_html/*.html",), skip=r"-toc|option_index|concept_index|/index\.html",
            megabytes=2),
    Package(name="bind9-doc", license="MPL-2.0", topic="network servers", files=(f"{DOC}bind9-doc/arm/*.html",),
            skip=r"genindex|search|notes|changelog|/index\.html", megabytes=2),
    Package(name="python-django-doc", license="BSD-3-Clause", topic="web frameworks",
            files=tuple(f"{DOC}python-django-doc/html/{part}/**/*.html" for part in
                        ("ref", "topics", "howto", "intro", "internals", "faq", "misc"))),
    Package(name="python-flask-doc", license="BSD-3-Clause", topic="web frameworks",
            files=(f"{DOC}python-flask-doc/html/**/*.html",), megabytes=1),
    Package(name="python-sqlalchemy-doc", license="MIT", topic="databases", megabytes=3,
            files=(f"{DOC}python-sqlalchemy-doc/html/core/*.html", f"{DOC}python-sqlalchemy-doc/html/orm/*.html")),
    Package(name="nodejs-doc", license="MIT", topic="JavaScript", files=(f"{DOC}nodejs/api/*.html",),
            skip=r"/all\.html|/index\.html", megabytes=3),
    Package(name="rust-doc", license="MIT or Apache-2.0", topic="Rust",
            files=tuple(f"{DOC}rust-doc/html/{part}/**/*.html" for part in
                        ("book", "reference", "rust-by-example", "nomicon", "edition-guide", "rustc", "rustdoc",
                         "embedded-book")),
            skip=r"print\.html|second-edition|2018-edition|first-edition|/toc|/index\.html"),
    Package(name="cmake-doc", license="BSD-3-Clause", topic="build tools",
            files=tuple(f"{DOC}cmake-data/html/{part}/*.html" for part in
                        ("command", "manual", "module", "policy", "guide/**")), megabytes=2.5),
    Package(name="clang-14-doc", license="Apache-2.0 WITH LLVM-exception", topic="compilers",
            files=(f"{DOC}clang-14/html/*.html",), skip=r"AttributeReference|DiagnosticsReference|ClangFormatStyle|"
            r"LibASTMatchersReference|genindex|search|ReleaseNotes|/index\.html"),
    Package(name="vim-doc", license="Vim", topic="text editors", files=(f"{DOC}vim/html/*.html",),
            skip=r"/tags\.html|version\d|todo|/index\.html", megabytes=3),
    Package(name="libreoffice-help-en-us", license="MPL-2.0", topic="office software",
            files=("usr/share/libreoffice/help/en-US/text/**/*.html",), megabytes=4),
    Package(name="gnome-user-docs", license="CC-BY-SA-3.0", topic="the desktop",
            files=("usr/share/help/C/gnome-help/*.page",)),
    Package(name="anarchism", license="GFDL-1.1-or-later or GPL-2.0-or-later", topic="political theory",
            files=(f"{DOC}anarchism/markdown/*.md*",), skip=r"index|changelog|biblio|links"),
    Package(name="dict-foldoc", license="GFDL-1.2", topic="computing terms", files=("usr/share/dictd/*.dict.dz",)),
    Package(name="dict-jargon", license="public domain", topic="computing terms", files=("usr/share/dictd/*.dict.dz",)),
)  # fmt: skip

# Whose man pages are read; under the licenses of these packages, most of them GPL, BSD or MIT.
MANUALS = (
    "manpages", "manpages-dev", "git-man", "acl", "adduser", "apt", "aspell", "at", "attr", "bash", "bc",
    "bind9-dnsutils", "binutils", "bsdextrautils", "btrfs-progs", "bzip2", "coreutils", "cron", "cryptsetup-bin",
    "cups-client", "curl", "cvs", "dash", "datamash", "dc", "debhelper", "devscripts", "diffutils", "dosfstools",
    "dpkg", "dpkg-dev", "e2fsprogs", "ed", "ethtool", "expect", "ffmpeg", "findutils", "gawk", "gnupg", "gpg",
    "grep", "groff", "groff-base", "gzip", "hdparm", "htop", "imagemagick-6-common", "iotop", "iproute2",
    "iptables", "iw", "jq", "kmod", "less", "libcurl4-doc", "libssl-doc", "login", "logrotate", "lsof", "lvm2",
    "make", "man-db", "mariadb-client", "mdadm", "mercurial", "moreutils", "mtools", "nano", "ncurses-bin",
    "net-tools", "netpbm", "nfs-common", "nftables", "nmap", "openssh-client", "openssh-server", "openssl",
    "parallel", "parted", "passwd", "patch", "pciutils", "poppler-utils", "postgresql-client-15", "procps",
    "psmisc", "qemu-utils", "quota", "rsync", "rsyslog", "samba-common-bin", "screen", "sed", "smartmontools",
    "socat", "sox", "sqlite3", "strace", "subversion", "sudo", "sysstat", "systemd", "tar", "tcl8.6-doc", "tcpdump",
    "texinfo", "tmux", "udev", "unzip", "usbutils", "util-linux", "vim-common", "wget", "xz-utils", "zip",
)  # fmt: skip


class Unpacked:
    """Packages on disk below a cache folder, fetched when they are first asked for."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._debs = cache / "debs"
        self._debs.mkdir(parents=True, exist_ok=True)

    def deb(self, name: str) -> Path:
        """The package's archive: what is in the cache, so that a second run reads the same version."""
        found = sorted(self._debs.glob(f"{name}_*.deb"))
        if not found:
            done = subprocess.run(
                ["apt-get", "download", name], cwd=self._debs, capture_output=True, text=True, check=False
            )
            found = sorted(self._debs.glob(f"{name}_*.deb"))
            if not found:
                raise SystemExit(
                    f"pretraining: Debian's package '{name}' could not be fetched by `apt-get download`:\n{done.stderr}"
                    f"Put its .deb file into {self._debs}, or run `apt-get update` first."
                )
        return found[-1]

    def debs(self) -> list[Path]:
        """Every archive that was read."""
        return sorted(self._debs.glob("*.deb"))

    def root(self, name: str) -> Path:
        """The folder with the package's files."""
        root = self.cache / "unpacked" / name
        if not root.is_dir():
            root.parent.mkdir(exist_ok=True)
            fresh = root.with_name(f"{name}.part")
            subprocess.run(["dpkg", "-x", self.deb(name), fresh], check=True)
            fresh.rename(root)
        return root


def documents(package: Package, unpacked: Unpacked) -> Iterator[Document]:
    """The package's pages as text."""
    root = unpacked.root(package.name)
    paths = {path for pattern in package.files for path in root.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        name = str(path.relative_to(root))
        if re.search(package.skip, f"/{name}"):
            continue
        if ".dict" in path.name:
            yield from _entries(package, path)
            continue
        title, text = _read(path, unpacked)
        if text:
            yield Document(id=f"{package.name}/{name}", title=title, topic=package.topic, text=text)


def _read(path: Path, unpacked: Unpacked) -> tuple[str, str]:
    if "/man/man" in str(path):
        return markup.of_man(path, mandoc(unpacked))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.suffix == ".html":
        return markup.of_html(raw)
    if path.suffix == ".page":
        return markup.of_mallard(raw)
    return "", unwrapped(markup.tidy(raw.decode("utf-8", "replace")))


def _entries(package: Package, path: Path) -> Iterator[Document]:
    """A dictionary's entries: a word at the margin, and what is indented below it."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n(?=\S)", text):
        head, _, body = entry.partition("\n")
        body = re.sub(r"\{([^{}]*)\}", lambda link: link[1].replace("\n", " "), body)
        lines = [re.sub(r"^ {1,4}", "", line) for line in body.split("\n")]
        told = "\n\n".join(" ".join(block.split()) for block in re.split(r"\n\s*\n", "\n".join(lines)) if block.strip())
        told = re.sub(r"\n\n\(?\d{4}-\d\d-\d\d\)?$", "", told)
        if head.strip() and told and not head.startswith("00-"):
            yield Document(id=f"{package.name}/{head.strip()}", title=head.strip(), topic=package.topic,
                           text=f"{head.strip()}\n\n{told}")  # fmt: skip


def mandoc(unpacked: Unpacked) -> Path:
    """Debian's converter of man pages, run from where it was unpacked."""
    return unpacked.root("mandoc") / "usr/bin/mandoc"


def manuals(unpacked: Unpacked) -> Iterator[Document | Pair]:
    """The man pages of `MANUALS`, and what each says in its NAME line."""
    for name in MANUALS:
        root = unpacked.root(name)
        paths = sorted(path for path in root.glob("usr/share/man/man*/*") if path.is_file() and not path.is_symlink())
        for path in paths:
            title, text = markup.of_man(path, mandoc(unpacked))
            if not text:
                continue
            document = f"man/{name}/{path.name.removesuffix('.gz')}"
            yield Document(id=document, title=title, topic="commands", text=text)
            yield from _name_line(document, text, section=path.parent.name[3:4])


def _name_line(document: str, text: str, section: str) -> Iterator[Pair]:
    match = re.search(r"(?mi)^NAME\n+\s*([\w.+-]+)(?:, [\w.+, -]+)? (?:-|--|\u2013|\u2014) (\S[^\n]{9,150})", text)
    if match and section in "12368":
        kind = "function" if section in "23" else "command"
        yield Pair(document=document, task=kind, fields={kind: match[1]}, answer=match[2].strip())
