"""A page from a template: what files say is text and gets escaped, only pictures made here are markup."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["Chart", "render"]


@dataclass(frozen=True)
class Chart:
    """A picture with what is to be said about it; `svg` is markup, the rest is text."""

    title: str
    caption: str
    svg: str


def render(template: Path, **values: Any) -> str:
    """The page of a template file, which may extend base.html and import from parts.html of this room."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
