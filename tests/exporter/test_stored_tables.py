"""Vocabulary tables that a checkpoint stores in planes: exported as they are, or stored anew where that is asked for."""

import numpy as np
import pytest

from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from tests.support.quantized_checkpoints import quantize

TABLES = {"llama": ("model.embed_tokens", "lm_head"), "llama_tied": ("model.embed_tokens",)}
EVEN = {
    "4 bits": PlaneFormat(4, 32, levels="even", zero=EACH_GROUP),
    "8 bits": PlaneFormat(8, 64, levels="even", zero=128),
    "3 bits, 16, offset, bfloat16": PlaneFormat(3, 16, offset=True, levels="even", scale_dtype=BFLOAT16),
    "6 bits, 16, codes": PlaneFormat(6, 16, levels="even", zero=32, scale_dtype=np.dtype(np.uint8)),
    "5 bits, a zero a group, float32": PlaneFormat(
        5, 96, levels="even", zero=EACH_GROUP, scale_dtype=np.dtype(np.float32)
    ),
    "2 bits, offset": PlaneFormat(2, 16, offset=True, levels="even"),
    "4 bits, one step": PlaneFormat(4, -1, levels="even", zero=8, per_tensor=True),
}


def exported_table(model_dir, tmp_path, form, name, **options):
    quantize(model_dir, tmp_path / "checkpoint", tables=dict.fromkeys(TABLES[name], form))
    out = tmp_path / "out" / "model.onnx"
    return export(tmp_path / "checkpoint", out, ExportOptions(**options), force=True), out


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", EVEN.values(), ids=EVEN)
def test_a_stored_table_is_exported_as_it_is(pristine_model, tmp_path, library, name, form):
    result, out = exported_table(pristine_model(name), tmp_path, form, name)

    rows = result.report["tables"]
    assert [(row["parameter"], row["bits"], row["stored"]) for row in rows] == [
        (f"{module}.weight", form.planes, True) for module in TABLES[name]
    ]
    assert check(result, out, library).passed
    assert check(result, out, None).passed
