"""Peak memory of blockwise calibration: that of one block."""

import subprocess
import sys

import pytest

from tests.support.measures import LlamaShape, write_llama

ONE_BLOCK = """
import sys
from pathlib import Path
import torch
from calib.config import BlockConfig, CalibConfig, InitConfig
from calib.models.source import SourceModel
from calib.stages.blockwise import calibrate_blockwise
from calib.stages.context import RunContext
from calib.state import WorkDirectory

directory, work = map(Path, sys.argv[1:])
init, block = InitConfig(windows=2, refits=0, polishes=0), BlockConfig(windows=2, held_out=1)
config = CalibConfig(stages=("init", "block"), init=init, block=block, dtype="float32")

def progress(stage, done, total, **figures):
    if not figures:  # after a block
        print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        sys.exit()

source = SourceModel(directory, config.format.plane_format)
tokens = torch.randint(0, 32000, (3, 512))
with WorkDirectory(work, {}) as opened:
    calibrate_blockwise(RunContext(source, config, opened, torch.float32, progress=progress), tokens)
"""


@pytest.mark.slow
def test_peak_memory_is_that_of_one_block(tmp_path):
    """A llama of 1.1 billion weights, were it whole; two of its blocks are enough to leave one behind."""
    shape = LlamaShape(layers=2, hidden=2048, intermediate=5632, vocabulary=32000, heads=32, kv_heads=4)
    directory = write_llama(tmp_path / "model", shape)
    command = [sys.executable, "-c", ONE_BLOCK, str(directory), str(tmp_path / "work")]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    # 44 million weights in float32 are 0.18 GB, and there are about eight such things at a time: weights, latents,
    # gradients, Adam's two averages, and what the quantizer keeps for the way back. Python with torch takes 0.4 GB, the
    # embedding 0.3 GB for a while, and the rest is room for temporaries and for an allocator that gives nothing back.
    assert int(output) * 1024 < 4e9
