"""How good a model is: perplexity of texts, tasks of lm-evaluation-harness, and logits for other programs."""
