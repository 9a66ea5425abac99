"""`python -m calib --plan` held against runs: seconds of each stage on models of three kinds with random weights.

    python -m studies.plan_accuracy [--models deep words wide] [--steps N] [--windows N]

The models have a few blocks and the runs a few steps, because every block and every step takes as long as the others.
Both sides count processor time of one thread, so that other work on the machine changes little.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from calib.config import CalibConfig
from calib.pipeline import run as calibrate
from calib.plan import make_plan
from calib.presets import PRESETS, preset
from dualbinary.cli.console import add_common_options, run

__all__ = ["MODELS"]

TOKENS = 2000  # that the text is made of; the vocabulary is as large as the model says

MODELS: dict[str, dict[str, Any]] = {
    "deep": {  # SmolLM2-135M, with 3 of 30 blocks
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 3,
    },
    "words": {  # Gemma 3 270M, with 2 of 18 blocks
        "model_type": "gemma3_text",
        "vocab_size": 262144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_hidden_layers": 2,
    },
    "wide": {  # Llama 3.2 1B, with 2 of 16 blocks and a smaller vocabulary
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 2,
    },
}


def _make(name: str, directory: Path) -> Path:
    """A model directory with random weights and a tokenizer of whole words."""
    values = {"tie_word_embeddings": True, "max_position_embeddings": 4096, **MODELS[name]}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values))
    model.to(torch.bfloat16).save_pretrained(directory)
    words = Tokenizer(WordLevel({str(number): number for number in range(TOKENS)}, unk_token="0"))
    words.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
    return directory


def _config(args: argparse.Namespace, text: Path) -> CalibConfig:
    values = preset(args.preset).to_json()
    values["data"] |= {"text": [str(text)], "generate": 0, "keep": 0}
    values["init"]["windows"] = values["block"]["windows"] = args.windows
    values["block"]["held_out"] = 2
    values["e2e"] |= {"steps": args.steps, "held_out": 1, "evaluate_every": args.steps}
    return CalibConfig.from_json(values, args.preset)


def _compare(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        model, text = _make(name, Path(scratch) / name), Path(scratch) / "text.txt"
        text.write_text(" ".join(str(number % TOKENS) for number in range(100_000)))
        config = _config(args, text)
        with mock.patch("time.perf_counter", time.process_time):
            planned = make_plan(model, config, "cpu").stages
            record = calibrate(model, Path(scratch) / "out", config).record
    seconds = {stage: record["seconds"][stage] for stage in planned}
    return [
        {"model": name, "stage": stage, "planned": planned[stage].seconds, "taken": taken}
        for stage, taken in seconds.items()
    ]


def _command(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = [row for name in args.models for row in _compare(name, args)]
    if args.json:
        print(json.dumps(rows))
        return
    print("| model | stage | planned, s | taken, s | planned / taken |\n| --- | --- | ---: | ---: | ---: |")
    for row in rows:
        figures = f"{row['planned']:.1f} | {row['taken']:.1f} | {row['planned'] / row['taken']:.2f}"
        print(f"| {row['model']} | {row['stage']} | {figures} |")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.plan_accuracy", description="What --plan says beside what a run takes."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(default all)")
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--steps", type=int, default=4, help="of distillation (default 4)")
    parser.add_argument("--windows", type=int, default=8, help="of init and block (default 8)")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
