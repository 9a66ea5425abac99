"""Fuzzing: of what reads files and requests in Python (readers/), and of the C++ library."""
