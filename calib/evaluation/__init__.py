"""`python -m calib eval`: how good a model is on texts and tasks, and how far from the full-precision one."""
