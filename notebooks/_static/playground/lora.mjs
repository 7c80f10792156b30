// Low-rank additions to the tables of a network's file (Hu et al. 2022), as sdlearn/tools/browser.py writes them.

const word = new DataView(new ArrayBuffer(4));

/** A number from its 16 bits in half precision (IEEE 754). */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, power = bits >> 10 & 31, part = bits & 1023;
  if (power === 31) return part ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 15) * (1 + part / 1024) : 2 ** -14 * (part / 1024));
}

/** The 16 bits of the nearest number in half precision; of two equally near, the even one. */
export function toHalf(value) {
  word.setFloat32(0, value);
  const bits = word.getUint32(0), sign = bits >>> 16 & 0x8000, size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) { // evenly spaced
    const steps = size * 2 ** 24, low = Math.floor(steps), rest = steps - low;
    return sign | low + (rest > 0.5 || rest === 0.5 && low & 1 ? 1 : 0);
  }
  const kept = (bits >>> 13 & 0x3ffff) - (112 << 10), rest = bits & 0x1fff;
  return sign | kept + (rest > 0x1000 || rest === 0x1000 && kept & 1 ? 1 : 0);
}

/** The file with the additions in it, in place. Both are Uint8Arrays. */
export function addLora(file, lora) {
  const length = new DataView(lora.buffer, lora.byteOffset).getUint32(0, true), start = 4 + length;
  const tables = JSON.parse(new TextDecoder().decode(lora.subarray(4, start)));
  const halves = new DataView(lora.buffer, lora.byteOffset + start), numbers = new DataView(file.buffer, file.byteOffset);
  let at = 0;
  const take = (count) => Float32Array.from({length: count}, () => fromHalf(halves.getUint16(2 * at++, true)));
  for (const [place, rows, columns, rank] of tables) {
    const left = take(rows * rank), right = take(rank * columns);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        let sum = 0;
        for (let k = 0; k < rank; k++) sum += left[row * rank + k] * right[k * columns + column];
        const where = place + 2 * (row * columns + column);
        numbers.setUint16(where, toHalf(fromHalf(numbers.getUint16(where, true)) + sum), true);
      }
    }
  }
  return file;
}
