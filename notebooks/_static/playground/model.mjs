// The networks of one model, run by onnxruntime-web. Every array is a Float32Array of one picture.

import {addLora} from "./lora.mjs";
import {guide} from "./sampler.mjs";

export class Model {
  /** manifest: model.json. ort: the runtime. read: async (name of a file) => its bytes. */
  constructor(manifest, ort, read) {
    Object.assign(this, {manifest, ort, read});
    this.sessions = new Map();
    this.texts = new Map(); // states of the last prompts
    const {live} = manifest.tokens;
    this.rows = live && new Map(live.map((id, row) => [id, row]));
  }

  /** The network of that name, fetched and made ready once. */
  session(name) {
    if (!this.sessions.has(name)) {
      const options = {executionProviders: ["wasm"], graphOptimizationLevel: "all"};
      const read = name === "few" ? Promise.all(["unet", "few"].map(this.read)).then(([unet, lora]) => addLora(unet, lora))
        : this.read(name);
      const made = read.then((bytes) => this.ort.InferenceSession.create(bytes, options));
      made.catch(() => this.sessions.delete(name));
      this.sessions.set(name, made);
    }
    return this.sessions.get(name);
  }

  async run(name, inputs) {
    const {Tensor} = this.ort;
    const feeds = Object.fromEntries(Object.entries(inputs).map(([key, [data, shape]]) =>
      [key, new Tensor(data instanceof Int32Array ? "int32" : "float32", data, shape)]));
    const session = await this.session(name);
    const found = await session.run(feeds);
    return Object.fromEntries(Object.entries(found).map(([key, tensor]) => [key, tensor.data]));
  }

  /** Whether the model has learned anything about a token. */
  knows(id) {
    return !this.rows || this.rows.has(id) && this.rows.get(id) > 0;
  }

  /** The states of a prompt's ids. */
  async text(ids) {
    const key = ids.join();
    if (!this.texts.has(key)) {
      const rows = Int32Array.from(ids, (id) => (this.rows ? this.rows.get(id) ?? 0 : id));
      const {states} = await this.run("text", {rows: [rows, [1, ids.length]]});
      if (this.texts.size > 16) this.texts.clear();
      this.texts.set(key, states);
    }
    return this.texts.get(key);
  }

  /**
   * The network's guided answer: {output, without, withWords, attention}. uncond: null where guidance is 1. network: "unet",
   * or "few" for the one that draws in few steps.
   */
  async ask(x, row, cond, uncond, scale, network = "unet") {
    const {latent, tokens} = this.manifest;
    const one = (states) => this.run(network, {
      x: [x, [1, ...latent]], t: [Float32Array.of(row.t), [1]],
      states: [states, [1, tokens.length, states.length / tokens.length]],
    });
    const without = uncond && (await one(uncond)).output;
    const {output: withWords, attention} = await one(cond);
    return {output: without ? guide(without, withWords, scale) : withWords, without, withWords, attention};
  }

  /** The picture of latents, three planes in [-1, 1], about. */
  async decode(latents) {
    const {picture} = await this.run("decoder", {latents: [latents, [1, ...this.manifest.latent]]});
    return picture;
  }

  /** The mean and the standard deviation of a picture's latents. */
  encode(picture) {
    const {height, width} = this.manifest;
    return this.run("encoder", {picture: [picture, [1, 3, height, width]]});
  }
}

/** Three planes in [-1, 1] as the bytes of a canvas, rounded as Python rounds them. */
export function toBytes(planes) {
  const size = planes.length / 3, bytes = new Uint8ClampedArray(4 * size);
  for (let k = 0; k < size; k++) {
    for (let c = 0; c < 3; c++) {
      const value = Math.min(1, Math.max(0, planes[c * size + k] / 2 + 0.5)) * 255, low = Math.floor(value);
      bytes[4 * k + c] = value - low === 0.5 ? low + (low & 1) : Math.round(value);
    }
    bytes[4 * k + 3] = 255;
  }
  return bytes;
}

/** The bytes of a canvas as three planes in [-1, 1], over white. */
export function toPlanes(bytes) {
  const size = bytes.length / 4, planes = new Float32Array(3 * size);
  for (let k = 0; k < size; k++) {
    for (let c = 0; c < 3; c++) planes[c * size + k] = bytes[4 * k + c] / 127.5 - 1;
  }
  return planes;
}

/** Latents as the colours that they roughly are, a pixel each. colours: model.json's. */
export function toColours(latents, colours) {
  const [{length: terms}] = colours, channels = terms - 1, size = latents.length / channels;
  const planes = new Float32Array(3 * size);
  for (let k = 0; k < size; k++) {
    colours.forEach((factors, c) => {
      let sum = factors[channels];
      for (let channel = 0; channel < channels; channel++) sum += factors[channel] * latents[channel * size + k];
      planes[c * size + k] = sum;
    });
  }
  return toBytes(planes);
}
