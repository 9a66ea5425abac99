"""A calibrated tiny model, for the tests of reports: planes fitted without data, and a record as a run writes it."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from calib.config import CalibConfig
from calib.layers import quant_linears
from calib.measure import layer_statistics
from calib.models.source import SourceModel
from calib.report.record import RECORD_FILE, write_record
from calib.save import save_checkpoint
from calib.weight_init.data_free import closed_form
from dualbinary.cli.version import package_version
from dualbinary.contract.weight import PlaneFormat, PlaneWeight
from tests.support.tiny_models import make_model

FORMAT = PlaneFormat(2, 64, offset=True)
HIDDEN, VOCABULARY = 128, 256


class Run:
    """A model directory with a tokenizer of bytes, its fitted layers as (planes, scales) by name, and the record."""

    def __init__(self, directory: Path) -> None:
        self.model = make_model("llama", directory)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
        self.source = SourceModel(self.model, FORMAT)
        self.source.load(self.source.model)
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self.source.linears.items():
            state = closed_form(layer.weight, FORMAT, name)
            self.layers[name] = state.planes, state.scales.half()
        self.record = self._record()

    def save(self, directory: Path) -> Path:
        """Write the checkpoint with its record to `directory`."""
        file = directory.with_name(RECORD_FILE)
        write_record(file, self.record)
        save_checkpoint(self.source, directory, self._weight, record=file)
        file.unlink()
        return directory

    def _weight(self, name: str) -> PlaneWeight:
        planes, scales = self.layers[name]
        return PlaneWeight(planes.numpy(), scales.numpy(), self.source.linears[name].in_features, FORMAT)

    def _record(self) -> dict[str, Any]:
        """Figures that are true, and losses that are made up."""
        random = torch.Generator().manual_seed(0)
        blocks = []
        for index, (name, block) in enumerate(self.source.blocks):
            figures = {}
            for layer in quant_linears(block):
                planes, scales = self.layers[layer.name]
                x = torch.randn(300, layer.in_features, generator=random)
                figures[layer.name] = {
                    "init": layer_statistics(layer.weight, planes, scales * 0.9, 64, x.T @ x),
                    "block": layer_statistics(layer.weight, planes, scales, 64, x.T @ x),
                    "e2e": layer_statistics(layer.weight, planes, scales * 1.01, 64, None),
                }
            errors = {"error_before": 0.3 + index, "error_after": 0.2}
            blocks.append({"name": name, "seconds": 1.5, **errors, "layers": figures})
        curve = [
            {"step": step, "tokens": 64 * step, "seconds": 0.5 * step}
            | ({"loss": 3 - step / 10, "kl": 1.0, "ce": 3.0} if step else {})
            | ({"held_out": {"loss": 2.5 - step / 10, "kl": 0.9, "ce": 3.1}} if step % 5 == 0 else {})
            for step in range(11)
        ]
        return {
            "version": 1,
            "dualbinary": package_version(),
            "config": CalibConfig().to_json(),
            "model": {
                "name": "llama",
                "parameters": 500_000,
                "quantised_parameters": sum(layer.weight.numel() for layer in self.source.linears.values()),
                "hidden": HIDDEN,
                "vocabulary": VOCABULARY,
                "bits_per_weight": 2.75,
            },
            "data": {"length": 32, "text_windows": 9, "files": [{"name": "a.txt", "tokens": 99}]},
            "blocks": blocks,
            "e2e": {"curve": curve, "best_step": 10, "first_loss": 2.5, "best_loss": 1.5, "seconds": 4.0},
            "seconds": {"data": 0.1, "init+block": 3.0, "e2e": 4.0},
        }


class Page(HTMLParser):
    """An HTML page in parts: tags, attributes and texts. Refuses tags that do not close."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag that others may follow inside of it."""
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take a tag."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Take text, entities resolved."""
        self.texts.append(data)
