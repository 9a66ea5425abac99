"""The stages of a run: the walk (init and block, block by block), then distillation of the whole model (e2e)."""
