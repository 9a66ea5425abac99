// Half precision as ONNX Runtime hands it over: the 16 bits of each number, where JavaScript has no such array.

/**
 * @param {string} type of an ONNX Runtime tensor, float32 or float16.
 * @param {Float32Array | Uint16Array} data its values.
 * @returns {Float32Array} the same numbers; `data` itself where it is that.
 */
export function toFloat32(type, data) {
  if (type === "float32") return data;
  return data instanceof Uint16Array ? Float32Array.from(data, fromBits) : Float32Array.from(data);
}

/** IEEE 754 binary16: sign, 5 bits of exponent with bias 15, 10 bits of fraction. */
function fromBits(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
