"""Names of what a decoder carries from one step to the next; those of onnxruntime-genai.

    past_key_values.i.key, .value   ->  present.i.key, .value       grow by a row for each token
    past.i.conv, past.i.recurrent   ->  present.i.conv, .recurrent  are replaced; their sizes never change

Layer i has the first pair or one or both of the second kind.
"""

__all__ = ["PAST", "PAST_STATE", "PRESENT", "present_name"]

PAST, PAST_STATE, PRESENT = "past_key_values.", "past.", "present."


def present_name(past: str) -> str | None:
    """The output that an input called `past` gets its next value from; None for an input that carries nothing."""
    for prefix in (PAST, PAST_STATE):
        if past.startswith(prefix):
            return PRESENT + past.removeprefix(prefix)
    return None
