// The landing page's picture: it develops once by itself, or under the hand, and draws the reader's own words.

import {icon, lacking, make, megabytes, paint, PAUSE, PLAY} from "./dom.mjs";
import {toColours} from "./model.mjs";
import {Generator} from "./random.mjs";

const BEAT = 190; // milliseconds a frame
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

class Toy extends HTMLElement {
  connectedCallback() {
    if (this.slider) return;
    this.given = JSON.parse(this.getAttribute("given"));
    this.cells = [...this.querySelectorAll(".film")].map((film) => ({film, strip: film.firstElementChild, frames: null}));
    this.last = Number(this.getAttribute("frames")) - 1;
    this.number = 0;
    this.build();
    this.show(calm() ? this.last : 0);
    this.begin();
  }

  build() {
    this.slider = make("input", {type: "range", min: 0, max: this.last, "aria-label": "From noise to picture",
      oninput: () => { this.stop(); this.show(+this.slider.value); }});
    this.play = make("button", {class: "play", type: "button", onclick: () => this.toggle()});
    this.said = make("p", {class: "said", role: "status"});
    const films = this.querySelector(".films"), bar = make("div", {class: "bar"}, this.play, this.slider);
    const drag = (event) => {
      if (!(event.buttons & 1)) return;
      const box = films.getBoundingClientRect();
      this.stop();
      this.show(Math.round((event.clientX - box.left) / box.width * this.slider.max));
    };
    films.addEventListener("pointerdown", drag);
    films.addEventListener("pointermove", drag);
    films.after(bar, this.said);
    this.stop();
    if (!this.hasAttribute("model")) return this.say(this.sentence());
    this.prompt = make("input", {type: "text", value: this.given.prompt, autocomplete: "off", spellcheck: "false",
      enterkeyhint: "go"});
    this.go = make("button", {type: "submit"}, "Draw");
    bar.after(make("form", {onsubmit: (event) => { event.preventDefault(); this.draw(); }},
      make("label", {}, make("span", {}, "Prompt"), this.prompt), this.go));
    this.addEventListener("keydown", (event) => event.key !== "Tab" && event.stopPropagation()); // the theme's shortcuts
    for (const button of document.querySelectorAll(".sheet button")) {
      button.addEventListener("click", () => this.take(button.dataset));
    }
    const missing = lacking();
    if (missing) {
      this.go.disabled = this.prompt.disabled = true;
      this.say(`This browser is too old to draw here (it knows no ${missing}), but it can play the film.`);
    } else {
      this.say(`${this.sentence()} Change the words and press Draw: your own browser draws them, from the same noise.`);
    }
  }

  sentence() {
    return `The words “${this.given.prompt}” and six patches of noise.`;
  }

  /** Play once, when the films are there and in sight. */
  async begin() {
    await Promise.all(this.cells.map(({strip}) => strip.decode().catch(() => {})));
    await new Promise((seen) => new IntersectionObserver(([entry], watcher) => {
      if (entry.isIntersecting) { watcher.disconnect(); seen(); }
    }).observe(this));
    await new Promise((resume) => setTimeout(resume, 700)); // in which the noise is seen
    if (!calm() && !this.timer && this.at === 0 && !this.worker) this.toggle();
  }

  say(sentence) {
    this.said.textContent = sentence;
  }

  // -- looking

  show(index) {
    this.at = Math.max(0, Math.min(index, +this.slider.max));
    this.slider.value = this.at;
    this.slider.setAttribute("aria-valuetext", this.at ? `after step ${this.at} of ${this.slider.max}` : "noise");
    for (const cell of this.cells) {
      if (!cell.frames) {
        cell.strip.style.transform = `translateY(${-100 * this.at / (this.last + 1)}%)`;
        continue;
      }
      const {bytes, width} = cell.frames[Math.min(this.at, cell.frames.length - 1)];
      paint(cell.canvas, bytes, width);
      cell.canvas.classList.toggle("rough", width < this.manifest.width);
    }
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.setAttribute("aria-label", "Play");
    this.play.replaceChildren(icon(PLAY));
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.at >= +this.slider.max) this.show(0);
    this.timer = setInterval(() => {
      if (this.at >= +this.slider.max) return this.stop();
      this.show(this.at + 1);
    }, calm() ? 1000 : BEAT);
    this.play.setAttribute("aria-label", "Pause");
    this.play.replaceChildren(icon(PAUSE));
  }

  // -- drawing

  /** A picture of the sheet: its prompt, and its seed in the first place. */
  take({prompt, seed}) {
    this.prompt.value = prompt;
    this.seeds = [+seed, ...this.given.seeds.filter((other) => other !== +seed)].slice(0, this.cells.length);
    this.scrollIntoView({block: "start", behavior: calm() ? "instant" : "smooth"});
    if (this.worker) return this.draw();
    this.go.focus({preventScroll: true});
    this.say(`“${prompt}” it is. Press Draw, or change the words first.`);
  }

  async draw() {
    this.stop();
    this.base = new URL(this.getAttribute("model"), document.baseURI);
    const number = ++this.number; // of this wish; a newer one ends it
    if (!this.worker) {
      this.worker = new Worker(new URL("worker.mjs", import.meta.url), {type: "module"});
      this.worker.onerror = () => this.say("The drawing stopped. Reload the page to try again.");
      this.worker.onmessage = ({data}) => this.hear(data);
      this.say("Fetching the model.");
    }
    try {
      this.manifest ??= await (await fetch(this.base)).json();
    } catch {
      return this.say("The model could not be fetched. Is there a connection?");
    }
    if (number !== this.number) return;
    this.asked = {...this.given, prompt: this.prompt.value, seeds: this.seeds ?? this.given.seeds};
    const {latent, colours} = this.manifest, size = latent.reduce((product, side) => product * side);
    this.slider.max = this.given.num_inference_steps;
    this.cells.forEach((cell, k) => {
      const noise = new Generator(this.asked.seeds[k]).normal(size);
      if (!cell.canvas) cell.film.append(cell.canvas = make("canvas", {role: "img"}));
      cell.canvas.setAttribute("aria-label", `${this.asked.prompt}, seed ${this.asked.seeds[k]}`);
      cell.frames = [{bytes: toColours(noise, colours), width: latent[2]}];
    });
    this.show(0);
    this.setAttribute("busy", "");
    this.next(0);
  }

  next(cell) {
    const {seeds, prompt, negative_prompt, num_inference_steps, guidance_scale, sampler} = this.asked;
    this.drawing = {cell, draw: this.drawing ? this.drawing.draw + 1 : 1};
    const settings = {prompt, negative_prompt, num_inference_steps, guidance_scale, sampler, seed: seeds[cell]};
    this.worker.postMessage({draw: this.drawing.draw, settings, picture: null, base: this.base.href});
  }

  hear(data) {
    if ("fetched" in data) {
      if (!this.awake) this.say(data.fetched < data.total
        ? `Fetching the model: ${megabytes(data.fetched)} of ${megabytes(data.total)} MB. Your browser will keep it.`
        : "The model is here. It wakes up.");
      return;
    }
    const {cell, draw} = this.drawing;
    if (data.draw !== draw && data.drawn !== draw) return;
    if ("trouble" in data) {
      this.removeAttribute("busy");
      this.say(data.trouble);
      return;
    }
    this.awake = true;
    const {frames} = this.cells[cell], {width, latent} = this.manifest;
    if ("step" in data) {
      frames.push(data.x0 ? {bytes: data.x0, width} : {bytes: data.rough, width: latent[2]});
      this.say(`Picture ${cell + 1} of ${this.cells.length}, step ${frames.length - 1} of ${this.given.num_inference_steps}`);
    } else if ("drawn" in data) {
      frames[frames.length - 1] = {bytes: data.picture, width};
      this.dispatchEvent(new CustomEvent("drawn", {detail: {...data, cell, seed: this.asked.seeds[cell]}}));
      if (cell + 1 < this.cells.length) this.next(cell + 1);
      else {
        this.removeAttribute("busy");
        this.say("Drawn here, by your own browser. Drag the slider back to the noise, or write something else.");
      }
    }
    if (!this.timer) this.show(+this.slider.max);
  }
}

customElements.define("sd-toy", Toy);
