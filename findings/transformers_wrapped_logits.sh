#!/usr/bin/env bash
# transformers leaves out what follows the head of a decoder, once it is inside of a model that takes pictures.
#
# Software: transformers 5.23.0, torch 2.13.0
# Input: random models of two layers: Cohere2VisionForConditionalGeneration around a decoder with logit_scale=0.25, and
#   Gemma3ForConditionalGeneration around one with final_logit_softcapping=1.0; the decoder alone, Cohere2ForCausalLM and
#   Gemma3ForCausalLM, of the same text_config with the same weights; one text, no pictures.
# Expected: the same logits, since a text without pictures goes through the decoder alone.
# Observed: the scale and the soft cap are left out of the logits of the larger classes. The most likely token stays;
#   logits that are 1/0.25 times as large are sampled as if at a temperature of 0.25.
#
# Output seen on 2026-12-01:
#   Cohere2Vision: largest logit of the decoder 0.814, of the larger class 3.257; all logits differ by logit_scale: True
#   Gemma3: largest logit of the decoder 0.88, of the larger class 1.37: tanh(1.37) = 0.88
#
# Exit status: 0 while the behavior is as observed, another once it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 numpy==2.4.6
"$work/venv/bin/python" 2>/dev/null - <<'PYTHON'
import math

import torch
import transformers

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def both(name, text):
    """Logits of the larger class and of the decoder alone with its weights, for one text."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(text_config=SIZES | text, vision_config=VISION)
    larger = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    decoder = transformers.AutoModelForCausalLM.from_config(config.text_config).eval()
    decoder.model.load_state_dict(larger.model.language_model.state_dict())
    decoder.lm_head.load_state_dict(larger.lm_head.state_dict())
    with torch.no_grad():
        for model in (larger, decoder):
            model.get_input_embeddings().weight.mul_(4)  # tied to the head: logits of a size that a cap shows at
        tokens = torch.arange(1, 13)[None]
        return larger(input_ids=tokens).logits, decoder(input_ids=tokens).logits


found, alone = both("Cohere2Vision", {"model_type": "cohere2", "logit_scale": 0.25})
scaled = torch.allclose(alone, 0.25 * found, rtol=1e-5)
print(
    f"Cohere2Vision: largest logit of the decoder {alone.max():.3f}, of the larger class {found.max():.3f}; "
    f"all logits differ by logit_scale: {scaled}"
)

found, alone = both("Gemma3", {"model_type": "gemma3_text", "final_logit_softcapping": 1.0})
capped, free = alone.max().item(), found.max().item()
print(
    f"Gemma3: largest logit of the decoder {capped:.2f}, of the larger class {free:.2f}: "
    f"tanh({free:.2f}) = {math.tanh(free):.2f}"
)
left_out = abs(capped - math.tanh(free)) < 1e-4 and abs(capped - free) > 0.01
raise SystemExit(0 if scaled and left_out else "the behavior has changed")
PYTHON
