"""Programs that show the project at work; each runs with `python -m examples.NAME` from the repository's root."""
