"""The stages of a run: blockwise calibration (init, layer, block), then distillation of the whole model (e2e)."""
