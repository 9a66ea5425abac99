"""Large synthetic models, peak memory and perplexity of the benchmarks: the only way from other tests to benchmarks.

For the tests of memory in calib and exporter, and for those of whole models in e2e.
"""

from benchmarks.common.peak_memory import run_measured
from benchmarks.common.synthetic_llama import LlamaShape, write_llama
from benchmarks.models.perplexity import perplexity

__all__ = ["LlamaShape", "perplexity", "run_measured", "write_llama"]
