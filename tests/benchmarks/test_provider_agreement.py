"""The comparison of providers, here of the CPU with itself and with one that chooses otherwise."""

import numpy as np
import onnxruntime
import pytest

from benchmarks.models import provider_agreement
from benchmarks.models.provider_agreement import Agreement, compare
from dualbinary import InputError
from runtime_ext.providers import CPU, Provider
from tests.support import tiny_sessions as tiny


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return tiny.make_model(tiny.make_weights(tmp_path_factory.mktemp("weights")), tmp_path_factory.mktemp("model"))


def test_a_model_agrees_with_itself(tiny_model):
    assert compare(tiny_model, 5, CPU) == Agreement(5, 5, None)


def test_the_first_other_token_and_its_lead_are_found(tiny_model, monkeypatch):
    class Swapped(provider_agreement.Decoder):
        """From the fourth call of the second decoder on, the logits of the two likeliest change places."""

        made = 0

        def __init__(self, *args) -> None:
            super().__init__(*args)
            self.number, self.steps = Swapped.made, 0
            Swapped.made += 1

        def step(self, tokens):
            logits = super().step(tokens)
            self.steps += 1
            if self.number == 1 and self.steps >= 4:
                second, first = np.argsort(logits)[-2:]
                logits[[first, second]] = logits[[second, first]]
            return logits

    monkeypatch.setattr(provider_agreement, "Decoder", Swapped)
    found = compare(tiny_model, 5, CPU)
    assert (found.same, found.tokens) == (3, 5)
    assert found.lead is not None
    assert found.lead > 0


def test_without_cuda_it_says_what_is_missing(tiny_model):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        compare(tiny_model, 2, Provider("cuda"))
