"""`python -m runtime_ext.evaluation.harness ...`: the command `lm_eval`, which knows the model `dualbinary` here.

    python -m runtime_ext.evaluation.harness run --model dualbinary --model_args path=out/model.onnx --tasks hellaswag

The harness finds models of other packages only where something imports them before it starts; this module is that.
"""

import sys

from dualbinary import InputError

__all__ = ["main"]


def main() -> int:
    """Run `lm_eval` with the arguments of this process; its own exits end the process."""
    try:
        from lm_eval.__main__ import cli_evaluate

        import runtime_ext.evaluation.language_model  # noqa: F401 - registers the model
    except ImportError as error:
        print(f"error: {error}; pip install 'dualbinary[tasks]' has what is needed", file=sys.stderr)
        return 1
    try:
        cli_evaluate()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
