"""Links are written for the repository and made to fit the site; to files that are no pages, they become text."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["ELSEWHERE", "ROOT", "fit_links", "link_to_site", "source_of"]

ROOT = Path(__file__).parents[1]
ELSEWHERE = {  # pages and pictures that lie outside docs/, by their place in the site
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "results/index.md": "recipes/README.md",
    "results/quality.png": "recipes/quality_per_compute/quality.png",
    "results/scaling.md": "recipes/SCALING.md",
    "results/benchmarks.md": "recipes/benchmarks/README.md",
    "results/gpu.md": "recipes/gpu/README.md",
    "results/launch.md": "recipes/launch/README.md",
    "results/lists.md": "manifests/README.md",
}
_PLACES = {source: place for place, source in ELSEWHERE.items()} | {"docs/notebook.ipynb": "notebook.md"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def source_of(place: str) -> str:
    """Return where the page at a place of the site lies in the repository."""
    return ELSEWHERE.get(place, f"docs/{place}")


def fit_links(markdown: str, place: str, is_page: Callable[[str], bool]) -> str:
    """Rewrite all links of a page, but for those in blocks of code.

    Args:
        markdown: of the page.
        place: of the page in the site.
        is_page: whether something is at a place of the site.
    """
    parts = _FENCED.split(markdown)
    return "".join(
        part
        if part.startswith("```")
        else _LINK.sub(lambda match: link_to_site(*match.group(1, 2, 3), place=place, is_page=is_page), part)
        for part in parts
    )


def link_to_site(bang: str, text: str, target: str, *, place: str, is_page: Callable[[str], bool]) -> str:
    """Rewrite one link; what leads to no file at all stays, for mkdocs to complain of."""
    path, hash_, anchor = target.partition("#")
    link = f"{bang}[{text}]({target})"
    if not path or "://" in path or path.startswith("mailto:"):
        return link
    source = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(place)), path))
    found = _PLACES.get(source, source.removeprefix("docs/") if source.startswith("docs/") else "")
    if found and is_page(found):
        return f"{bang}[{text}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{hash_}{anchor})"
    if not (ROOT / source).exists():
        return link
    return text if "/" in text or source.rsplit("/", 1)[-1] in text else f"{text} (`{source}`)"
