"""Where the tokens of a run come from: text files, or the model's own pen."""
