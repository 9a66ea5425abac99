"""A low-bit model becomes a checkpoint, and that checkpoint an export of the same numbers."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import transformers

import runtime_ext
from dualbinary import InputError
from dualbinary.checkpoint import load_module, load_order, read_quantization_config, stored_tensors
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.verify import check
from importer.checkpoint import write_model
from importer.model import InexactWeight, Numbers, PlainTensor
from tests.support.low_bit_models import even_numbers, low_bit_model
from tests.support.sessions import logits
from tests.support.tiny_models import make_model

ORDERED = {name: partial(even_numbers, order=True) for name in ("down_proj", "o_proj")}
MIXED = {
    "down_proj": partial(even_numbers, bits=6, group_size=16, zero=32.0),
    "q_proj": partial(even_numbers, bits=2, group_size=64, zero=1.0),
    "v_proj": partial(even_numbers, bits=8, group_size=32, zero=128.0),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model("llama", tmp_path_factory.mktemp("models") / "llama")


def test_checkpoint_holds_numbers_formats_and_files(llama, tmp_path):
    model = low_bit_model(llama, MIXED | ORDERED)
    result = write_model(model, tmp_path / "c")
    config, stored = read_quantization_config(tmp_path / "c"), stored_tensors(tmp_path / "c")
    assert config is not None
    assert config.method == "imported"
    assert (tmp_path / "c" / "note.txt").read_text() == "hello"
    for module, packed in model.weights.items():
        weight = load_module(stored, module, packed.N, packed.K, config.format_of(module))
        numbers = packed.read()
        assert isinstance(numbers.zero, float)
        group = np.arange(packed.K) // packed.group_size
        expected = numbers.step[:, group].astype(np.float64) * (numbers.q - numbers.zero)
        np.testing.assert_array_equal(weight.dequantize(), expected)
        assert result.formats[module] == weight.format
        order = load_order(stored, module)
        assert (order is None) == (numbers.order is None)
        assert order is None or np.array_equal(order, np.asarray(numbers.order))


@pytest.mark.parametrize("op", ["dualbinary", "matmulnbits"])
@pytest.mark.parametrize("make", [ORDERED, MIXED, {"q_proj": ORDERED["o_proj"]}])
def test_exports_compute_with_the_numbers_whatever_their_order(llama, tmp_path, make, op):
    write_model(low_bit_model(llama, make), tmp_path / "c")
    result = export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions(op=op))
    assert check(result, tmp_path / "out" / "model.onnx", runtime_ext.library_path()).passed
    orders = [name for name in result.graph.model.graph.initializers if name.endswith(".input_order")]
    assert bool(orders) == (make is not MIXED)


TABLES = [(4, 32, 8.0), (6, 16, 32.0), (8, 32, 128.0), (2, 64, 1.0)]


# Every form once, two of them shared by the head.
@pytest.mark.parametrize(
    ("name", "bits", "group_size", "zero"),
    [
        pytest.param(name, *form, marks=[] if (form in TABLES[:2]) == (name == "llama_tied") else pytest.mark.slow)
        for name in ("llama", "llama_tied")
        for form in TABLES
    ],
)
def test_vocabulary_tables_are_their_numbers_too(tmp_path, name, bits, group_size, zero):
    table = partial(even_numbers, bits=bits, group_size=group_size, zero=zero)
    plain = make_model(name, tmp_path / "plain")
    write_model(low_bit_model(plain, {"embed_tokens": table, "lm_head": table}, tables=True), tmp_path / "c")
    result = export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions())
    assert {each.plane_format.planes for each in result.graph.tables if each.plane_format is not None} == {bits}
    for library in (runtime_ext.library_path(), None):
        assert check(result, tmp_path / "out" / "model.onnx", library).passed


@pytest.mark.parametrize("with_library", [True, False])
def test_column_k_multiplies_input_order_k(llama, tmp_path, with_library):
    model = low_bit_model(llama, ORDERED)
    write_model(model, tmp_path / "c")
    export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions(logits="all", embedding_bits=32))
    reference = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    for module, packed in model.weights.items():
        numbers = packed.read()
        assert isinstance(numbers.zero, float)
        values = numbers.step[:, np.arange(packed.K) // 32].astype(np.float32) * (numbers.q - numbers.zero)
        weight = np.empty_like(values)
        weight[:, np.arange(packed.K) if numbers.order is None else numbers.order] = values
        reference.get_submodule(module).weight.data = torch.from_numpy(weight).float()
    ids = np.arange(3, 20)[None]
    with torch.inference_mode():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    got = logits(tmp_path / "out" / "model.onnx", ids, with_library)
    # Activations of 15 bits, as in the tests of parity.
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


def test_a_model_without_integers_becomes_a_plain_directory(llama, tmp_path):
    model = low_bit_model(llama)
    plain = {
        f"{module}.weight": PlainTensor(
            (packed.N, packed.K), np.dtype(np.float16), partial(np.zeros, (packed.N, packed.K), np.float16)
        )
        for module, packed in model.weights.items()
    }
    write_model(replace(model, weights={}, tensors={**model.tensors, **plain}), tmp_path / "c")
    assert read_quantization_config(tmp_path / "c") is None
    assert export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions()).report["method"] == "fit"


def test_weights_of_uneven_levels_need_a_new_fit(llama, tmp_path):
    model = low_bit_model(llama)
    module, packed = next(iter(model.weights.items()))
    values = np.random.default_rng(0).standard_normal((packed.N, packed.K), np.float32)
    uneven = InexactWeight("IQ2_XS", packed.N, packed.K, 2.3, "its levels are vectors of a codebook", lambda: values)
    weights = {name: weight for name, weight in model.weights.items() if name != module}
    model = replace(model, weights=weights, inexact={module: uneven})
    with pytest.raises(InputError, match=rf"{module}: IQ2_XS cannot be stored exactly, as its levels .*--requantize"):
        write_model(model, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    result = write_model(model, tmp_path / "c", requantize=True)
    assert set(result.fitted) == {module}
    assert 0 < result.fitted[module] < 0.01
    export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions())
    unread = replace(model, inexact={module: replace(uneven, read=None)})
    with pytest.raises(InputError, match="give a full-precision model"):
        write_model(unread, tmp_path / "d", requantize=True)


def test_an_order_that_names_an_input_twice_is_refused(llama, tmp_path):
    def twice(rng, N, K):
        numbers, bits, size = even_numbers(rng, N, K)
        return replace(numbers, order=np.zeros(K, np.int32)), bits, size

    write_model(low_bit_model(llama, {"o_proj": twice}), tmp_path / "c")
    with pytest.raises(InputError, match=r"o_proj.input_order: expected each of 0 to 127 once"):
        export(tmp_path / "c", tmp_path / "out" / "model.onnx", ExportOptions())


def test_a_failing_reader_leaves_nothing(llama, tmp_path):
    def damaged(rng, N, K):
        numbers, bits, size = even_numbers(rng, N, K)
        return Numbers(numbers.q[:-1], numbers.step, 8.0), bits, size

    with pytest.raises(InputError, match="expected numbers"):
        write_model(low_bit_model(llama, {"down_proj": damaged}), tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
