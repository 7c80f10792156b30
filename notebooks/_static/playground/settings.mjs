// What a picture was drawn from: in a link, in a PNG, and as a line of Python.

export const NAMES = {
  prompt: "prompt", negative_prompt: "not", seed: "seed", num_inference_steps: "steps", guidance_scale: "guidance",
  sampler: "sampler", strength: "strength",
};
const TEXTS = ["prompt", "negative_prompt", "sampler"];

/** The settings as the part of an address that follows "#". */
export function toHash(settings) {
  const found = new URLSearchParams();
  for (const [name, short] of Object.entries(NAMES)) {
    if (settings[name] !== undefined && settings[name] !== "") found.set(short, settings[name]);
  }
  return `#${found}`;
}

/** The settings in an address; what it does not say is left out, and so is what is no number where one belongs. */
export function fromHash(hash) {
  const said = new URLSearchParams(hash.slice(1)), found = {};
  for (const [name, short] of Object.entries(NAMES)) {
    if (!said.has(short)) continue;
    const value = TEXTS.includes(name) ? said.get(short) : Number(said.get(short) || NaN);
    if (typeof value === "string" || Number.isFinite(value)) found[name] = value;
  }
  return found;
}

/** The line of Python that draws the same. load: the line that loads the model. started: whether from a picture. */
export function toPython(settings, load, started) {
  const {prompt, negative_prompt, seed, num_inference_steps, guidance_scale, sampler, strength} = settings;
  const named = {seed, num_inference_steps, guidance_scale, sampler};
  if (negative_prompt) named.negative_prompt = negative_prompt;
  if (started) named.strength = strength;
  const given = [...(started ? ["start.png"] : []), prompt].map((text) => JSON.stringify(text));
  const words = Object.entries(named).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  const call = started ? "image_to_image" : "text_to_image";
  return `import sdlearn\nsd = ${load}\nsdlearn.${call}(sd, ${[...given, ...words].join(", ")})`;
}

const CRC = Uint32Array.from({length: 256}, (_, byte) => {
  for (let k = 0; k < 8; k++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** A PNG with a text beside its pixels (a tEXt chunk after the header). text: characters of one byte only. */
export function withText(png, keyword, text) {
  const body = new TextEncoder().encode(`tEXt${keyword}\0${text}`), chunk = new Uint8Array(body.length + 8);
  const view = new DataView(chunk.buffer);
  let crc = 0xffffffff;
  for (const byte of body) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(body.length + 4, (crc ^ 0xffffffff) >>> 0);
  const header = 8 + 25; // the signature and the header's chunk
  const found = new Uint8Array(png.length + chunk.length);
  found.set(png.subarray(0, header));
  found.set(chunk, header);
  found.set(png.subarray(header), header + chunk.length);
  return found;
}

/** JSON in letters of ASCII, as Python writes it. */
export const toJson = (value) => JSON.stringify(value).replace(/[\u0080-\uffff]/g,
  (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
