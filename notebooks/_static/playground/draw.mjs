// One picture, from what is asked for to its latents: as sdlearn.text_to_image and image_to_image draw it.

import {Generator} from "./random.mjs";
import {begin, mix, questions, skipped, solve} from "./sampler.mjs";

/**
 * Yields the steps of `solve`. asked: {prompt, negative_prompt, seed, num_inference_steps, guidance_scale, strength, few}.
 * recipes: of the sampler. picture: three planes to begin with, or null. Where no step is taken, yields one step that
 * holds the picture's own latents.
 */
export async function* draw(model, tokenizer, recipes, asked, picture = null) {
  const {num_inference_steps: n, guidance_scale: scale} = asked;
  const generator = new Generator(asked.seed);
  const noise = () => generator.normal(model.manifest.latent.reduce((product, side) => product * side));
  const states = (text) => model.text(tokenizer.read(text).ids);
  const cond = await states(asked.prompt), uncond = scale === 1 ? null : await states(asked.negative_prompt);
  let x0 = null, skip = 0;
  if (picture) {
    const {mean, std} = await model.encode(picture), drawn = noise();
    x0 = mean.map((value, k) => value + std[k] * drawn[k]);
    skip = skipped(n, asked.strength);
    if (skip === n) {
      yield {index: 0, row: null, x: x0, x0, after: x0};
      return;
    }
  }
  const first = begin(recipes, n, skip, noise(), x0);
  yield* solve(questions(recipes, n, skip), first, 
    (x, row) => model.ask(x, row, cond, uncond, scale, asked.few ? "few" : "unet"), noise);
}

/** What the step's two answers, without and with the words, believe the finished latents to be. */
export function beliefs(step) {
  const read = (output) => output && mix(step.row.x0, [step.x, output]);
  return {without: read(step.without), withWords: read(step.withWords)};
}

/** How far apart the two answers are at each place of the latents. channels: of the latents. */
export function distance(step, channels) {
  const size = step.x.length / channels, found = new Float32Array(size);
  if (!step.without) return found;
  for (let k = 0; k < size; k++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += (step.withWords[c * size + k] - step.without[c * size + k]) ** 2;
    found[k] = Math.sqrt(sum / channels);
  }
  return found;
}
