"""What MkDocs asks while it builds the site (mkdocs.yml): pages, their order, and links as the repository has them.

The pages are written to be read in the repository. Their links lead to other pages, to pages outside of docs/ (README,
contributing and the like), which become pages of the site too, and to files of the code, which are no part of it: these
stay as words that name the file. A link to nothing is a warning, and `mkdocs build --strict` fails by it; so is a page
that would load anything from elsewhere.
"""

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports]  # of .venv-docs

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "report.md",
    "benchmarks/README.md": "measuring.md",
    "studies/README.md": "studies.md",
    "findings/README.md": "findings.md",
}
"""Pages that are not under docs/, and what they are called in the site."""

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FENCED = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//[^\"]+|<link[^>]+href=\"(?:https?:)?//[^\"]+"
)

log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: Any) -> Any:
    """Give the site its order of pages."""

    def pages(folder: str) -> list[str]:
        names = sorted(path.name for path in (ROOT / DOCS / folder).glob("*.md") if path.name != "README.md")
        first = ["README.md"] if (ROOT / DOCS / folder / "README.md").is_file() else []
        return [f"{folder}/{name}" for name in (*first, *names)]

    config.nav = [
        {"Overview": ["index.md", {"What it is": "readme.md"}]},
        {"Tutorial": "tutorial.md"},
        {"How to": pages("howto")},
        {"Reference": [*pages("reference"), "op_reference.md", "layouts.md"]},
        {"Help": ["troubleshooting.md", "security.md", "reliability.md", "glossary.md"]},
        {"Background": ["methods.md", "architecture.md", "benchmarks.md", "measuring.md", "studies.md", "findings.md"]},
        {
            "Project": [
                "contributing.md",
                "changes.md",
                "report.md",
                {"Decisions": pages("decisions")},
                {"Log": pages("log")},
            ]
        },
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not under docs/."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead where they lead in the repository."""
    name = page.file.src_uri
    origin = next((path for path, own in OUTSIDE.items() if own == name), f"{DOCS}/{name}")
    parts = FENCED.split(markdown)  # every second part is code
    for place in range(0, len(parts), 2):
        parts[place] = LINK.sub(lambda found: _link(found, origin, name), parts[place])
    return "".join(parts)


def _link(found: re.Match[str], origin: str, name: str) -> str:
    image, words, target = found.groups()
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return found[0]
    there = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if not (ROOT / there).exists():
        log.warning("%s: a link to %s, which is not there", origin, target)
        return found[0]
    inside = OUTSIDE.get(there) or (there.removeprefix(f"{DOCS}/") if there.startswith(f"{DOCS}/") else None)
    if inside is None or (ROOT / there).is_dir():
        return found[0] if image else f'{words}{{ title="{there}" }}' if words.startswith("`") else words
    return f"{image}[{words}]({posixpath.relpath(inside, posixpath.dirname(name) or '.')}{mark}{anchor})"


def on_post_build(config: Any) -> None:
    """Warn of pages that load something from elsewhere."""
    for directory, _, names in os.walk(config.site_dir):
        for name in names:
            if name.endswith(".html"):
                path = Path(directory) / name
                for found in LOADED.findall(path.read_text(encoding="utf-8")):
                    log.warning("%s loads %s", path, found)
