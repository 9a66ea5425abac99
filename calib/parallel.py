"""Several processes that train one model: each takes a share of every batch, and perhaps holds a share of the weights.

    accelerate launch --num_processes 4 -m calib ...               each process holds the whole model
    accelerate launch --num_processes 4 --use_fsdp -m calib ...    each holds a part of every block (FSDP2)

The loss of a batch is a mean over its windows, so the shares add up to what one process alone computes, but for
rounding. What lies outside the decoder's blocks, embeddings and head, is whole in every process.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Self

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dualbinary import DualBinaryError, InputError

__all__ = ["ALONE", "Team"]

# The first process calibrates the blocks while the others wait for it.
PATIENCE = timedelta(days=30)


class Team:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this process, 0 .. size - 1; the first one reads, writes and speaks for all.
        size: their number.
        device: of this process, "cpu", "mps" or "cuda:<index>".
        sharded: the blocks' parameters are split over the processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu", *, sharded: bool = False) -> None:
        self.rank, self.size, self.device, self.sharded = rank, size, device, sharded

    @classmethod
    def launched(cls, device: str | None = None) -> Self:
        """The team that `accelerate launch` started this process in; alone without it. `with` ends it.

        `device` is the user's wish; none: the best there is. Raises InputError where it is not there.
        """
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        wanted = device or next(kind for kind, there in present.items() if there)
        kind = wanted.partition(":")[0]
        if not present.get(kind, True):
            raise InputError(f"--device {wanted}: PyTorch sees no such device on this machine")
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=wanted)
        state = PartialState(cpu=kind == "cpu", timeout=PATIENCE)
        sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
        return cls(state.process_index, state.num_processes, str(state.device), sharded=sharded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the team, which is done or fails: peers that still wait for this process learn it at once.

        After an error, NCCL alone is left to the end of the process: its own end waits for peers, which may be gone.
        """
        if self.size > 1 and (kind is None or dist.get_backend() == "gloo"):
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Say that this process is the one that speaks for all."""
        return self.rank == 0

    def share(self, windows: Tensor) -> Tensor:
        """This process's part of a batch, whose length is a multiple of the team's size."""
        return windows[self.rank :: self.size]

    def shard(self, block: nn.Module) -> None:
        """Keep this process's part of the parameters of `block`, which is loaded and on the device, if sharded."""
        if self.sharded:
            fully_shard(block, mesh=self._mesh)

    def join(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Make sharded `blocks` fetch their parameters one ahead of another; all else in `model` stays whole."""
        if self.sharded:
            inside = {id(parameter) for block in blocks for parameter in block.parameters()}
            outside = {parameter for parameter in model.parameters() if id(parameter) not in inside}
            fully_shard(model, mesh=self._mesh, ignored_params=outside)

    @cached_property
    def _mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.partition(":")[0], (self.size,))

    @property
    def loss_factor(self) -> int:
        """The factor of the gradient of a process: sharding takes the mean where others take the sum."""
        return self.size if self.sharded else 1

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all processes; sharded ones are summed already."""
        if self.size > 1 and not self.sharded:
            with _together():
                for parameter in parameters:
                    dist.all_reduce(parameter.grad)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums of the values of all processes."""
        if self.size == 1:
            return list(values)
        kind = torch.float32 if self.device == "mps" else torch.float64
        summed = torch.tensor(values, dtype=kind, device=self.device)
        with _together():
            dist.all_reduce(summed)
        return summed.tolist()

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            with _together():
                dist.barrier()

    @staticmethod
    def whole(value: Tensor) -> Tensor:
        """All of a tensor that may be split, on the CPU; every process must ask."""
        value = value.detach()
        return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()

    @staticmethod
    @torch.no_grad()
    def assign(target: Tensor, value: Tensor) -> None:
        """Give `target`, which may be split, the values of the whole tensor `value`."""
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)


@contextmanager
def _together() -> Iterator[None]:
    """Within it, processes wait for one another. Raises DualBinaryError where one of them is gone."""
    try:
        yield
    except RuntimeError as error:  # of gloo or NCCL
        why = " ".join(str(error).split())
        raise DualBinaryError(
            f"another process of this run ended, and says itself why ({why[:200]}); the same command goes on from "
            "what is done"
        ) from error


ALONE = Team()
