"""Blocks run one at a time, with the arguments that their model gives them."""

import pytest
import torch
from torch import nn

from calib.layers import QuantLinear, quant_linears
from calib.models.blocks import autocast, check_calls, compute_dtype, record_calls
from calib.models.source import SourceModel
from calib.stages.input_statistics import groups_by_input, input_hessian
from dualbinary import InputError
from dualbinary.contract.weight import PlaneFormat
from tests.support.tiny_models import CONFIGS, NOT_CALIBRATED

FORMAT = PlaneFormat(2, 64, offset=True)
LENGTH = 24  # three times the sliding window of the tiny models
MORE_OF_THE_TEXT = "gemma4_text"  # its blocks get inputs for each token
TAKEN = [name for name in CONFIGS if name not in (*NOT_CALIBRATED, MORE_OF_THE_TEXT)]


def loaded(directory) -> SourceModel:
    source = SourceModel(directory, FORMAT)
    source.load(source.model)
    return source


@torch.no_grad()
def boundaries(source, tokens):
    """Hidden states that enter each block of the whole model, and those that leave the last."""
    seen = []
    handles = [
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone())) for _, block in source.blocks
    ]
    last = source.blocks[-1][1].register_forward_hook(
        lambda _module, _args, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    source.model(input_ids=tokens, use_cache=False)
    for handle in (*handles, last):
        handle.remove()
    return seen


@torch.no_grad()
def one_by_one(source, hidden, calls):
    found = [hidden]
    for (_, block), call in zip(source.blocks, calls, strict=True):
        found.append(call(block, found[-1]))
    return found


@pytest.mark.parametrize("name", TAKEN)
def test_blocks_one_by_one_are_the_model(tiny_model, random_tokens, name):
    source = loaded(tiny_model(name))
    tokens, others = random_tokens(2, LENGTH), random_tokens(2, LENGTH, seed=1)

    check_calls(source, tokens)
    hidden, calls = record_calls(source, tokens)

    # The same operations on the same values, so equal bit for bit; the second time with what other tokens recorded.
    for wanted, found in zip(boundaries(source, tokens), one_by_one(source, hidden, calls), strict=True):
        assert torch.equal(wanted, found)
    wanted = boundaries(source, others)
    for right, found in zip(wanted, one_by_one(source, wanted[0], calls), strict=True):
        assert torch.equal(right, found)


def test_blocks_that_are_given_more_of_the_text_are_refused(tiny_model, random_tokens):
    """Gemma 4 gives each block embeddings of the tokens; what was recorded for one batch is wrong for another."""
    message = (
        "gemma4_text gives its blocks more of the text.*--stages init --init-method fit, and go on with --stages e2e"
    )
    with pytest.raises(InputError, match=message):
        check_calls(loaded(tiny_model(MORE_OF_THE_TEXT)), random_tokens(1, LENGTH))


def test_a_model_that_works_between_its_blocks_is_refused(tiny_model, random_tokens):
    source = loaded(tiny_model("llama"))
    handle = source.blocks[1][1].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    with pytest.raises(InputError, match="llama does something between its blocks"):
        record_calls(source, random_tokens(1, LENGTH))
    handle.remove()
    record_calls(source, random_tokens(1, LENGTH))


@pytest.mark.parametrize(("change", "message"), [("less", "runs 1 of its 2 blocks"), ("more", "between its blocks")])
def test_a_model_that_leaves_out_or_repeats_blocks_is_refused(tiny_model, random_tokens, change, message):
    source = loaded(tiny_model("llama"))
    blocks = [block for _, block in source.blocks]
    source.model.config.num_hidden_layers = 1 if change == "less" else 3  # what it runs
    source.model.base_model.layers = nn.ModuleList(blocks if change == "less" else [*blocks, blocks[0]])
    with pytest.raises(InputError, match=message):
        record_calls(source, random_tokens(1, LENGTH))


def test_the_window_of_each_block_shows(tiny_model, random_tokens):
    """So that the test above would notice a mask that is another block's."""
    source = loaded(tiny_model("gemma3_text"))
    hidden, calls = record_calls(source, random_tokens(1, LENGTH))
    right, wrong = (one_by_one(source, hidden, order)[-1] for order in (calls, calls[::-1]))
    assert (right - wrong).abs().max() > 1e-3


def test_only_the_first_block_and_what_is_outside_need_be_loaded(tiny_model, random_tokens):
    tokens = random_tokens(2, LENGTH)
    wanted, _ = record_calls(loaded(tiny_model("gemma2")), tokens)
    source = SourceModel(tiny_model("gemma2"), FORMAT)
    for module in (*(module for _, module in source.outside()), source.blocks[0][1]):
        source.load(module)

    hidden, calls = record_calls(source, tokens)

    assert torch.equal(hidden, wanted)
    assert len(calls) == len(source.blocks)


def test_the_model_is_what_it_was_after_recording(tiny_model, random_tokens):
    source = loaded(tiny_model("llama"))
    tokens = random_tokens(1, LENGTH)
    with torch.no_grad():
        before = source.model(input_ids=tokens).logits
        record_calls(source, tokens)
        assert torch.equal(source.model(input_ids=tokens).logits, before)
    assert all("forward" not in vars(block) for _, block in source.blocks)


def test_the_model_is_what_it_was_after_a_failed_recording(tiny_model):
    source = loaded(tiny_model("llama"))
    with pytest.raises(IndexError):
        record_calls(source, torch.full((1, 4), 10_000))
    assert all("forward" not in vars(block) for _, block in source.blocks)


@pytest.mark.parametrize("requested", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_requested_dtype_is_taken_on_every_device(requested, device):
    assert compute_dtype(requested, device) == getattr(torch, requested)


def test_the_dtype_of_a_device_is_what_it_multiplies_natively(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert compute_dtype("auto", "cpu") == dtype
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert compute_dtype("auto", "cuda") == compute_dtype("auto", "cuda:1") == dtype
    assert compute_dtype("auto", "mps") == torch.float32


def test_products_are_in_the_dtype_and_the_rest_is_not():
    linear, norm, x = nn.Linear(32, 32), nn.LayerNorm(32), torch.randn(4, 32)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast("cpu", dtype):
            assert linear(x).dtype == dtype
            assert norm(x).dtype == torch.float32


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "opt", "gpt2"])
def test_blocks_run_in_bfloat16(tiny_model, random_tokens, name):
    source = loaded(tiny_model(name))
    hidden, calls = record_calls(source, random_tokens(2, LENGTH))
    wanted = one_by_one(source, hidden, calls)[-1]
    with autocast("cpu", torch.bfloat16):
        found = one_by_one(source, hidden, calls)[-1].float()
    # Some ten roundings to 8 bits, each of 2^-9 of a value at most, in each of two blocks: independent, so that their
    # squares add up; twice that for what attention amplifies.
    assert (found - wanted).norm() < 2 * 20**0.5 * 2**-9 * wanted.norm()
    assert not torch.equal(found, wanted)


# What the layers of a block read.


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("llama", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("phi", ["q_proj k_proj v_proj", "dense", "fc1", "fc2"]),  # attention and MLP beside each other
        ("gpt2", ["c_attn", "c_proj", "c_fc", "c_proj"]),
    ],
)
def test_layers_that_read_the_same_are_one_group(tiny_model, random_tokens, name, groups):
    source = loaded(tiny_model(name))
    hidden, calls = record_calls(source, random_tokens(2, LENGTH))
    block = source.blocks[0][1]
    found = groups_by_input(quant_linears(block)[::-1], lambda: calls[0](block, hidden))
    assert [" ".join(layer.name.rpartition(".")[2] for layer in group) for group in found] == groups


def test_a_layer_that_is_called_twice_or_never_is_in_one_group():
    first, second, third = (QuantLinear(name, torch.randn(8, 8), None, FORMAT) for name in ("a", "b", "c"))
    x = torch.randn(1, 8)
    assert groups_by_input([third, second, first], lambda: (first(x), first(x), second(x), first(x + 1))) == [
        [first, second],
        [third],
    ]


def test_a_hessian_is_that_of_all_that_a_layer_reads():
    layer, after = (QuantLinear(name, torch.randn(8, 8, dtype=torch.float64), None, FORMAT) for name in ("a", "b"))
    inputs = torch.randn(3, 2, 5, 8, dtype=torch.float64)
    rows = inputs.reshape(-1, 8)

    found = input_hessian(layer, [lambda x=x: after(layer(x)) for x in inputs])

    # Sums of 30 float32 products: 2^-24 of each.
    assert torch.allclose(found.double(), rows.T @ rows / len(rows), rtol=0, atol=30 * 2**-24 * rows.square().max())
    assert torch.equal(input_hessian(after, [lambda: layer(inputs[0])]), torch.zeros(8, 8))


def test_a_pass_ends_after_the_layer_whose_hessian_is_taken():
    layer, after = (QuantLinear(name, torch.randn(8, 8), None, FORMAT) for name in ("a", "b"))
    called = []
    after.register_forward_pre_hook(lambda *_: called.append(1))
    input_hessian(layer, [lambda: after(layer(torch.randn(2, 8)))])
    assert not called
    after(layer(torch.randn(2, 8)))
    assert called
