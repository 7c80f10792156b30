// The normal numbers that torch draws on a CPU, so that a seed gives the same picture here as in Python.
// Source: at::mt19937 and ATen's normal_fill and normal_distribution; the generator is that of Matsumoto and Nishimura.

const LENGTH = 624, SHIFT = 397;
const single = Math.fround;
const TURN = single(2 * Math.PI);

export class Generator {
  /** seed: a whole number from 0; only its lowest 32 bits count, as in torch. */
  constructor(seed) {
    this.state = new Uint32Array(LENGTH);
    this.state[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let k = 1; k < LENGTH; k++) {
      const before = this.state[k - 1];
      this.state[k] = Math.imul(1812433253, before ^ (before >>> 30)) + k;
    }
    this.place = LENGTH;
    this.kept = null; // the second number of a pair that one was asked of
  }

  /** 32 random bits. */
  bits() {
    const {state} = this;
    if (this.place === LENGTH) {
      for (let k = 0; k < LENGTH; k++) {
        const mixed = (state[k] & 0x80000000) | (state[(k + 1) % LENGTH] & 0x7fffffff);
        state[k] = state[(k + SHIFT) % LENGTH] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
      }
      this.place = 0;
    }
    let word = state[this.place++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  /** torch.randn(count): float32 numbers of standard normal distribution. */
  normal(count) {
    const found = new Float32Array(count);
    if (count < 16) return found.map(() => this.one());
    const even = () => (this.bits() & 0xffffff) / 2 ** 24;
    for (let k = 0; k < count; k++) found[k] = even();
    for (let k = 0; k + 16 <= count; k += 16) this.turn(found, k);
    if (count % 16) { // the last sixteen are drawn anew, though some of them were finished
      for (let k = count - 16; k < count; k++) found[k] = even();
      this.turn(found, count - 16);
    }
    return found;
  }

  /** Box and Muller's transform of sixteen even numbers, the first eight with the last eight, in float32. */
  turn(numbers, from) {
    for (let k = from; k < from + 8; k++) {
      const radius = single(Math.sqrt(single(-2 * single(Math.log(single(1 - numbers[k]))))));
      const angle = single(TURN * numbers[k + 8]);
      numbers[k] = radius * single(Math.cos(angle));
      numbers[k + 8] = radius * single(Math.sin(angle));
    }
  }

  /** One normal number, in float64: how torch draws fewer than sixteen. */
  one() {
    if (this.kept !== null) {
      const {kept} = this;
      this.kept = null;
      return kept;
    }
    const even = () => {
      const high = this.bits();
      return ((high & 0x1fffff) * 2 ** 32 + this.bits()) / 2 ** 53;
    };
    const angle = 2 * Math.PI * even();
    const radius = Math.sqrt(-2 * Math.log1p(-even()));
    this.kept = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}
