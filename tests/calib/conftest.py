"""Fixtures of calibration's tests: tiny model directories, tokens, and blockwise calibration of a tiny model."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calib import plan_parts
from calib.config import BlockConfig, CalibConfig, FormatConfig, InitConfig
from calib.models.source import SourceModel
from calib.rotation import random_rotation
from calib.scale_parameters import scale_type, stored_array
from calib.stages.blockwise import calibrate_blockwise
from calib.stages.blockwise_results import BlockwiseResults
from calib.stages.context import RunContext
from calib.state import WorkDirectory
from dualbinary.contract.weight import PlaneWeight
from tests.support.tiny_models import VOCABULARY, make_model


@pytest.fixture(scope="session", autouse=True)
def _plans_try_once():
    """What a plan measures it measures once: its figures are for nobody here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_parts, "ENOUGH", 1e-9)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A tiny model directory by name, made once; not to be changed."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def get(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = make_model(name, tmp_path_factory.mktemp("models") / name, dtype=dtype)
        return made[name, dtype]

    return get


@pytest.fixture(scope="session")
def random_tokens():
    """Windows [count, length] of random tokens."""

    def get(count: int, length: int, seed: int = 0) -> Tensor:
        return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))

    return get


@dataclass(frozen=True)
class BlockwiseRun:
    """Results of blockwise calibration: the model, its reports without times, stored planes and scales by layer."""

    source: SourceModel
    reports: list[dict[str, Any]]
    layers: dict[str, tuple[Tensor, Tensor]]

    def weight(self, name: str) -> PlaneWeight:
        """The stored weight of a layer."""
        planes, scales = self.layers[name]
        layer = self.source.linears[name]
        return PlaneWeight(planes.numpy(), stored_array(layer.format, scales), layer.in_features, layer.format)


@pytest.fixture(scope="session")
def blockwise_config():
    """A small configuration of blockwise calibration; keywords change it.

    It begins with the fit of the weights alone: one that looks at inputs takes twice as long as all the rest.
    """

    def get(**changes: Any) -> CalibConfig:
        values: dict[str, Any] = {
            "stages": ("init", "block"),
            "format": FormatConfig(planes=2, group_size=64, offset=True),
            "init": InitConfig(method="fit"),
            "block": BlockConfig(windows=6, held_out=3, batch=2),
            "dtype": "float32",
        }
        return CalibConfig(**{**values, **changes})

    return get


@pytest.fixture(scope="session")
def calibrated_blocks(blockwise_config, tmp_path_factory):
    """Calibrate the blocks of a model directory as a new process would, and read the results."""

    def run(directory: Path, tokens: Tensor | None, *, path: Path | None = None, **options: Any) -> BlockwiseRun:
        config = options.pop("config", None) or blockwise_config()
        initial, progress = options.pop("initial_weights", None), options.pop("progress", lambda *_, **__: None)
        dtype = options.pop("dtype", torch.float32)
        rotation_of = partial(random_rotation, limit=config.format.rotate, seed=config.seed)
        source = SourceModel(directory, config.format.layer_formats, config.skip, rotation_of)
        with WorkDirectory(path or tmp_path_factory.mktemp("work"), config.to_json(), **options) as work:
            context = RunContext(
                source, config, work, dtype, progress=lambda _, *told, **figures: progress(*told, **figures)
            )
            calibrate_blockwise(context, tokens, initial_weights=initial)
            found = BlockwiseResults(source, work)
            layers = {}
            for name, layer in source.linears.items():
                found.restore(layer)
                layers[name] = layer.current_planes(), layer.stored_scales.detach().to(scale_type(layer.format))
            reports = [{**report, "seconds": None} for report in found.reports()]
        return BlockwiseRun(source, reports, layers)

    return run
