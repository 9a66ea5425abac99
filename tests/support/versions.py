"""Files of earlier versions: those of the script that makes them."""

from tools.golden import CASES, FOLDER, logits_of

__all__ = ["CASES", "FOLDER", "logits_of"]
