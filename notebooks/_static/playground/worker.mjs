// The worker in which the model lives, so that the page never waits for it.
//
// Asked: {draw, settings, picture}: a picture, whose number is `draw`; an older one that is still being drawn stops.
//        {look, draw, inside}: the picture believed in at one step of what was drawn last, and what is inside the step.
//        {trip, picture, seed, signal, noise}: the picture's latents, that share of them and of noise, decoded.
// Says:  {tripped, picture, latents}; {fetched, total}; {step}; {drawn}; {seen}; {trouble}: a sentence.

import {beliefs, distance, draw} from "./draw.mjs";
import {fetchUnpacked} from "./files.mjs";
import {Model, toBytes, toColours, toPlanes} from "./model.mjs";
import {Generator} from "./random.mjs";
import {mix} from "./sampler.mjs";
import {Tokenizer} from "./tokenizer.mjs";

const SHARE = 0.2; // of a run's time that may go into showing its steps; the others are shown as their rough colours

let ready = null, newest = 0, shown = {draw: 0, steps: []}, seen = {picture: null, mean: null};
const recipes = new Map();

/** What every question needs: the manifest, the runtime and the model, of which nothing is fetched yet. */
async function begin(base) {
  const manifest = await (await fetch(new URL("model.json", base))).json(), bytes = new Map();
  let fetched = 0, total = 0;
  const progress = (more) => postMessage({fetched: fetched += more, total});
  /** Begin to fetch files, all at once. */
  const want = (names) => {
    for (const name of names.filter((one) => !bytes.has(one))) {
      const {path, bytes: size} = manifest.files[name];
      total += size;
      bytes.set(name, fetchUnpacked(new URL(path, base).href, progress));
      bytes.get(name).catch(() => { bytes.delete(name); total -= size; }); // what goes wrong is told where it is waited for
    }
  };
  const read = async (name) => {
    if (bytes.get(name) === null) bytes.delete(name);
    want([name]);
    const found = await bytes.get(name);
    bytes.set(name, null); // the runtime has a copy of its own
    return new Uint8Array(found);
  };
  return {manifest, base, want, read};
}

/** The model with these of its networks ready. base: the folder of model.json. others: files to fetch with them. */
async function open(base, networks, others = []) {
  ready ??= begin(base);
  ready.catch(() => { ready = null; });
  const site = await ready, {manifest, read} = site;
  const files = networks.flatMap((name) => (name === "few" ? ["unet", "few"] : [name]));
  site.want(["runtime", ...others, ...files]);
  site.model ??= (async () => {
    const ort = await import(new URL(manifest.files.script.path, base).href);
    ort.env.wasm.numThreads = 1; // more need headers that few hosts send
    ort.env.wasm.wasmBinary = (await read("runtime")).buffer;
    return new Model(manifest, ort, read);
  })();
  site.model.catch(() => { site.model = null; });
  const model = await site.model;
  await Promise.all(networks.map((name) => model.session(name)));
  return {...site, model};
}

/** The coefficients of a sampler. */
async function recipe({manifest, base}, name) {
  if (!recipes.has(name)) {
    const bytes = await fetchUnpacked(new URL(manifest.samplers[name].path, base).href);
    recipes.set(name, JSON.parse(new TextDecoder().decode(bytes)));
  }
  return recipes.get(name);
}

let tokenizer = null;
async function words({manifest, read}) {
  tokenizer ??= new Tokenizer(new TextDecoder().decode(await read("merges")), manifest.tokens);
  return tokenizer;
}

const pause = () => new Promise((resume) => setTimeout(resume)); // in which newer messages arrive

async function run({draw: number, settings, picture, base}) {
  const site = await open(base, ["text", settings.few ? "few" : "unet", "decoder"], ["merges"]), {model} = site;
  const table = await recipe(site, settings.sampler), reader = await words(site);
  if (number !== newest) return;
  const start = performance.now(), steps = [];
  const planes = picture && toPlanes(picture);
  let showing = 0;
  for await (const step of draw(model, reader, table, settings, planes)) {
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
  const step = number === newest && shown.draw === number && shown.steps[index]; // a newer picture does not wait
  if (!step?.row) return;
  const model = await (await ready).model, {without, withWords} = beliefs(step);
  const bytes = async (latents) => latents && toBytes(await model.decode(latents));
  step.believed ??= await bytes(step.x0);
  postMessage({seen: index, draw: number, x0: step.believed});
  if (!inside) return;
  const held = step.x.map((value) => value * step.row.scale);
  const found = {x: await bytes(held), without: await bytes(without), withWords: without && await bytes(withWords)};
  postMessage({seen: index, draw: number, inside: {...found, distance: distance(step, model.manifest.latent[0])}});
}

/** A picture's latents, with some share of noise, and back. */
async function trip({trip: number, picture, seed, signal, noise, base}) {
  if (number !== newest) return;
  const {model} = await open(base, ["encoder", "decoder"]);
  if (number !== newest) return;
  if (seen.picture?.length !== picture.length || picture.some((value, k) => value !== seen.picture[k])) {
    seen = {picture, ...await model.encode(toPlanes(picture))};
  }
  const drawn = new Generator(seed).normal(seen.mean.length);
  const latents = mix([signal, noise], [seen.mean, drawn]);
  postMessage({tripped: number, picture: toBytes(await model.decode(latents)), latents});
}

let queue = Promise.resolve();
onmessage = ({data}) => {
  if ("trip" in data || "settings" in data) newest = data.trip ?? data.draw;
  queue = queue.then(pause).then(() => ("trip" in data ? trip : "look" in data ? look : run)(data)).catch((error) => {
    postMessage({trouble: error.message || String(error), draw: data.draw ?? data.trip});
  });
};
