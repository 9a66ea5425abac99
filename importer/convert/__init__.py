"""A model of this project for other programs: its levels as they are, in the words of a GGUF file or of GPTQ.

own_model.py            what a source is: weights in planes, plain tensors, small files
checkpoint_source.py    a checkpoint;  onnx_source.py, onnx_table.py  an exported file
modules.py              what transformers makes of config.json
levels.py               whole numbers and steps of a weight; what a type must hold
gguf/                   a .gguf file;  gptq.py  a directory of GPTQ, version 2
outcome.py              what became of the weights
"""
