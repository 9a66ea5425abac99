"""Quantize a GGUF file by llama.cpp's own quantizer; runs in the peers' environment.

    python -m benchmarks.models.gguf_quantize IN.gguf OUT.gguf Q2_K|TQ2_0|Q4_0

Every matrix, vocabulary tables too, gets the named type (`pure`): llama.cpp's usual mixture of types is larger and
slower. Rows that a type's quantization block does not divide get the type
that llama.cpp falls back to.
"""

import argparse
import ctypes
import importlib
import sys


def main(source: str, target: str, kind: str) -> int:
    """Write the file and return the exit code, 0 for success."""
    llama_cpp = importlib.import_module("llama_cpp")  # which the project's own environment lacks
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.pure = True
    options.nthread = 2
    return llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.gguf_quantize", description="Quantize a model.")
    parser.add_argument("source", metavar="IN.gguf")
    parser.add_argument("target", metavar="OUT.gguf")
    parser.add_argument("kind", metavar="TYPE", help="of llama.cpp, such as Q4_0")
    args = parser.parse_args()
    sys.exit(main(args.source, args.target, args.kind))
