"""Damaged inputs of every entry point, as an inventory: what is damaged, and what is said about it.

python -m tools.damage --out docs/reference/bad_inputs.md     write the page; exit code 1 where an input is not refused
"""
