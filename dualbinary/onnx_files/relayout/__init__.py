"""`dualbinary relayout`: from one stored layout to another, on a model as it was exported.

The rest of `dualbinary` needs NumPy alone; this package reads ONNX files and so needs onnx too.
"""
