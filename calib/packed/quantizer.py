"""The method "dualbinary" of transformers: what from_pretrained and save_pretrained ask."""

import copy
from pathlib import Path
from typing import Any

from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from dualbinary import InputError
from dualbinary.checkpoint import MODULE_PARTS, QUANT_METHOD, QuantizationConfig, stored_tensors

__all__ = ["DualBinaryConfig", "DualBinaryQuantizer"]


class DualBinaryConfig(QuantizationConfigMixin):
    """The block "quantization_config" of a checkpoint's config.json, kept as it is there."""

    def __init__(self, **block: Any) -> None:
        """Raise InputError where a key or a value is not one of the checkpoint's (dualbinary.checkpoint)."""
        self.quant_method: Any = QUANT_METHOD
        self.quantization = QuantizationConfig.from_dict(block)
        self._block = block

    def to_dict(self) -> dict[str, Any]:
        """The block."""
        return copy.deepcopy(self._block)


class DualBinaryQuantizer(HfQuantizer):
    """Puts packed modules into a model before its tensors are read, and saves them as they are."""

    requires_calibration = True
    quantization_config: DualBinaryConfig

    def __init__(self, quantization_config: DualBinaryConfig, **kwargs: Any) -> None:
        """Raise InputError for a model that is not a checkpoint: nothing is quantized here."""
        if not kwargs.get("pre_quantized", True):
            raise InputError(
                "quantization_config: expected none, as the method dualbinary does not quantize while it loads; "
                "`dualbinary quantize MODEL_DIR CHECKPOINT` makes a checkpoint to load"
            )
        super().__init__(quantization_config, **kwargs)
        self._stored: tuple[str, ...] = ()

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from calib.packed.model import pack_modules  # torch, and all of it

        files = kwargs.get("checkpoint_files")
        if not files or not all(str(file).endswith(".safetensors") for file in files):
            raise InputError("a checkpoint of dualbinary is loaded from its directory of safetensors files")
        tensors = stored_tensors(Path(files[0]).parent)
        self._stored = tuple(tensors)
        pack_modules(model, self.quantization_config.quantization, tensors, model.config.dtype)
        return model

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """None, as it is, for the tensors of a packed weight; else what transformers says."""
        names = getattr(converter, "target_patterns", ())
        if any(name.rpartition(".")[2] in MODULE_PARTS for name in names):
            return None
        return super().get_new_dtype(converter, param, dtype)

    def get_state_dict_and_metadata(self, model: Any) -> Any:
        """The tensors under the names that the files had, which config.json speaks of."""
        from calib.packed.model import stored_names

        tensors = model.state_dict()
        names = stored_names(tensors, f"{model.base_model_prefix}.", self._stored)
        return {names[name]: tensor for name, tensor in tensors.items()}, {}

    def is_serializable(self, *_: Any, **__: Any) -> Any:
        """Packed modules are saved as they are stored."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Bits and scales do not train here; `dualbinary quantize` trains them."""
        return False

    def _dequantize(self, model: Any, dtype: Any = None) -> Any:
        from calib.packed.model import unpack_modules

        unpack_modules(model, dtype)
        return model
