"""That a token has the same bits in a run of several as in a run of its own, as far as a model's file says so."""

import numpy as np

from runtime_ext.decoder import Decoder

LENGTHS = (1, 14, 15, 31)  # tokens before: keys are summed up in fours, and in vectors of 16
ROOM = 60


def assert_same_bits(decoder: Decoder, vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> None:
    """Compare runs of up to `same_bits_limit` tokens with single steps, behind so many other tokens."""
    ids = np.random.default_rng(0).integers(3, vocabulary, ROOM).tolist()
    for length in lengths:
        decoder.start(ROOM)
        decoder.step(ids[:length])
        alone = [decoder.step([token]) for token in ids[length : length + decoder.same_bits_limit]]
        for count in range(1, decoder.same_bits_limit + 1):
            decoder.rewind(length)
            rows = decoder.verify(ids[length : length + count])
            assert len(rows) == count
            for row, expected in zip(rows, alone, strict=False):
                assert np.array_equal(row, expected), (length, count)
