// What the playground's engine makes of questions from Python: node browser_engine.mjs FOLDER < questions.json
// FOLDER holds the engine; a question is {do: NAME, ...} and every answer is one line of JSON.
import {readFileSync, writeFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
import {gunzipSync} from "node:zlib";

const engine = (name) => import(new URL(`${name}.mjs`, pathToFileURL(`${process.argv[2]}/`)));
const {Generator} = await engine("random"), {Tokenizer} = await engine("tokenizer");
const {begin, guide, questions, solve} = await engine("sampler"), settings = await engine("settings");
const {addLora, fromHalf, toHalf} = await engine("lora");
const unpacked = (path) => gunzipSync(readFileSync(path)).toString();

const ANSWERS = {
  // Numbers from one generator, drawn in portions.
  normal: ({seed, counts}) => {
    const generator = new Generator(seed);
    return counts.map((count) => [...generator.normal(count)]);
  },
  tokens: ({merges, marks, texts}) => {
    const tokenizer = new Tokenizer(unpacked(merges), marks);
    return texts.map((text) => ({...tokenizer.read(text), all: tokenizer.encode(text), again: tokenizer.decode(tokenizer.encode(text))}));
  },
  // A run on a network that answers a x + b t / 1000 + c, with and without words.
  run: async ({recipes, steps, skip, seed, count, x0, scale, weights}) => {
    const table = JSON.parse(unpacked(recipes)), generator = new Generator(seed);
    const noise = () => generator.normal(count), states = [];
    const answer = ([a, b, c], x, row) => x.map((value) => a * value + b * row.t / 1000 + c);
    const ask = async (x, row) => ({output: guide(answer(weights[0], x, row), answer(weights[1], x, row), scale)});
    const first = begin(table, steps, skip, noise(), x0 && Float32Array.from(x0));
    for await (const step of solve(questions(table, steps, skip), first, ask, noise)) states.push([...step.after]);
    return {states, t: questions(table, steps, skip).map((row) => row.t)};
  },
  halves: ({bits, floats}) => [bits.map(fromHalf), floats.map(toHalf)],
  lora: ({unet, few, out}) => {
    const [file, lora] = [unet, few].map((path) => new Uint8Array(gunzipSync(readFileSync(path))));
    writeFileSync(out, addLora(file, lora));
    return null;
  },
  link: ({hash, asked}) => ({hash: settings.toHash(asked), back: settings.fromHash(hash ?? settings.toHash(asked))}),
  python: ({asked, load, started}) => settings.toPython(asked, load, started),
  png: ({png, text}) => Buffer.from(settings.withText(new Uint8Array(Buffer.from(png, "base64")), "sdlearn",
    settings.toJson(text))).toString("base64"),
};

for (const question of JSON.parse(readFileSync(0).toString())) {
  console.log(JSON.stringify(await ANSWERS[question.do](question)));
}
