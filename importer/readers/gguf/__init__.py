"""GGUF, the files of llama.cpp: numbers in blocks, and in their metadata all that a model directory has beside weights.

container.py    header, metadata and table of tensors, from a file that nobody has checked
types.py        sizes of the types; blocks.py and codes.py  what is in a block; inexact.py  types that are not even
keys.py         metadata by type; config.py, families.py, rotary.py  the configuration that it stands for
names.py        which parameter a tensor is
tokenizer.py    tokenizer files
reader.py       all of it as a `LowBitModel`
"""

from importer.readers.gguf.reader import is_gguf, open_gguf

__all__ = ["is_gguf", "open_gguf"]
