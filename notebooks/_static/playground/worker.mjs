// The worker in which the model lives, so that the page never waits for it.
//
// Asked: {draw, settings, picture}: a picture, whose number is `draw`; an older one that is still being drawn stops.
//        {look, draw, inside}: the picture believed in at one step of what was drawn last, and what is inside the step.
// Says:  {fetched, total}; {step}; {drawn}; {seen}; {trouble}: a sentence.

import {beliefs, distance, draw} from "./draw.mjs";
import {fetchUnpacked} from "./files.mjs";
import {Model, toBytes, toColours, toPlanes} from "./model.mjs";
import {Tokenizer} from "./tokenizer.mjs";

const SHARE = 0.35; // of a run's time that may go into showing its steps; the others are shown as their rough colours

let ready = null, newest = 0, shown = {draw: 0, steps: []};
const recipes = new Map();

/** The model and its tokenizer. base: the folder of model.json. */
async function load(base) {
  const manifest = await (await fetch(new URL("model.json", base))).json();
  const {files, samplers} = manifest;
  const first = ["runtime", "merges", "text", "unet", "decoder"];
  const total = first.reduce((sum, name) => sum + files[name].bytes, 0);
  let fetched = 0;
  const progress = (bytes) => postMessage({fetched: fetched += bytes, total});
  const read = async (name) => new Uint8Array(await fetchUnpacked(new URL(files[name].path, base).href, progress));
  const early = Object.fromEntries(first.map((name) => [name, read(name)])); // all at once
  for (const bytes of Object.values(early)) bytes.catch(() => {}); // what goes wrong is told where it is waited for
  const ort = await import(new URL(files.script.path, base).href);
  ort.env.wasm.numThreads = 1; // more need headers that few hosts send
  ort.env.wasm.wasmBinary = (await early.runtime).buffer;
  const model = new Model(manifest, ort, async (name) => {
    const bytes = await (early[name] ?? read(name));
    delete early[name];
    return bytes;
  });
  const tokenizer = new Tokenizer(new TextDecoder().decode(await early.merges), manifest.tokens);
  const recipe = async (name) => {
    if (!recipes.has(name)) {
      const bytes = await fetchUnpacked(new URL(samplers[name].path, base).href);
      recipes.set(name, JSON.parse(new TextDecoder().decode(bytes)));
    }
    return recipes.get(name);
  };
  await Promise.all(["text", "unet", "decoder"].map((name) => model.session(name)));
  return {model, tokenizer, recipe};
}

const pause = () => new Promise((resume) => setTimeout(resume)); // in which newer messages arrive

async function run({draw: number, settings, picture, base}) {
  ready ??= load(base);
  ready.catch(() => { ready = null; });
  const {model, tokenizer, recipe} = await ready;
  if (number !== newest) return;
  const start = performance.now(), steps = [];
  const table = await recipe(settings.sampler);
  const planes = picture && toPlanes(picture);
  let showing = 0;
  for await (const step of draw(model, tokenizer, table, settings, planes)) {
    steps.push(step);
    const {index, row, attention} = step, asked = performance.now();
    if (showing <= SHARE * (asked - start)) {
      step.believed = toBytes(await model.decode(step.x0));
      showing += performance.now() - asked;
    }
    await pause();
    if (number !== newest) return;
    const rough = toColours(step.x0, model.manifest.colours);
    postMessage({step: index, draw: number, row, x0: step.believed, rough, attention});
  }
  const {after} = steps.at(-1), finished = toBytes(await model.decode(after));
  if (number !== newest) return;
  shown = {draw: number, steps};
  postMessage({drawn: number, picture: finished, latents: after, milliseconds: performance.now() - start});
}

async function look({look: index, draw: number, inside}) {
  const step = shown.draw === number && shown.steps[index];
  if (!step?.row) return;
  const {model} = await ready, {without, withWords} = beliefs(step);
  const bytes = async (latents) => latents && toBytes(await model.decode(latents));
  step.believed ??= await bytes(step.x0);
  postMessage({seen: index, draw: number, x0: step.believed});
  if (!inside) return;
  const held = step.x.map((value) => value * step.row.scale);
  const found = {x: await bytes(held), without: await bytes(without), withWords: without && await bytes(withWords)};
  postMessage({seen: index, draw: number, inside: {...found, distance: distance(step, model.manifest.latent[0])}});
}

let queue = Promise.resolve();
onmessage = ({data}) => {
  if (data.draw && "settings" in data) newest = data.draw;
  queue = queue.then(() => ("look" in data ? look(data) : run(data))).catch((error) => {
    postMessage({trouble: error.message || String(error), draw: data.draw});
  });
};
