"""The site: docs/, README as its front page, other pages where they lie, and those that the code gives."""

from typing import Any

from generated import pages  # beside this file
from links import ELSEWHERE, ROOT, fit_links
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere and those that are generated."""
    for place, source in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make the links of a page fit the site; generated pages are written for it."""
    place = page.file.src_uri
    if place.startswith("reference/"):
        return markdown
    return fit_links(markdown, place, lambda other: files.get_file_from_path(other) is not None)
