"""Presets: whole configurations under a name. docs/methods.md has the measurements that chose their values."""

from typing import Any

from calib.config import CalibConfig

__all__ = ["DEFAULTS", "PRESETS", "Preset", "preset"]

DEFAULTS = {"fdb": "fast", "qbb": "qbb"}  # by method


# What is learned from one kind of text holds on that kind alone: half of the windows the model writes itself, or all
# where no text is given; no more than are used.
WRITTEN = {"generate": 1024}


class Preset:
    """A configuration and its purpose."""

    def __init__(self, text: str, **changes: Any) -> None:
        self.text = text
        self.config = CalibConfig.from_json(changes, "preset")


PRESETS = {
    "fast": Preset(
        "the default: 2.5 bits where they count, by distillation",
        format={"bits": 2.5},
        data=WRITTEN,
    ),
    "quick": Preset(
        "the weight initialization alone, in minutes, 3.5 bits where they count; for --bits and any --planes",
        stages=["init"],
        format={"bits": 3.5},
        init={"windows": 16, "refits": 1},
    ),
    "best": Preset(
        "a more thorough initialization and three times the steps, for what more text still gives",
        format={"bits": 2.5},
        data=WRITTEN,
        init={"windows": 128, "refits": 4, "polishes": 2},
        block={"windows": 192},
        e2e={"steps": 1000, "held_out": 16, "evaluate_every": 100},
    ),
    "gpu": Preset(
        "best with batches that fill a large GPU; `make gpu-calibrate` chooses the steps that there is time for",
        format={"bits": 2.5},
        init={"windows": 128, "refits": 4, "polishes": 2},
        block={"windows": 192},
        e2e={"steps": 4000, "batch": 8, "micro_batch": 8, "held_out": 16, "evaluate_every": 100},
    ),
    "paper": Preset(
        "DB-LLM as far as it is published: groups of 64 without offset, its initialization, text that the model writes,"
        " deviation-aware distillation with gamma 0.5",
        stages=["init", "e2e"],
        format={"planes": 2, "group_size": 64, "offset": False},
        data={"generate": 1024},
        init={"method": "paper"},
        e2e={"steps": 1000, "scale_rate": 0.001, "kl": 1.0, "dad": 1.0, "gamma": 0.5, "latent_rate": 0.0005},
    ),
    "qbb": Preset(
        "three bases, in groups of 64, by the closed form, then distillation on text that the model writes",
        stages=["init", "layer", "e2e"],
        format={"method": "qbb", "planes": 3, "group_size": 64},
        data={"generate": 256},
        init={"method": "cascaded"},
    ),
    "qbb-paper": Preset(
        "QBB as far as it is published: four bases, a scale for each output, one basis after another by gradients",
        stages=["init", "layer", "e2e"],
        format={"method": "qbb", "planes": 4, "group_size": -1},
        data={"generate": 256},
        init={"method": "cascaded"},
        layer={"solver": "iterative"},
    ),
}


def preset(name: str) -> CalibConfig:
    """The configuration of this name, one of PRESETS."""
    return PRESETS[name].config
