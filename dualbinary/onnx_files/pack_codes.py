"""ONNX operators that put planes of layout plain together to layout codes, of which some fallback functions compute.

The way back of a model in layout codes to blocks: behind the nodes that unpack these. For each plane a table of 256
entries turns a byte of bits into the bytes of eight numbers that have this bit alone. Zero points, which lie behind the
planes of their row, become the numbers behind the weights by the same tables.

As in unpack_function.py all values but `codes` have names that start with "stored_".
"""

import numpy as np

__all__ = ["pack_codes_text"]

_INT32 = 6


def pack_codes_text(planes: int) -> tuple[str, dict[str, np.ndarray]]:
    """Nodes from `planes` to `codes` for P planes, with the attribute group_size, and tables that they read.

    In the text a tilde stands for the prefix of names.
    """
    tables = {f"number_bits{p}": _bit_table(planes, p) for p in range(planes)}
    tables["zero_byte"] = np.zeros((1, 1), np.uint8)
    lines = [
        "~q_first = Constant <value_ints: ints = [0]> ()",
        "~q_last = Constant <value_ints: ints = [-1]> ()",
        f"~q_planes = Constant <value_ints: ints = [{planes}]> ()",
        "~q_eight = Constant <value_ints: ints = [8]> ()",
        "~q_group_all = Constant <value_int: int = @group_size> ()",
        "~q_group = Reshape (~q_group_all, ~q_last)",
        "~q_group_bits = Mul (~q_group, ~q_planes)",
        "~q_run = Div (~q_group_bits, ~q_eight)",
        "~q_n = Shape <start = 1, end = 2> (planes)",
        "~q_rows_shape = Concat <axis = 0> (~q_n, ~q_last)",
    ]
    numbers = ""
    for p in range(planes):
        lines += [
            f"~q_p{p} = Constant <value_int = {p}> ()",
            f"~q_plane{p} = Gather <axis = 0> (planes, ~q_p{p})",
            f"~q_index{p} = Cast <to = {_INT32}> (~q_plane{p})",
            f"~q_bit{p} = Gather <axis = 0> (~number_bits{p}, ~q_index{p})",
        ]
        if numbers:
            lines.append(f"~q_or{p} = BitwiseOr ({numbers}, ~q_bit{p})")
        numbers = f"~q_or{p}" if numbers else f"~q_bit{p}"
    lines += [
        f"~q_rows = Reshape ({numbers}, ~q_rows_shape)",
        # What fills the last run: the bytes that a multiple of runs has more.
        "~q_bytes = Shape <start = 1, end = 2> (~q_rows)",
        "~q_rest = Mod (~q_bytes, ~q_run)",
        "~q_more = Sub (~q_run, ~q_rest)",
        "~q_lack = Mod (~q_more, ~q_run)",
        "~q_fill_shape = Concat <axis = 0> (~q_n, ~q_lack)",
        "~q_fill = Expand (~zero_byte, ~q_fill_shape)",
        "~q_whole = Concat <axis = 1> (~q_rows, ~q_fill)",
        "~q_shape = Concat <axis = 0> (~q_n, ~q_last, ~q_run)",
        "codes = Reshape (~q_whole, ~q_shape)",
    ]
    return "\n".join(lines) + "\n", tables


def _bit_table(planes: int, place: int) -> np.ndarray:
    """uint8 [256, planes]: the eight numbers that have the bits of a byte in one place, packed low bits first."""
    numbers = (np.arange(256)[:, None] >> np.arange(8) & 1) << place
    per_byte = 8 // planes
    return (numbers.reshape(256, planes, per_byte) << (planes * np.arange(per_byte))).sum(axis=2).astype(np.uint8)
