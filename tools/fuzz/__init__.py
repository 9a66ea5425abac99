"""Fuzzing: targets of the C++ library (runtime_ext/fuzz) and of what reads files in Python (readers/)."""
