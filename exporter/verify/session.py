"""The exported file in ONNX Runtime, fed as a host feeds it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from dualbinary import DualBinaryError
from dualbinary.files.cache_names import present_name
from exporter.verify.cases import Case

__all__ = ["ExportedModel"]

_CUDA = "CUDAExecutionProvider"
_CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


class ExportedModel:
    """A session of the file on the provider that it was made for, where ONNX Runtime has that here, else on the CPU.

    Attributes:
        provider: "cpu" or "cuda".
        width: length of the logits.
        last: True where the file gives the logits of the last token alone.
    """

    def __init__(self, out: Path, library: Path | None, target: str) -> None:
        """Load `out` with the `library`, None for the function. Raises DualBinaryError where that fails."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # PyTorch computes in between
        providers: list[Any] = ["CPUExecutionProvider"]
        if target == "cuda" and _CUDA in ort.get_available_providers():
            providers.insert(0, (_CUDA, {"use_tf32": "0"}))
        try:
            if library is not None:
                options.register_custom_ops_library(str(library))
            self._session = ort.InferenceSession(str(out), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own exceptions share no narrower base
            raise DualBinaryError(f"{out}: ONNX Runtime cannot load it for --check: {error}") from error
        self.provider = "cuda" if _CUDA in self._session.get_providers() else "cpu"
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._presents = {name: present for name in self._inputs if (present := present_name(name)) is not None}
        self._outputs = [value.name for value in self._session.get_outputs()]
        shape = next(value.shape for value in self._session.get_outputs() if value.name == "logits")
        self.width, self.last = int(shape[-1]), shape[1] == 1

    def logits(self, case: Case, restart: int | None) -> list[np.ndarray]:
        """Logits [T, V] for each row of `case`: of its prompt, as the file gives them, then of each step.

        A sequence that grows beyond `restart` tokens is fed anew, as transformers and our host do.
        """
        mask = np.stack([np.arange(case.prompt + case.steps) >= padding for padding in case.padding]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(case.rows)
        found, past = self._run(ids[:, : case.prompt], mask[:, : case.prompt], None)
        rows = [[logits[-(case.prompt - padding) :]] for logits, padding in zip(found, case.padding, strict=True)]
        for end in range(case.prompt + 1, mask.shape[1] + 1):
            again = restart is not None and end == restart + 1
            begin = 0 if again else end - 1
            found, past = self._run(ids[:, begin:end], mask[:, :end], None if again else past)
            for row, logits in zip(rows, found, strict=True):
                row.append(logits[-1:])
        return [np.concatenate(parts).astype(np.float32) for parts in rows]

    def _run(
        self, ids: np.ndarray, mask: np.ndarray, past: dict[str, np.ndarray] | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits and cache after the new tokens `ids` [B, S]; `mask` [B, T] covers those in the cache as well."""
        if past is None:
            past = {name: self._empty(name, len(ids)) for name in self._presents}
        feeds = {"input_ids": ids, "attention_mask": mask, **past}
        if "position_ids" in self._inputs:
            feeds["position_ids"] = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        outputs = dict(zip(self._outputs, map(np.asarray, self._session.run(None, feeds)), strict=True))
        return outputs["logits"], {name: outputs[present] for name, present in self._presents.items()}

    def _empty(self, name: str, batch: int) -> np.ndarray:
        value = self._inputs[name]
        sizes = (size if isinstance(size, int) else 0 for size in value.shape[1:])
        return np.zeros((batch, *sizes), _CACHE_TYPES[value.type])
