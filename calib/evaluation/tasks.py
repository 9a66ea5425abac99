"""Tasks of lm-evaluation-harness for what calib measures: torch models here, ONNX files in a child process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from calib.data.windows import load_tokenizer
from calib.evaluation.measure import Answering
from calib.evaluation.subjects import OnnxFile, Subject
from dualbinary import DualBinaryError
from dualbinary.evaluation.figures import TaskFigure
from dualbinary.evaluation.tasks import TaskOptions, check_tasks, run_tasks, task_words

__all__ = ["answering"]

BATCH = 8  # requests at a time: more gain little on a CPU, and logits take T * V numbers of each


def answering(directory: Path, options: TaskOptions, dtype: torch.dtype, *, progress: bool) -> Answering:
    """What runs the tasks of `options`; the full-precision model and its checkpoints have the tokenizer of `directory`.

    Raises InputError where the harness is not installed, or has not these tasks.
    """
    check_tasks(options)

    def answer(subject: Subject | None, model: Module | None) -> tuple[TaskFigure, ...]:
        if isinstance(subject, OnnxFile):
            return _in_child(subject.path, options, progress)
        from lm_eval.models.huggingface import HFLM

        tokenizer = load_tokenizer(directory if subject is None or subject.shares else subject.path)
        precision = None if dtype == torch.float32 else dtype
        kind: Any = HFLM  # whose decorator hides its arguments
        settings = {"backend": "causal", "batch_size": BATCH, "mixed_precision_dtype": precision}
        return run_tasks(lambda: kind(model, tokenizer=tokenizer, **settings), options, progress=progress)

    return answer


def _in_child(path: Path, options: TaskOptions, progress: bool) -> tuple[TaskFigure, ...]:
    """Those of an exported model. Ends this process with the child's exit code where it fails: it has said why."""
    words = [sys.executable, "-m", "runtime_ext", "eval", str(path), "--json", *task_words(options)]
    done = subprocess.run([*words, *([] if progress else ["--quiet"])], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode < 0:
        raise DualBinaryError(f"python -m runtime_ext eval was ended by signal {-done.returncode}; is memory short?")
    if done.returncode:
        sys.exit(done.returncode)
    return tuple(TaskFigure(**figure) for figure in json.loads(done.stdout)["models"][0]["tasks"])
