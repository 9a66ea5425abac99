"""Other people's low-bit models as checkpoints of this project: the stored integers become planes, without a new fit.

    python -m importer SOURCE CHECKPOINT        a .gguf file, or a Hugging Face directory that another tool quantized
    python -m importer --inspect SOURCE         what it is, before any work

`open_model` asks the readers of `readers/` for a `LowBitModel`; `write_model` writes it as a checkpoint, which
`python -m exporter` takes like any other. The exporter runs this command itself for such a SOURCE.
"""
