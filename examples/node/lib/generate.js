// Tokens, one after the other.

/**
 * Continue what `decoder` has read by `ids`.
 *
 * @param {import("./decoder.js").Decoder} decoder
 * @param {number[]} ids tokens that come next, at least one.
 * @param {object} options
 * @param {number} options.count new tokens at most.
 * @param {Set<number>} [options.stop] tokens that end the answer; they are not given out.
 * @param {(logits: Float32Array) => number} [options.choose]
 * @param {AbortSignal} [options.signal] ends the answer after the step that is running.
 * @yields {number} each new token; the decoder has not read the last of them.
 */
export async function* generate(decoder, ids, { count, stop = new Set(), choose = greedy, signal }) {
  let next = ids;
  for (let made = 0; made < count && !signal?.aborted; made++) {
    const token = choose(await decoder.step(next));
    if (stop.has(token) || signal?.aborted) return;
    yield token;
    next = [token];
  }
}

/** The token with the largest of `logits`; the first of several. */
export function greedy(logits) {
  let best = 0;
  for (let token = 1; token < logits.length; token++) {
    if (logits[token] > logits[best]) best = token;
  }
  return best;
}

/**
 * A choice by chance among the likeliest tokens.
 *
 * @param {number} temperature of the softmax; 0 is `greedy`.
 * @param {number} [kept] tokens among which is chosen.
 * @param {() => number} [random] from 0 up to, not including, 1.
 */
export function sampler(temperature, kept = 50, random = Math.random) {
  if (temperature === 0) return greedy;
  return (logits) => {
    const likely = Array.from(logits.keys())
      .sort((a, b) => logits[b] - logits[a])
      .slice(0, kept);
    const weights = likely.map((token) => Math.exp((logits[token] - logits[likely[0]]) / temperature));
    let place = random() * weights.reduce((sum, weight) => sum + weight, 0);
    const chosen = weights.findIndex((weight) => (place -= weight) < 0);
    return likely[chosen < 0 ? 0 : chosen];
  };
}
