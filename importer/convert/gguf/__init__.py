"""A model as a GGUF file, the inverse of importer/readers/gguf.

blocks.py     the types: what levels each holds, and its bytes
metadata.py   the configuration as keys;  tokenizer.py  the tokenizer as keys
write.py      all of it as a file
"""
