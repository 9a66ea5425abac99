"""A model directory, read lazily: headers first, tensors one at a time."""
