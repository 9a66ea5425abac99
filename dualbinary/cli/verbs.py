"""The verbs of `dualbinary`, and the modules that each of them runs."""

from dataclasses import dataclass

__all__ = ["VERBS", "Verb"]


@dataclass(frozen=True)
class Verb:
    """A module that is run.

    Attributes:
        module: its name.
        arguments: what it gets before the user's.
        extra: of the distribution, with what the module imports; empty where the base has it all.
        text: what it does.
        parser: "module:function" that gives its command line; the function `parser` of its __main__ where empty.
    """

    module: str
    arguments: tuple[str, ...]
    extra: str
    text: str
    parser: str = ""


VERBS = {
    "quantize": Verb("calib", (), "calib", "train a model to two bits per weight"),
    "report": Verb(
        "calib", ("report",), "calib", "what a training did, layer by layer; pictures", "calib.report.command:parser"
    ),
    "eval": Verb(
        "calib",
        ("eval",),
        "calib",
        "how good models are, how far from full precision",
        "calib.evaluation.command:parser",
    ),
    "export": Verb("exporter", (), "export", "turn a Hugging Face model directory into an ONNX file"),
    "import": Verb("importer", (), "export", "make a checkpoint of a low-bit model of another tool"),
    "convert": Verb(
        "importer.convert", (), "export", "write such a model for llama.cpp or as GPTQ, its levels as they are"
    ),
    "inspect": Verb("importer.inspect", (), "export", "say what a model, a checkpoint or an exported file is"),
    "relayout": Verb("dualbinary.onnx_files.relayout", (), "relayout", "change the stored layout of an exported model"),
    "generate": Verb("runtime_ext", ("generate",), "", "continue a prompt with an exported model"),
    "chat": Verb("runtime_ext", ("chat",), "", "talk to an exported model at the terminal"),
    "serve": Verb("runtime_ext", ("serve",), "serve", "answer requests of the OpenAI API with an exported model"),
    "bench": Verb("runtime_ext", ("bench",), "", "measure an exported model"),
    "info": Verb("runtime_ext", ("info",), "", "describe the runtime library and this machine"),
    "doctor": Verb("runtime_ext", ("doctor",), "", "say what this machine runs a model with, and what is wrong"),
    "bundle": Verb("dualbinary.bundle", (), "", "lay the libraries of other systems beside an exported model"),
    "completion": Verb(
        "dualbinary.cli.completion", (), "completion", "print what makes a shell complete all of this at the Tab key"
    ),
}
