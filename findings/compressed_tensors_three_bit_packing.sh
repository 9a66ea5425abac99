#!/usr/bin/env bash
# compressed-tensors 0.18 packs 3, 5, 6 and 7 bits otherwise than 0.17 under the same names; reads older files wrong.
#
# Software: compressed-tensors 0.17.1, 0.18.0 and 0.20.1, transformers 5.23.0, safetensors 0.8.0, torch 2.13.0
# Input: a layer of 8 outputs and 64 inputs in format pack-quantized (symmetric, groups of 32) of 2, 3, 4, 5, 6, 7 and 8
#   bits, and the directory of a tiny Llama of 3 bits, compressed by each version and read by each. Weights lie on the
#   grid, so that nothing is rounded.
# Expected: the weights that were compressed, or an error.
# Observed: 0.17.1 leaves the bits of a word that hold no whole value free, 0.18.0 and 0.20.1 do not. Names are alike;
#   the number of words tells them apart, and "version" in config.json does, which changes nothing here. The compressor
#   of the newer ones unpacks what 0.17.1 wrote to other weights without an error; that of 0.17.1 gives a matrix with
#   fewer columns. transformers refuses such directories by the shapes of their tensors; but with dequantize=True newer
#   versions load wrong weights, without a message. 2, 4 and 8 bits are the same in all.
#
# Output seen on 2026-11-28:
#   0.17.1 writes words a row: 4 7 8 11 13 16 16
#   0.18.0 writes words a row: 4 6 8 10 12 14 16
#   0.20.1 writes words a row: 4 6 8 10 12 14 16
#   0.17.1 reads 0.17.1, wrong weights: 0% 0% 0% 0% 0% 0% 0%
#     directory of 3 bits: loaded, compressed; with dequantize=True: 0% wrong
#   0.17.1 reads 0.18.0, wrong weights: 0% [8, 60] 0% [8, 60] [8, 60] [8, 56] 0%
#     directory of 3 bits: RuntimeError; with dequantize=True: RuntimeError
#   0.17.1 reads 0.20.1, wrong weights: 0% [8, 60] 0% [8, 60] [8, 60] [8, 56] 0%
#     directory of 3 bits: RuntimeError; with dequantize=True: RuntimeError
#   0.18.0 reads 0.17.1, wrong weights: 0% 74% 0% 87% 90% 93% 0%
#     directory of 3 bits: RuntimeError; with dequantize=True: 75% wrong
#   0.18.0 reads 0.18.0, wrong weights: 0% 0% 0% 0% 0% 0% 0%
#     directory of 3 bits: loaded, compressed; with dequantize=True: 0% wrong
#   0.18.0 reads 0.20.1, wrong weights: 0% 0% 0% 0% 0% 0% 0%
#     directory of 3 bits: loaded, compressed; with dequantize=True: 0% wrong
#   0.20.1 reads 0.17.1, wrong weights: 0% 74% 0% 87% 90% 93% 0%
#     directory of 3 bits: RuntimeError; with dequantize=True: 75% wrong
#   0.20.1 reads 0.18.0, wrong weights: 0% 0% 0% 0% 0% 0% 0%
#     directory of 3 bits: loaded, compressed; with dequantize=True: 0% wrong
#   0.20.1 reads 0.20.1, wrong weights: 0% 0% 0% 0% 0% 0% 0%
#     directory of 3 bits: loaded, compressed; with dequantize=True: 0% wrong
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
seen=$(sed -n '/^# Output seen/,/^#$/s/^#   //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check compressed-tensors==0.20.1 transformers==5.23.0 \
  accelerate==1.15.0 safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cd "$work"
cat > run.py <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

compressor = BaseCompressor.get_value_from_registry("pack-quantized")
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 128}


def scheme(bits: int) -> QuantizationScheme:
    weights = QuantizationArgs(num_bits=bits, group_size=32, strategy="group", symmetric=True)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def on_grid(bits: int, rows: int, columns: int) -> dict[str, torch.Tensor]:
    half, generator = 1 << (bits - 1), torch.Generator().manual_seed(0)
    weight = torch.randint(-half, half, (rows, columns), generator=generator).float() / 64
    return {"weight": weight, "weight_scale": torch.full((rows, columns // 32), 1 / 64)}


def write(version: str) -> None:
    sizes = []
    for bits in range(2, 9):
        compressed = compressor.compress(on_grid(bits, 8, 64), scheme(bits))
        save_file(compressed, f"{version}_{bits}.safetensors")
        sizes.append(compressed["weight_packed"].shape[1])
    print(f"{version} writes words a row:", *sizes)
    tensors = {}
    config = LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).to_dict()
    for name, tensor in LlamaForCausalLM(LlamaConfig(**SHAPE)).state_dict().items():
        layer = {"weight": tensor}
        if "proj" in name:
            layer = compressor.compress(on_grid(3, *tensor.shape), scheme(3))
        tensors |= {f"{name.removesuffix('weight')}{key}": value.contiguous() for key, value in layer.items()}
    weights = {"num_bits": 3, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "version": version,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    Path(f"model_{version}").mkdir()
    save_file(tensors, f"model_{version}/model.safetensors", metadata={"format": "pt"})
    Path(f"model_{version}/config.json").write_text(json.dumps(config))


def read(reader: str, writer: str) -> str:
    shares = []
    for bits in range(2, 9):
        weight = on_grid(bits, 8, 64)["weight"]
        got = compressor.decompress(load_file(f"{writer}_{bits}.safetensors"), scheme(bits))["weight"]
        same = got.shape == weight.shape
        shares.append(f"{(got != weight).float().mean():.0%}" if same else f"{list(got.shape)}")
    return f"{reader} reads {writer}, wrong weights: {' '.join(shares)}"


def load(writer: str, dequantize: bool) -> str:
    asked = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(f"model_{writer}", **asked)
    except RuntimeError as error:
        return type(error).__name__
    wrong = total = 0
    for name, tensor in model.state_dict().items():
        if name.endswith("proj.weight"):
            wrong += int((tensor != on_grid(3, *tensor.shape)["weight"]).sum())
            total += tensor.numel()
    return f"{wrong / total:.0%} wrong" if total else "loaded, compressed"


task, reader = sys.argv[1:3]
if task == "write":
    write(reader)
else:
    for writer in sys.argv[3:]:
        print(read(reader, writer))
        print(f"  directory of 3 bits: {load(writer, False)}; with dequantize=True: {load(writer, True)}")
PYTHON
versions=(0.17.1 0.18.0 0.20.1)
run() {
  PYTHONPATH="$work/$2" HF_HUB_OFFLINE=1 "$work/venv/bin/python" run.py "$@" 2>>errors.txt || tail errors.txt >&2
}
for version in "${versions[@]}"; do
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$work/$version" \
    "compressed-tensors==$version"
  run write "$version" | tee -a output.txt
done
for version in "${versions[@]}"; do
  run read "$version" "${versions[@]}" | tee -a output.txt
done
diff <(echo "$seen") output.txt || { echo "the behavior has changed" >&2; exit 1; }
