"""Memory does not grow with the model."""

from dataclasses import replace

from tests.support.measures import LlamaShape, run_measured, write_llama

SHAPE = LlamaShape(layers=0, hidden=512, intermediate=2048, vocabulary=2048, heads=8, kv_heads=8)
FEW, MANY = 8, 32
# The allocator keeps what a few layers in flight needed, which takes some layers to settle and varies by some 50 MB.
# The weights of the layers between FEW and MANY are 201 MB in bfloat16.
ALLOWED_GROWTH = 120e6


def test_peak_memory_is_that_of_a_few_layers(tmp_path):
    peaks = []
    for layers in (FEW, MANY):
        model_dir = write_llama(tmp_path / f"model{layers}", replace(SHAPE, layers=layers))
        out = tmp_path / f"out{layers}" / "model.onnx"
        peaks.append(
            run_measured(tmp_path, "exporter", model_dir, out, "--planes", 1, "--levels", "even", "--quiet")[1]
        )

    assert peaks[1] < peaks[0] + ALLOWED_GROWTH
