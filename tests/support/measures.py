"""Large synthetic models, peak memory and prompts of benchmarks, the only way from other tests to those; perplexity.

For the tests of memory in calib and exporter, and for those of whole models in e2e.
"""

import math

import numpy as np
import numpy.typing as npt

from benchmarks.common.peak_memory import run_measured, watched
from benchmarks.common.synthetic_llama import LlamaShape, write_llama
from benchmarks.models.speculate import read_prompts
from runtime_ext.decoder import Decoder
from runtime_ext.evaluation.scoring import window_nll

__all__ = ["LlamaShape", "perplexity", "read_prompts", "run_measured", "watched", "write_llama"]


def perplexity(decoder: Decoder, windows: npt.NDArray[np.int64]) -> float:
    """That of all tokens of `windows`, int64 [windows, length], but the first of each."""
    return math.exp(np.mean(window_nll(decoder, windows)))
