// The playground: <sd-playground> holds what stands there without it, and takes its place.
//
//   model   the address of model.json
//   given   JSON: the settings to begin with, and perhaps `picture`, the address of one to begin with
//   shows   names of the parts that a lesson's explorer has; without it, all of PARTS
//   asleep  words of a button, before which nothing but this script is fetched and what stands here stays

import {bell, download, icon, lacking, make, megabytes, paint, PAUSE, PLAY} from "./dom.mjs";
import {fetchUnpacked, keep} from "./files.mjs";
import {STYLE} from "./look.mjs";
import {toColours} from "./model.mjs";
import {Pad} from "./pad.mjs";
import {Generator} from "./random.mjs";
import {skipped} from "./sampler.mjs";
import {fromHash, toHash, toJson, toPython, withText} from "./settings.mjs";
import {Tokenizer} from "./tokenizer.mjs";

const WAIT = 500, SOON = 60; // milliseconds after the last change before the picture is drawn anew; and in few steps
const BEAT = 160; // milliseconds a frame of the replay
const PARTS = ["ideas", "few", "seed", "num_inference_steps", "guidance_scale", "sampler", "negative_prompt", "start", "again", "inside",
  "take"];
const MODULES = ["worker", "draw", "files", "lora", "model", "random", "sampler", "tokenizer"];

const dot = (x, y) => `M${x - 1.6} ${y} a1.6 1.6 0 1 0 3.2 0 a1.6 1.6 0 1 0 -3.2 0 Z`;
const DICE = `M4 1 H14 A3 3 0 0 1 17 4 V14 A3 3 0 0 1 14 17 H4 A3 3 0 0 1 1 14 V4 A3 3 0 0 1 4 1 Z ${
  [[5, 5], [13, 5], [9, 9], [5, 13], [13, 13]].map(([x, y]) => dot(x, y)).join(" ")}`;

class Playground extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot || this.known) return;
    this.known = true;
    const missing = lacking();
    if (missing) return this.refuse(`This browser is too old to draw here (it knows no ${missing}).`);
    if (this.hasAttribute("asleep")) this.prepend(bell(this, () => this.wake()));
    else this.wake();
  }

  async wake() {
    this.base = new URL(this.getAttribute("model"), document.baseURI);
    try {
      this.manifest = await (await fetch(this.base)).json();
    } catch {
      return this.refuse("The model of this site cannot be read.");
    }
    this.parts = new Set(this.hasAttribute("shows") ? this.getAttribute("shows").split(" ") : PARTS);
    const {picture, ...given} = JSON.parse(this.getAttribute("given") ?? "{}");
    this.frames = [];
    this.at = 0;
    this.number = 0;
    this.build();
    this.set(given);
    if (picture) await this.pad.open(picture).catch(() => {});
    if (this.hasAttribute("asleep")) {
      this.from(this.parts.has("start") ? "picture" : "noise");
      this.inputs.prompt.focus({preventScroll: true});
      await this.learn();
      if (!this.parts.has("near")) this.draw();
    } else {
      this.restore();
      addEventListener("hashchange", () => this.restore());
    }
    this.replaceChildren();
  }

  /** Leave what stands here without the playground, and say why. */
  refuse(sentence) {
    this.classList.remove("waits");
    this.querySelector(".bell")?.remove();
    this.prepend(make("p", {class: "refusal"}, `${sentence} Below is a run that was drawn before.`));
  }

  build() {
    const {manifest} = this, {samplers, prompts, defaults} = manifest;
    const root = this.attachShadow({mode: "open"});
    const redraw = () => this.changed();

    const prompt = make("input", {type: "text", autocomplete: "off", spellcheck: "false", enterkeyhint: "go",
      placeholder: prompts[0], oninput: () => { this.read(); redraw(); }});
    this.go = make("button", {class: "go", type: "submit"}, "Draw");
    const ask = make("form", {class: "ask", onsubmit: (event) => { event.preventDefault(); this.draw(); }},
      make("label", {}, make("span", {class: "unseen"}, "Prompt"), prompt), this.go);
    this.pieces = make("ul", {class: "row pieces", "aria-label": "The pieces that the model reads"},
      make("li", {class: "hint"}, "Type, and see the pieces that the model reads."));
    const ideas = make("div", {class: "row", role: "group", "aria-label": "Prompts to try"},
      make("span", {class: "hint"}, "Try"), ...prompts.map((text) => make("button", {class: "idea", type: "button",
        title: text,
        onclick: () => { prompt.value = text; this.read(); this.draw(); }}, text.replace(/^an? | on .*$/g, ""))));

    this.near = make("dl", {class: "near", hidden: !this.parts.has("near")});

    this.screen = make("canvas", {role: "img", "aria-label": "The picture"});
    this.map = make("canvas", {class: "map", "aria-hidden": "true"});
    this.loaded = make("div", {});
    this.loading = make("div", {class: "load", hidden: true}, this.loaded);
    this.slider = make("input", {type: "range", min: 0, max: 0, value: 0, "aria-label": "Step",
      oninput: () => { this.stop(); this.show(+this.slider.value); }});
    this.play = make("button", {class: "play", type: "button", onclick: () => this.toggle()});
    this.bar = make("div", {class: "bar", hidden: true}, this.play, this.slider);
    this.said = make("p", {class: "said"});
    this.status = make("p", {class: "status", role: "status"});
    const left = make("div", {}, make("div", {class: "stage"}, this.screen, this.map, this.loading), this.bar, this.said,
      this.status);

    const knob = (name, input, ...more) => {
      input.setAttribute("aria-label", name); // without what stands beside it
      return make("label", {class: "knob"}, make("span", {}, name), input, ...more);
    };
    const range = (name, low, high, step) => {
      const output = make("output", {}), input = make("input", {type: "range", min: low, max: high, step,
        oninput: () => { output.value = input.value; redraw(); }});
      return {input, label: knob(name, input, output), say: () => { output.value = input.value; }};
    };
    const seed = make("input", {type: "number", "aria-label": "Seed", min: 0, max: 4294967295, step: 1, inputmode: "numeric",
      oninput: () => { if (!this.frames.length) this.show(0); redraw(); }});
    const dice = make("button", {class: "dice", type: "button", "aria-label": "Another seed", title: "Another seed",
      onclick: () => { seed.value = Math.floor(Math.random() * 10000); if (!this.frames.length) this.show(0); redraw(); }},
      icon(DICE));
    const steps = range("Steps", 1, 50, 1), guidance = range("Guidance", 1, 12, 0.5), strength = range("Strength", 0, 1, 0.05);
    const sampler = make("select", {onchange: () => { this.limit(); redraw(); }},
      ...Object.keys(samplers).map((name) => make("option", {value: name}, name)));
    const negative = make("input", {type: "text", autocomplete: "off", spellcheck: "false", oninput: redraw,
      placeholder: "what should not be in it"});
    this.pad = new Pad(manifest, redraw);
    this.started = make("div", {hidden: true}, this.pad.node, strength.label);
    const from = (value, text) => {
      this.starts[value] = make("input", {type: "radio", name: "from", value, onchange: () => { this.from(value); redraw(); }});
      return make("label", {}, this.starts[value], text);
    };
    this.starts = {};
    const start = make("div", {class: "knob", role: "group", "aria-label": "Start from"}, make("span", {}, "Start from"),
      make("div", {class: "choices"}, from("noise", "pure noise"), from("picture", "a sketch or photograph")));
    this.from("noise");
    this.eager = make("input", {type: "checkbox", checked: true});
    this.few = make("input", {type: "checkbox", onchange: () => this.hurry()});
    const few = make("label", {class: "tick", hidden: !manifest.few || !this.parts.has("few")}, this.few,
      `Draw while I type, in ${manifest.few?.num_inference_steps} steps`);
    this.ranges = {num_inference_steps: steps, guidance_scale: guidance, strength};
    this.inputs = {prompt, negative_prompt: negative, seed, num_inference_steps: steps.input,
      guidance_scale: guidance.input, sampler, strength: strength.input};
    const rows = {seed: make("div", {class: "knob"}, make("span", {}, "Seed"), seed, dice), num_inference_steps: steps.label,
      guidance_scale: guidance.label, sampler: knob("Sampler", sampler), negative_prompt: knob("Leave out", negative), start};
    const knobs = make("div", {class: "knobs"}, few, ...Object.values(rows), this.started,
      make("label", {class: "tick", hidden: !this.parts.has("again")}, this.eager, "Draw again at every change"));
    for (const [name, row] of Object.entries(rows)) row.hidden = !this.parts.has(name);

    this.panels = {};
    const panel = (name, title, text) => {
      this.panels[name] = make("canvas", {role: "img", "aria-label": title});
      return make("figure", {}, this.panels[name], make("figcaption", {}, make("b", {}, title), text));
    };
    this.sum = make("p", {class: "sum"});
    this.inside = make("section", {class: "inside", hidden: true}, make("h2", {}, "Inside this step"),
      make("div", {class: "panels"}, panel("x", "What it has, xₜ", "the picture under its noise"),
        panel("x0", "What it believes, x̂₀", "the finished picture, guessed from here"),
        panel("without", "Without your words", "what it would draw anyway"),
        panel("withWords", "With your words", "what the prompt asks for"),
        panel("distance", "The difference", "where your words change most")), this.sum);

    this.python = make("pre", {tabindex: 0, "aria-label": "The same in Python"});
    const action = (text, onclick) => make("button", {class: "small", type: "button", onclick}, text);
    this.save = action("Save the picture", () => this.store());
    this.save.disabled = true;
    this.take = make("section", {class: "take"}, make("h2", {}, "Take it with you"), make("div", {class: "row"}, this.save,
      action("Copy a link", () => this.copy(this.link(), "The link is copied.")),
      action("Copy the Python", () => this.copy(this.python.textContent, "The lines are copied."))), this.python);

    const desk = make("div", {class: "desk"}, left, knobs), reads = this.parts.has("near");
    ideas.hidden = !this.parts.has("ideas");
    this.take.hidden = !this.parts.has("take");
    desk.hidden = this.go.hidden = reads; // to read a sentence takes no picture
    root.append(make("style", {}, STYLE), ask, this.pieces, this.near, ideas, desk, this.inside, this.take);
    root.addEventListener("focusin", () => this.learn(), {once: true});
    root.addEventListener("pointerdown", () => this.learn(), {once: true});
    root.addEventListener("keydown", (event) => event.key !== "Tab" && event.stopPropagation()); // the theme's shortcuts
    this.stop();
    this.set(defaults);
  }

  /** What the controls say now. */
  asked() {
    const found = Object.fromEntries(Object.entries(this.inputs).map(([name, input]) =>
      [name, ["prompt", "negative_prompt", "sampler"].includes(name) ? input.value : Number(input.value)]));
    found.seed = Math.min(4294967295, Math.max(0, Math.floor(found.seed) || 0));
    if (this.started.hidden) delete found.strength;
    if (this.few.checked) Object.assign(found, this.fixed());
    return found;
  }

  /** What the model that draws in few steps asks for. */
  fixed() {
    const {lora, ...how} = this.manifest.few;
    return {...how, few: true};
  }

  /** In few steps, or as before: the knobs that few steps leave no choice about are still. */
  hurry() {
    for (const name of ["num_inference_steps", "guidance_scale", "sampler", "negative_prompt"]) {
      this.inputs[name].disabled = this.few.checked;
    }
    this.draw();
  }

  /** Begin with "noise" or with a "picture". */
  from(value) {
    this.starts[value].checked = true;
    this.started.hidden = value === "noise";
  }

  /** Set the controls. */
  set(settings) {
    for (const [name, value] of Object.entries(settings)) {
      const input = this.inputs[name];
      if (input && (input.tagName !== "SELECT" || this.manifest.samplers[value])) input.value = value;
    }
    this.limit();
    for (const {say} of Object.values(this.ranges)) say();
    this.read();
    this.tell();
    if (!this.frames.length) this.show(0);
  }

  /** As many steps as the sampler can take. */
  limit() {
    const {num_inference_steps: steps} = this.ranges;
    steps.input.max = this.manifest.samplers[this.inputs.sampler.value].most;
    steps.say();
  }

  restore() {
    const found = fromHash(location.hash);
    if (!Object.keys(found).length) return;
    this.from(found.strength === undefined ? "noise" : "picture");
    this.set(found);
    this.say("These are the settings of a link. Press Draw.");
  }

  link() {
    return location.href.split("#")[0] + toHash(this.asked());
  }

  tell() {
    const {load, few} = this.manifest;
    const fast = load.replace(/\)$/, `${load.endsWith("()") ? "" : ", "}lora="${few?.lora}")`);
    this.python.textContent = toPython(this.asked(), this.few.checked ? fast : load, !this.started.hidden);
  }

  say(sentence, trouble = false) {
    this.status.textContent = sentence;
    this.status.classList.toggle("trouble", trouble);
  }

  changed() {
    this.tell();
    clearTimeout(this.later);
    const few = this.few.checked;
    if (this.frames.length && (few || this.eager.checked)) this.later = setTimeout(() => this.draw(), few ? SOON : WAIT);
  }

  // -- words

  /** Fetch the tokenizer, when the reader begins to do something. */
  async learn() {
    if (this.tokenizer) return;
    const {files, tokens} = this.manifest;
    const bytes = await fetchUnpacked(new URL(files.merges.path, this.base).href).catch(() => null);
    if (!bytes) return;
    this.tokenizer = new Tokenizer(new TextDecoder().decode(bytes), tokens);
    this.live = tokens.live && new Set(tokens.live);
    if (this.parts.has("near") && files.near) {
      const near = await fetchUnpacked(new URL(files.near.path, this.base).href).catch(() => null);
      this.rows = near && JSON.parse(new TextDecoder().decode(near));
    }
    this.read();
  }

  /** Show the pieces of the prompt. */
  read() {
    this.spot(null);
    if (!this.tokenizer) return;
    const {words, lost} = this.tokenizer.read(this.inputs.prompt.value), {live} = this.manifest.tokens;
    const chips = words.map((id, k) => {
      const piece = this.tokenizer.pieces[id], strange = this.live && (!this.live.has(id) || id === live[0]);
      const ends = piece.endsWith("</w>"), text = this.tokenizer.decode([id]) || piece;
      const say = strange ? `${text}: this model has learned nothing about it` : `${text}: token ${id}`;
      const chip = make("button", {type: "button", title: say, "aria-label": say,
        class: `piece${ends ? "" : " part"}${strange ? " strange" : ""}`}, text);
      for (const event of ["pointerenter", "focus"]) chip.addEventListener(event, () => this.spot(k + 1));
      for (const event of ["pointerleave", "blur"]) chip.addEventListener(event, () => this.spot(null));
      return make("li", {}, chip);
    });
    const rest = lost ? [make("li", {class: "hint"}, `… and no room for: ${lost}`)] : [];
    const none = make("li", {class: "hint"}, "No words: the model draws what it likes.");
    this.pieces.replaceChildren(...(chips.length ? chips : [none]), ...rest);
    if (!this.rows) return;
    this.near.replaceChildren(make("dt", {}, "piece"), make("dd", {}, "id"), make("dd", {}, "nearest rows of the token table"),
      ...[...new Set(words)].flatMap((id) => [make("dt", {}, this.tokenizer.decode([id])), make("dd", {}, id),
        make("dd", {}, this.rows[id]?.map((row) => this.tokenizer.decode([row])).join(", ") ?? "none: nothing is learned")]));
  }

  /** Light up where the network reads a token, at the step that is shown; null for none. */
  spot(place) {
    this.place = place;
    const [height, width] = this.manifest.attention, size = width * height;
    const maps = this.frames.slice(1).filter((frame) => frame.attention);
    const seen = this.at > 0 && this.at <= maps.length ? [maps[this.at - 1]] : maps;
    const fits = this.drawn?.prompt === this.inputs.prompt.value;
    const bytes = new Uint8ClampedArray(4 * size);
    if (place !== null && seen.length && fits) {
      const values = new Float32Array(size);
      for (const {attention} of seen) for (let k = 0; k < size; k++) values[k] += attention[place * size + k];
      const low = Math.min(...values), high = Math.max(...values);
      values.forEach((value, k) => { bytes[4 * k + 3] = 215 * (1 - (value - low) / (high - low || 1)); });
    }
    paint(this.map, bytes, width);
  }

  // -- drawing

  draw() {
    clearTimeout(this.later);
    if (!this.worker) {
      this.worker = new Worker(new URL("worker.mjs", import.meta.url), {type: "module"});
      this.worker.onmessage = ({data}) => this.hear(data);
      this.worker.onerror = () => this.say("The drawing stopped. Reload the page to try again.", true);
      this.say("Fetching the model.");
    }
    this.stop();
    this.number += 1;
    this.pending = this.asked();
    this.begun = this.started.hidden ? null : this.pad.bytes();
    this.arrived = null;
    this.tell();
    this.setAttribute("busy", "");
    this.worker.postMessage({draw: this.number, settings: this.pending, picture: this.begun, base: this.base.href});
  }

  hear(data) {
    if ("fetched" in data) {
      const {fetched, total} = data;
      this.loading.hidden = fetched >= total;
      this.loaded.style.width = `${Math.min(100, 100 * fetched / total)}%`;
      if (!this.arrived) this.say(fetched < total
        ? `Fetching the model: ${megabytes(fetched)} of ${megabytes(total)} MB. Your browser will keep it.`
        : "The model is here. It wakes up.");
      return;
    }
    if (data.draw !== this.number && data.drawn !== this.number) return;
    if ("trouble" in data) {
      this.removeAttribute("busy");
      this.loading.hidden = true;
      this.say(data.trouble, true);
    } else if ("step" in data) {
      if (!this.arrived) {
        this.arrived = [{}];
        this.frames = this.arrived;
        this.drawn = this.pending;
        this.bar.hidden = false;
        this.inside.hidden = !this.parts.has("inside");
      }
      this.arrived.push(data);
      this.slider.max = this.total() + 1;
      this.show(this.arrived.length - 1, false);
      this.say(`Step ${this.arrived.length - 1} of ${this.total()}`);
    } else if ("drawn" in data) {
      this.frames.push({picture: data.picture});
      this.slider.max = this.frames.length - 1;
      this.save.disabled = false;
      this.removeAttribute("busy");
      this.show(this.frames.length - 1);
      this.say(`Drawn in ${(data.milliseconds / 1000).toFixed(1)} seconds, in this browser.`);
      this.dispatchEvent(new CustomEvent("drawn", {detail: {...data, settings: this.drawn}}));
      this.settle();
      for (const [k, frame] of this.frames.entries()) { // what was only rough so far, while nothing else is to do
        if (frame.rough && !frame.x0) this.worker.postMessage({look: k - 1, draw: this.number});
      }
    } else if ("seen" in data) {
      const frame = this.frames[data.seen + 1];
      if (data.x0) frame.x0 = data.x0;
      if (data.inside) frame.inside = data.inside;
      if (this.at === data.seen + 1 && data.x0) this.show(this.at, false);
      if (this.step() === data.seen && data.inside) this.uncover(frame);
    }
  }

  /** How many answers of the network the run will take, roughly while it runs. */
  total() {
    const {num_inference_steps: n, strength} = this.drawn ?? this.asked();
    const asked = this.frames.filter((frame) => frame.rough).length;
    return Math.max(asked, strength === undefined ? n : n - skipped(n, strength), 1);
  }

  /** Let the browser keep what it needs to draw without a connection. */
  async settle() {
    if (this.settled || this.hasAttribute("asleep")) return; // a lesson needs its site anyway
    this.settled = true;
    const {files, samplers} = this.manifest, here = location.href.split("#")[0];
    const model = [...Object.values(files), ...Object.values(samplers)].map(({path}) => new URL(path, this.base).href);
    const loaded = performance.getEntriesByType("resource").map(({name}) => name);
    const light = loaded.filter((url) => url.startsWith(new URL(".", here).href) && !url.endsWith(".gz"));
    const modules = MODULES.map((name) => new URL(`${name}.mjs`, import.meta.url).href);
    const script = new URL(files.script.path, this.base).href;
    const pages = [...new Set([here, this.base.href, script, ...modules, ...light])];
    try {
      const service = new URL("playground-service.mjs", here);
      await navigator.serviceWorker.register(service); // for the whole site, since the worker's own script is a part of it
      if (await keep(model, pages)) this.say(`${this.status.textContent} From now on it draws without a connection, too.`);
    } catch { } // a browser that keeps nothing draws all the same
    this.setAttribute("settled", "");
  }

  // -- looking

  /** The question that the shown frame belongs to. */
  step() {
    const last = this.frames.filter((frame) => frame.row).length - 1;
    return Math.min(last, Math.max(0, this.at - 1));
  }

  show(index, look = true) {
    const {manifest} = this, {latent, colours, width} = manifest;
    this.at = Math.max(0, Math.min(index, Math.max(0, this.frames.length - 1)));
    this.slider.value = this.at;
    const frame = this.frames[this.at], asked = this.drawn ?? this.asked(), total = this.total();
    this.screen.classList.toggle("crisp", this.at === 0);
    let label;
    if (this.at === 0 && this.begun) {
      paint(this.screen, this.begun, width);
      label = ["Your picture", "before the noise"];
    } else if (this.at === 0) {
      const noise = new Generator(asked.seed).normal(latent.reduce((product, side) => product * side));
      paint(this.screen, toColours(noise, colours), latent[2]);
      label = [`Noise, seed ${asked.seed}`, this.frames.length ? "where it began" : "the picture begins here: press Draw"];
    } else if (frame.picture) {
      paint(this.screen, frame.picture, width);
      label = [asked.prompt || "no words", `seed ${asked.seed}, ${asked.num_inference_steps} steps of ${asked.sampler}`];
    } else {
      if (frame.x0) paint(this.screen, frame.x0, width);
      else paint(this.screen, frame.rough, latent[2]);
      label = [`Step ${this.at} of ${total}`, frame.row ? `timestep ${+frame.row.t.toFixed(1)}, noise ${this.amount(frame.row)}` +
        ": the picture that the network believes in" : "to latents and back"];
    }
    this.said.replaceChildren(make("b", {}, label[0]), `, ${label[1]}`);
    this.screen.setAttribute("aria-label", label.join(", "));
    this.slider.setAttribute("aria-valuetext", label.join(", "));
    this.spot(this.place);
    if (frame && look) this.look();
  }

  amount({signal, noise}) {
    return `${Math.round(100 * noise / Math.hypot(signal, noise))} %`;
  }

  /** Ask what there is to see inside the step. */
  look() {
    const step = this.step(), frame = this.frames[step + 1];
    if (!frame?.row || this.hasAttribute("busy") || this.inside.hidden) return;
    if (frame.inside) return this.uncover(frame);
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.worker.postMessage({look: step, draw: this.number, inside: true}), 60);
  }

  uncover({x0, inside}) {
    const {width, latent} = this.manifest, {guidance_scale: scale, negative_prompt: negative} = this.drawn;
    const {panels} = this;
    paint(panels.x, inside.x, width);
    paint(panels.x0, x0, width);
    paint(panels.without, inside.without ?? x0, width);
    paint(panels.withWords, inside.withWords ?? x0, width);
    const most = Math.max(...inside.distance) || 1, heat = new Uint8ClampedArray(4 * inside.distance.length);
    inside.distance.forEach((value, k) => {
      const part = value / most;
      heat.set([255 * Math.min(1, 2 * part), 255 * part ** 1.5, 255 * (0.25 * (1 - part) + part ** 4), 255], 4 * k);
    });
    paint(panels.distance, heat, latent[2]);
    panels.distance.classList.add("crisp");
    const than = negative ? `“${negative}”` : "no words";
    this.sum.textContent = scale === 1 ? "With guidance 1 the network is asked once, with your words."
      : `The network is asked twice, with ${than} and with your prompt. Guidance goes ${scale} times the way from the first ` +
        "answer to the second.";
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.setAttribute("aria-label", "Play");
    this.play.replaceChildren(icon(PLAY));
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.at >= this.frames.length - 1) this.show(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.timer = setInterval(() => {
      if (this.at >= this.frames.length - 1) return this.stop();
      this.show(this.at + 1);
    }, calm ? 1000 : BEAT);
    this.play.setAttribute("aria-label", "Pause");
    this.play.replaceChildren(icon(PAUSE));
  }

  // -- taking away

  async copy(text, done) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(done);
    } catch {
      this.say("This browser lets no page copy; select the lines below and copy them.", true);
    }
  }

  /** The finished picture as a PNG that sdlearn.read_settings reads. */
  async png() {
    const {manifest: {settings, width, height}, drawn} = this, {strength, few, ...asked} = drawn;
    const canvas = make("canvas", {width, height});
    paint(canvas, this.frames.at(-1).picture, width);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    const model = few ? `${settings.model} + ${this.manifest.few.lora}` : settings.model;
    const start = strength === undefined ? {} : {start_step: skipped(asked.num_inference_steps, strength)};
    return withText(new Uint8Array(await blob.arrayBuffer()), "sdlearn", toJson({...settings, model, ...asked, ...start}));
  }

  async store() {
    const name = this.drawn.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-|-$/g, "") || "picture";
    download(`${name}-${this.drawn.seed}.png`, new Blob([await this.png()], {type: "image/png"}));
  }
}

customElements.define("sd-playground", Playground);
