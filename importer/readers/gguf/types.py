"""The types of GGUF tensors: their numbers, names and sizes."""

from dataclasses import dataclass

__all__ = ["OF_ROTATED_MODELS", "TYPES", "StoredType", "unknown_type"]


@dataclass(frozen=True)
class StoredType:
    """A type of tensors.

    Attributes:
        name: as llama.cpp writes it.
        weights: in a block.
        size: of a block in bytes.
    """

    name: str
    weights: int
    size: int


TYPES = {
    0: (StoredType("F32", 1, 4),),
    1: (StoredType("F16", 1, 2),),
    2: (StoredType("Q4_0", 32, 18),),
    3: (StoredType("Q4_1", 32, 20),),
    6: (StoredType("Q5_0", 32, 22),),
    7: (StoredType("Q5_1", 32, 24),),
    8: (StoredType("Q8_0", 32, 34),),
    9: (StoredType("Q8_1", 32, 40),),
    10: (StoredType("Q2_K", 256, 84),),
    11: (StoredType("Q3_K", 256, 110),),
    12: (StoredType("Q4_K", 256, 144),),
    13: (StoredType("Q5_K", 256, 176),),
    14: (StoredType("Q6_K", 256, 210),),
    15: (StoredType("Q8_K", 256, 292),),
    16: (StoredType("IQ2_XXS", 256, 66),),
    17: (StoredType("IQ2_XS", 256, 74),),
    18: (StoredType("IQ3_XXS", 256, 98),),
    19: (StoredType("IQ1_S", 256, 50),),
    20: (StoredType("IQ4_NL", 32, 18),),
    21: (StoredType("IQ3_S", 256, 110),),
    22: (StoredType("IQ2_S", 256, 82),),
    23: (StoredType("IQ4_XS", 256, 136),),
    24: (StoredType("I8", 1, 1),),
    25: (StoredType("I16", 1, 2),),
    26: (StoredType("I32", 1, 4),),
    27: (StoredType("I64", 1, 8),),
    28: (StoredType("F64", 1, 8),),
    29: (StoredType("IQ1_M", 256, 56),),
    30: (StoredType("BF16", 1, 2),),
    34: (StoredType("TQ1_0", 256, 54),),
    35: (StoredType("TQ2_0", 256, 66),),
    39: (StoredType("MXFP4", 32, 17),),
    40: (StoredType("NVFP4", 64, 36),),
    41: (StoredType("Q1_0", 128, 18), StoredType("Q1_0 of 512", 512, 130)),
    42: (StoredType("Q2_0", 64, 18), StoredType("Q2_0 of 128", 128, 34)),
    142: (StoredType("PQ2_0", 128, 34),),
    143: (StoredType("PTQ1_0", 128, 28),),
}
"""By number: llama.cpp's form, then others that were published under its number. Their sizes tell them apart.

Sizes are those of ggml's blocks; gguf 0.19 has the same, without type 42. Types 142 and 143 are those of
github.com/PrismML-Eng/llama.cpp.
"""

OF_ROTATED_MODELS = ("PQ2_0", "PTQ1_0")
"""Types made for models whose inputs are rotated. A rotation is declared by metadata, and not by them."""


def unknown_type(number: int) -> str:
    """The sentence about a type that is not in `TYPES`."""
    return f"type {number} is not known to this release; give the full-precision model"
