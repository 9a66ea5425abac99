"""Choosing an execution provider, and what is said where it cannot be had; tests/e2e/test_cuda.py has a GPU."""

import onnxruntime as ort
import pytest

from dualbinary import DualBinaryError, InputError
from runtime_ext.__main__ import main
from runtime_ext.decoder import Decoder
from runtime_ext.providers import Provider

CUDA = Provider("cuda")
without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA"
)


@pytest.fixture
def claimed_cuda(monkeypatch):
    """An onnxruntime that lists CUDA and then cannot use it, as one whose CUDA libraries are missing."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rocm",), "name: expected one of cpu, cuda, got rocm"),
        (("cuda", -1), "device: expected at least 0, got -1"),
        (("cpu", 1), "name: expected cuda with device 1, got cpu"),
        (("cpu", 0, True), "name: expected cuda with cuda_graph, got cpu"),
    ],
)
def test_choices_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Provider(*arguments)


def test_the_cpu_is_the_default_and_takes_no_options():
    assert Provider() == Provider("cpu")
    assert Provider().session_providers() == ["CPUExecutionProvider"]


def test_cuda_gets_its_options_and_the_cpu_for_shapes(claimed_cuda):
    (name, options), last = Provider("cuda", 3, cuda_graph=True).session_providers()
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["device_id"], options["enable_cuda_graph"], options["use_tf32"]) == ("3", "1", "0")
    (_, options), _ = CUDA.session_providers()
    assert (options["device_id"], options["enable_cuda_graph"]) == ("0", "0")


@without_cuda
def test_an_onnxruntime_without_cuda_is_named_with_the_way_out():
    with pytest.raises(InputError, match=r"has \(.*CPUExecutionProvider\), got cuda; install onnxruntime-gpu"):
        CUDA.session_providers()


@without_cuda
def test_a_session_that_fell_back_to_the_cpu_is_refused(tiny_model, claimed_cuda):
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DualBinaryError, match=r"CUDA device 2 could not be used and ONNX Runtime took CPUExecution"),
    ):
        Decoder.load(tiny_model, library=False, provider=Provider("cuda", 2))


@without_cuda
@pytest.mark.parametrize("command", [("generate", "--prompt", "x"), ("bench",)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--provider", "cuda"), "in place of onnxruntime, or use --provider cpu"),
        (("--device", "1"), "--provider: expected cuda with --device 1, got cpu"),
        (("--cuda-graph",), "--provider: expected cuda with --cuda-graph, got cpu"),
    ],
)
def test_commands_refuse_with_one_line(tiny_model, capsys, command, options, message):
    assert main([command[0], str(tiny_model), *command[1:], *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["generate", "bench"])
def test_help_names_the_options(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    for option in ("--provider", "--device", "--cuda-graph"):
        assert option in text


def test_an_unknown_provider_is_refused(tiny_model, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", str(tiny_model), "--provider", "tpu"])
    assert "tpu" in capsys.readouterr().err
