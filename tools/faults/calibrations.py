"""Calibrations of a tiny model that take a second or two: one for each preset, and for the stages that presets lack."""

from dataclasses import dataclass
from pathlib import Path

import torch

from calib.__main__ import main as calibrate
from tools.faults.forked import Command

__all__ = ["CASES", "Calibration", "main"]


def main(words: list[str]) -> int:
    """The command on one thread: the matrices are too small for more."""
    torch.set_num_threads(1)
    return calibrate(words)


_SHORT = "--length 16 --device cpu --seed 3 --quiet"
_DATA = "--generate 8 --init-windows 3"
_BLOCK = "--init-refits 1 --init-polishes 1 --block-windows 3 --block-held-out 2"
_E2E = "--e2e-steps 4 --e2e-batch 2 --e2e-held-out 2 --e2e-evaluate-every 2"
_ONE = "--group-size 32"  # a format in place of a preset's budget


@dataclass(frozen=True)
class Calibration:
    """The options of a run; `processes` share its distillation."""

    name: str
    options: str
    processes: int = 1

    def commands(self, model: Path, out: Path, port: int, extra: tuple[str, ...] = ()) -> list[Command]:
        """One command for each process. Those of several meet at `port`."""
        words = [model, out, *self.options.split(), *_SHORT.split(), *extra]  # a later option wins
        if self.processes == 1:
            return [Command(main, words)]
        shared = {"WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(self.processes)]
        return [Command(main, words, shared | rank) for rank in ranks]


CASES = (
    Calibration("fast", f"--preset fast {_DATA} {_BLOCK} {_E2E}"),
    Calibration("quick", "--preset quick --generate 6 --init-windows 4"),
    Calibration("best", f"--preset best {_DATA} {_BLOCK} --init-refits 4 --init-polishes 2 {_E2E}"),
    Calibration("paper", f"--preset paper {_DATA} {_E2E}"),
    Calibration("qbb", f"--preset qbb {_DATA} --layer-rounds 3 {_E2E}"),
    Calibration("qbb-paper", f"--preset qbb-paper {_DATA} --layer-steps 3 {_E2E}"),
    Calibration("tables", f"--preset fast {_DATA} {_ONE} {_BLOCK} {_E2E} --embedding-bits 4"),
    Calibration("rotate", f"--preset fast {_DATA} {_ONE} {_BLOCK} {_E2E} --rotate 32"),
    Calibration("keep", f"--preset fast {_DATA} {_ONE} {_BLOCK} {_E2E} --keep 5"),
    Calibration("latents", f"--preset fast {_DATA} {_ONE} {_BLOCK} {_E2E} --e2e-latent-rate 0.001 --e2e-swap 0.3"),
    Calibration("two processes", f"--preset fast {_DATA} {_BLOCK} {_E2E} --keep 5", processes=2),
)
