"""The format whose fit is the quickest, for tests of the exporter that are not about a format."""

from typing import Any

from exporter.options import DEFAULT_PLANES

__all__ = ["QUICK"]

QUICK: dict[str, Any] = {"planes": DEFAULT_PLANES, "levels": "even"}
"""Options of an export. No form is looked for that holds a weight exactly: random ones have none, and one that
others have takes long to find."""
