"""Speculative decoding: guess the next tokens, check all of them in one run of the model, keep those that are right.

A run of the model reads every weight, whatever the number of rows, so checking four tokens takes far less than four
runs. What is kept is what the sampler draws from the model's own logits, so the text is that of plain decoding, greedy
or not, with the same random numbers: a guess that is not what the sampler draws only costs its row.

    guess.py   what a guess is, and who makes them
    ngram.py   from the text so far: what followed the last words the last time (prompt lookup)
    draft.py   from a smaller model with the same vocabulary
    pace.py    how many tokens to guess: as many as pay, by what was measured so far, or none
    decode.py  the loop
    lone.py    the same for sequences that share a model, while there is but one

Sources: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative Decoding, 2023; A. Saxena,
Prompt Lookup Decoding, 2023. Their rule of acceptance keeps the distribution; drawing the token first, with the random
number that it would get anyway, keeps the very tokens, and accepts a certain guess as often.
"""

from runtime_ext.speculation.decode import Speculation
from runtime_ext.speculation.draft import DraftGuesser
from runtime_ext.speculation.guess import Guess, Guesser
from runtime_ext.speculation.lone import SPECULATE, LoneGuesses, longest_guess
from runtime_ext.speculation.ngram import NgramGuesser
from runtime_ext.speculation.pace import Pace

__all__ = [
    "SPECULATE",
    "DraftGuesser",
    "Guess",
    "Guesser",
    "LoneGuesses",
    "NgramGuesser",
    "Pace",
    "Speculation",
    "longest_guess",
]
