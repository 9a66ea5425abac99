"""`python -m tools.golden [NAME ...]`: files of each version of what lies on disk, as that version's writer wrote them.

A case names a commit whose packages wrote the version, and what they are asked to do with one model of fixed weights.
The commit is taken out of this repository's history and runs in this environment. What is there already is never
written anew: tests hold today's readers to it. A new version adds a case with the commit that brought its writer.

Beside each checkpoint and model lies `expected.npy`, float32 [token, vocabulary]: the logits behind each token of
PROMPT, by ONNX Runtime and the functions inside the model that was exported at that commit.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dualbinary import InputError
from dualbinary.cli.console import add_common_options, run
from runtime_ext.decoder import Decoder
from tests.support.tiny_tokenizers import write_tokenizer

__all__ = ["CASES", "FOLDER", "PROMPT", "logits_of"]

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "data" / "versions"
PROMPT = (1, 40, 75, 9)
_KEPT = ("config.json", "model.safetensors", "calibration.json", "model.onnx", "model.onnx.data", "export_report.json")
_TEXT = "the quick brown fox jumps over the lazy dog. " * 60
_V, _H, _I, _D = 128, 64, 96, 32  # vocabulary, hidden size, feed-forward size, size of a head

# Without the finder of an editable install, which would take this checkout's packages.
_RUNNER = """
import json, runpy, sys
sys.meta_path = [each for each in sys.meta_path if "Redirecting" not in type(each).__name__]
sys.path[0] = sys.argv[1]
for module, *words in json.loads(sys.argv[2]):
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""


@dataclass(frozen=True)
class Case:
    """What `commit` makes of the model: a checkpoint by `calib`, with these options, and an export of it or the model.

    `model` keeps the export's files, too, not its logits alone. `layouts` notes digests of the data files of exports
    in the layouts of instruction sets.
    """

    commit: str
    calib: tuple[str, ...] = ()
    export: tuple[str, ...] = ()
    model: bool = False
    layouts: tuple[str, ...] = field(default=())


_INIT = ("--stages", "init", "--group-size", "32", "--text", "text.txt", "--length", "32", "--init-windows", "4")
# Vocabulary tables are no part of these checkpoints, and what exports make of them has changed.
_EXACT_TABLES = ("--embedding-bits", "32")

CASES = {
    # Checkpoint 1, configuration 1, version 1 of the operator, layouts 1 to 4.
    "checkpoint1": Case("6ddda5a", (*_INIT, "--init-method", "activation"), _EXACT_TABLES),
    "op1": Case(
        "ef725bd", export=("--planes", "2", "--group-size", "32"), model=True, layouts=("avx512", "avx2", "neon")
    ),
    # Checkpoint 2: a scale for each output; configuration 2.
    "checkpoint2": Case(
        "ef725bd",
        ("--method", "qbb", "--stages", "init,layer", "--planes", "2", "--group-size", "-1"),
        _EXACT_TABLES,
    ),
    # Checkpoint 3: even levels, overrides; configuration 3.
    "checkpoint3": Case("88a0acb", (*_INIT, "--levels", "even", "--override", "*.o_proj:planes=3")),
    # Version 2 of the operator, layout 5.
    "op2_codes": Case("88a0acb", export=("--levels", "even", "--planes", "4", "--group-size", "32"), model=True),
    # Checkpoint 4: rotated inputs.
    "checkpoint4": Case("60b106a", (*_INIT, "--rotate", "32")),
    # Configuration 4: windows that begin with the start of a text.
    "checkpoint4_start": Case("8d589e9", (*_INIT, "--start-token")),
    # Blocks, and SignedHadamard inside of none.
    "op2_blocks": Case("60b106a", export=("--planes", "2", "--group-size", "32"), model=True),
}


def logits_of(model: Path, *, library: bool) -> np.ndarray:
    """The logits behind each token of PROMPT, float32 [token, vocabulary]."""
    decoder = Decoder.load(model, library=library)
    decoder.start(len(PROMPT))
    return np.stack([np.array(decoder.step([token]), np.float32).ravel() for token in PROMPT])


def write_model(folder: Path) -> None:
    """Write the model: one layer of Llama's kind, whose weights are bytes of a hash, scaled."""
    layer = "model.layers.0"
    shapes = {"model.embed_tokens": (_V, _H), "model.norm": (_H,), f"{layer}.mlp.down_proj": (_H, _I)}
    shapes |= {f"{layer}.self_attn.{name}_proj": (_H, _H) for name in "qo"}
    shapes |= {f"{layer}.self_attn.{name}_proj": (_D, _H) for name in "kv"}
    shapes |= {f"{layer}.mlp.{name}_proj": (_I, _H) for name in ("gate", "up")}
    shapes |= {f"{layer}.{name}_layernorm": (_H,) for name in ("input", "post_attention")}
    folder.mkdir(parents=True)
    tensors = {f"{name}.weight": _weight(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    config |= {"vocab_size": _V, "hidden_size": _H, "intermediate_size": _I, "head_dim": _D, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    config |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float16"}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tokenizer(folder)


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    stream = hashlib.shake_128(name.encode()).digest(2 * int(np.prod(shape)))
    values = np.frombuffer(stream, "<u2").reshape(shape) / 32768 - 1
    return (0.2 * values if len(shape) == 2 else 1 + 0.1 * values).astype(np.float16)


def make(name: str, out: Path) -> None:
    """Write the files of a case into `out`, which does not exist."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        tree = _tree(case.commit, work / "tree")
        write_model(work / "source")
        (work / "text.txt").write_text(_TEXT, encoding="utf-8")
        source = "checkpoint" if case.calib else "source"
        commands = [["calib", "source", "checkpoint", *case.calib, "--device", "cpu", "--quiet"]] if case.calib else []
        commands.append(["exporter", source, "export/model.onnx", *case.export, "--quiet"])
        for layout in case.layouts:
            commands.append(["exporter", source, f"{layout}/model.onnx", *case.export, "--layout", layout, "--quiet"])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        runner = [sys.executable, "-c", _RUNNER, str(tree), json.dumps(commands)]
        subprocess.run(runner, cwd=work, env=environment, check=True)
        kept = work / ("export" if case.model else source)
        np.save(kept / "expected.npy", logits_of(work / "export" / "model.onnx", library=False))
        if case.layouts:
            digests = {
                layout: hashlib.sha256((work / layout / "model.onnx.data").read_bytes()).hexdigest()
                for layout in case.layouts
            }
            (kept / "layouts.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        out.mkdir(parents=True)
        for file in (*_KEPT, "expected.npy", "layouts.json"):
            if (kept / file).is_file():
                shutil.copyfile(kept / file, out / file)


def _tree(commit: str, folder: Path) -> Path:
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "-o", archive, commit], cwd=ROOT, check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def _command(args: argparse.Namespace) -> None:
    wrong = [name for name in args.names if name not in CASES]
    if wrong:
        raise InputError(f"expected some of {', '.join(CASES)}, got {wrong[0]}")
    made = []
    for name in args.names or CASES:
        if not (FOLDER / name).exists():
            make(name, FOLDER / name)
            made.append(name)
    print(json.dumps({"made": made}) if args.json else f"made: {', '.join(made) or 'nothing, all are there'}")


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.golden", description="Files as each version wrote them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(CASES)} (default: all)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
