"""What the two commands `eval` share: texts by name, figures, their table, and tasks of lm-evaluation-harness."""
