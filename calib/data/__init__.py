"""Sources of the tokens of a run: text files, or the model itself."""
