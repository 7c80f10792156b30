// The sampling loop. It knows no sampler: each is a recipe of coefficients that Python wrote (sdlearn.tools.playground).

/** The sum of arrays, each times its factor, as float32. */
export function mix(factors, arrays) {
  const found = new Float32Array(arrays[0].length);
  const used = factors.map((factor, k) => [factor, arrays[k]]).filter(([factor]) => factor !== 0);
  for (let place = 0; place < found.length; place++) {
    let sum = 0;
    for (const [factor, array] of used) sum += factor * array[place];
    found[place] = sum;
  }
  return found;
}

/** Classifier-free guidance (Ho & Salimans 2022): from the prediction without the words, past the one with them. */
export function guide(without, withWords, scale) {
  return mix([1 - scale, scale], [without, withWords]);
}

/** How many of n steps are skipped at a strength, as in Python. */
export const skipped = (n, strength) => n - Math.floor(n * strength);

/** The questions of a run of n steps of which the first are skipped. recipes: of one sampler. */
export function questions(recipes, n, skip = 0) {
  const {rows, starts} = recipes[n];
  if (!skip) return rows;
  const [head, tail] = starts[skip - 1];
  return [...head, ...rows.slice(rows.length - tail)];
}

/** The latents that a run begins with. x0: of a picture to begin with, or null. */
export function begin(recipes, n, skip, noise, x0) {
  const [first] = questions(recipes, n, skip);
  return x0 ? mix([first.signal, first.noise], [x0, noise]) : mix([recipes[n].scale], [noise]);
}

/**
 * Diffusion: ask the network, and let the recipe take a step on its answers. Yields a step for every question:
 * {index, row, x, x0, after, ...answer}.
 *
 * ask: async (unit latents, row) => {output, ...}. fresh: () => noise, for samplers that add some.
 */
export async function* solve(rows, x, ask, fresh) {
  const latents = [], outputs = []; // the newest first
  for (const [index, row] of rows.entries()) {
    const answer = await ask(mix([row.scale], [x]), row);
    latents.unshift(x);
    outputs.unshift(answer.output);
    latents.length = outputs.length = Math.min(latents.length, 5);
    const renewed = row.fresh ? [[row.fresh], [fresh()]] : [[], []];
    const after = mix([...row.x, ...row.out, ...renewed[0]],
      [...latents.slice(0, row.x.length), ...outputs.slice(0, row.out.length), ...renewed[1]]);
    yield {index, row, x, x0: mix(row.x0, [x, answer.output]), after, ...answer};
    x = after;
  }
}
