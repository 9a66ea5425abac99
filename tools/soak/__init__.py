"""Models under load for as long as is asked: the same answers as alone, constant memory, no error."""
