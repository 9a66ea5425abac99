"""What became of the weights of a model that was converted."""

from dataclasses import dataclass, field

from importer.model import rounding_note

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """The answer of a conversion.

    Attributes:
        format: "gguf" or "gptq_v2".
        types: by type, how many weights have it.
        rounding: by weight, the largest relative change of a scale, where any was rounded to float16.
        plain: weights that are written as numbers, and the largest relative change of one.
        notes: what else a user should know.
    """

    format: str
    types: dict[str, int] = field(default_factory=dict[str, int])
    rounding: dict[str, float] = field(default_factory=dict[str, float])
    plain: dict[str, float] = field(default_factory=dict[str, float])
    notes: list[str] = field(default_factory=list[str])

    def count(self, kind: str) -> None:
        """One more weight of a type."""
        self.types[kind] = self.types.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """The notes, with what was rounded."""
        lines = []
        if self.rounding:
            lines.append(rounding_note(self.rounding))
        if self.plain:
            module, largest = max(self.plain.items(), key=lambda entry: entry[1])
            how = f"rounded by {largest:.1e} at most ({module})" if largest else "exact"
            lines.append(f"written as plain numbers, {how}: {', '.join(self.plain)}")
        return lines + self.notes
