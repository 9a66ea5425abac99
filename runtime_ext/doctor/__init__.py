"""What a machine runs models with, and what is wrong: each finding is one sentence, which names the way out.

Nothing of ONNX Runtime or of the library is imported before it is looked at, so that a host where either is missing or
damaged gets a finding in place of a traceback.
"""
