#!/usr/bin/env bash
# MLX's reading of a GGUF file ends at the first tensor of a type it does not know: the rest is missing, without a message.
#
# Software: mlx 0.32.4 (mlx.core.load, on the CPU), gguf 0.19.0
# Input: GGUF files of three tensors, "first" and "last" in float32 and one between them of a type for low-bit models: Q1_0
#   (Bonsai), TQ1_0 and TQ2_0 (BitNet and other ternary models), MXFP4 (GPT-OSS), NVFP4; for comparison Q4_0 and Q5_0.
# Expected: three tensors, the one in the middle cast to float16 ("when loading unsupported quantization formats from GGUF,
#   tensors will automatically cast to mx.float16"), or an error, as Q5_0 gives.
# Observed: the dictionary ends before that tensor. "last", which is plain float32, is missing too. Nothing is raised, warned
#   or printed, and with return_metadata=True the metadata are whole.
#
# Output seen on 2026-12-01:
#   Q4_0: first, middle, last; metadata whole
#   Q5_0: RuntimeError
#   Q1_0: first; metadata whole
#   TQ1_0: first; metadata whole
#   TQ2_0: first; metadata whole
#   MXFP4: first; metadata whole
#   NVFP4: first; metadata whole
#   messages: none
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "mlx[cpu]==0.32.4" gguf==0.19.0 numpy==2.4.6
cat > "$work/run.py" <<'PYTHON'
import json
import sys
import warnings

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

ROWS, COLUMNS = 8, 512
warnings.simplefilter("error")


def told(kind):
    size, length = GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter("three.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("first", np.ones((4, 32), np.float32))
    writer.add_tensor("middle", np.zeros((ROWS, COLUMNS // size * length), np.uint8), raw_dtype=kind)
    writer.add_tensor("last", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [one.name for one in gguf.GGUFReader("three.gguf").tensors] == ["first", "middle", "last"]
    try:
        arrays, metadata = mx.load("three.gguf", return_metadata=True)
    except RuntimeError:
        return "RuntimeError"
    whole = {"general.architecture", "llama.block_count"} <= metadata.keys()
    names = ", ".join(name for name in ("first", "middle", "last") if name in arrays)
    return f"{names}; metadata {'whole' if whole else 'not whole'}"


seen = {kind.name: told(kind) for kind in map(Kind.__getitem__, sys.argv[1:])}
print(json.dumps(seen))
PYTHON
cd "$work"
"$work/venv/bin/python" run.py Q4_0 Q5_0 Q1_0 TQ1_0 TQ2_0 MXFP4 NVFP4 > seen.json 2> messages
"$work/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

seen, messages = json.loads(Path("seen.json").read_text()), Path("messages").read_text()
for kind, words in seen.items():
    print(f"{kind}: {words}")
print(f"messages: {messages.strip() or 'none'}")
expected = dict.fromkeys(("Q1_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"), "first; metadata whole")
expected |= {"Q4_0": "first, middle, last; metadata whole", "Q5_0": "RuntimeError"}
raise SystemExit(0 if seen == expected and not messages else "the behavior has changed")
PYTHON
