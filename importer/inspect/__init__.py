"""`dualbinary inspect`: what a file or a directory of a model is.

source.py      models of other tools, checkpoints and plain ones, from their headers
facts.py       what is known of a model layer by layer: ModelFacts
export.py      the facts of an exported ONNX file
checkpoint.py  the facts of a checkpoint
charts.py      pictures of facts
page.py        a page of them
"""
