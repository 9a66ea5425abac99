"""The contents of the data file: planes, scales, vocabulary tables and parameters, computed as they are written."""
