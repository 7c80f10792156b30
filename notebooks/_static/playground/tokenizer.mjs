// CLIP's byte-pair encoding (Radford et al. 2021): a prompt in lower case, cut into words, each word's bytes joined by the
// merges in the order in which they were learned. The vocabulary follows from the merges.

const MARKS = ["<|startoftext|>", "<|endoftext|>"];
const SPACE = /\p{White_Space}+/gu;
const WORD = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** A printable letter for each of the 256 bytes (GPT-2's table), in the order of the vocabulary. */
function letters() {
  const printable = [[33, 126], [161, 172], [174, 255]].flatMap(([from, to]) =>
    Array.from({length: to - from + 1}, (_, k) => from + k));
  const others = Array.from({length: 256}, (_, k) => k).filter((byte) => !printable.includes(byte));
  return new Map([...printable.map((byte) => [byte, byte]), ...others.map((byte, k) => [byte, 256 + k])]
    .map(([byte, code]) => [byte, String.fromCharCode(code)]));
}

export class Tokenizer {
  /** merges: the text of the merges, one pair a line. marks: {begin, end, pad, length}, ids and the most tokens. */
  constructor(merges, marks) {
    this.marks = marks;
    this.letters = letters();
    const pairs = merges.split("\n").filter(Boolean);
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    const bytes = [...this.letters.values()];
    const pieces = [...bytes, ...bytes.map((letter) => `${letter}</w>`), ...pairs.map((pair) => pair.replace(" ", ""))];
    this.pieces = [...pieces, ...MARKS];
    this.ids = new Map(this.pieces.map((piece, id) => [piece, id]));
    this.bytes = new Map([...this.letters].map(([byte, letter]) => [letter, byte]));
    this.known = new Map(); // words that were cut before
  }

  /** The ids of a text, without marks, however many. */
  encode(text) {
    return text.split(/(<\|startoftext\|>|<\|endoftext\|>)/).flatMap((part) => {
      if (MARKS.includes(part)) return [this.ids.get(part)];
      // Letter by letter, or a Greek word would end in another sigma than Python's does.
      const plain = Array.from(part.normalize("NFC").replace(SPACE, " "), (letter) => letter.toLowerCase()).join("");
      return (plain.match(WORD) || []).flatMap((word) => this.cut(word));
    });
  }

  /** The ids of one word. */
  cut(word) {
    if (!this.known.has(word)) {
      let parts = Array.from(new TextEncoder().encode(word), (byte) => this.letters.get(byte));
      parts[parts.length - 1] += "</w>";
      while (parts.length > 1) {
        const ranks = parts.slice(1).map((part, k) => this.ranks.get(`${parts[k]} ${part}`) ?? Infinity);
        const best = Math.min(...ranks);
        if (best === Infinity) break;
        const joined = [];
        for (let k = 0; k < parts.length; k++) {
          const joins = k < ranks.length && ranks[k] === best;
          joined.push(joins ? parts[k] + parts[++k] : parts[k]);
        }
        parts = joined;
      }
      this.known.set(word, parts.map((part) => this.ids.get(part)));
    }
    return this.known.get(word);
  }

  /** The text that ids stand for. */
  decode(ids) {
    const pieces = ids.map((id) => this.pieces[id].replace("</w>", " "));
    const bytes = Array.from(pieces.join(""), (letter) => (letter === " " ? 32 : this.bytes.get(letter) ?? 63));
    return new TextDecoder().decode(Uint8Array.from(bytes)).trim();
  }

  /** What the model reads: ids with marks and padding, as many as it takes; the prompt's own; and what does not fit. */
  read(text) {
    const {begin, end, pad, length} = this.marks;
    const all = this.encode(text), words = all.slice(0, length - 2);
    const ids = [begin, ...words, end, ...Array(length - 2 - words.length).fill(pad)];
    return {ids, words, lost: this.decode(all.slice(length - 2))};
  }
}
