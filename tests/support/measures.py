"""Large synthetic models, peak memory, perplexity and prompts of benchmarks: the only way from other tests to those.

For the tests of memory in calib and exporter, and for those of whole models in e2e.
"""

from benchmarks.common.peak_memory import run_measured
from benchmarks.common.synthetic_llama import LlamaShape, write_llama
from benchmarks.models.perplexity import perplexity
from benchmarks.models.speculate import read_prompts

__all__ = ["LlamaShape", "perplexity", "read_prompts", "run_measured", "write_llama"]
