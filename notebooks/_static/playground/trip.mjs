// A picture to latents and back: <sd-trip> holds what stands there without it, and takes its place.
//
//   model, asleep   as in page.mjs
//   given           JSON: `picture`, the address of one to begin with; with a `timestep` noise is added on the way, from
//                   `seed`, as pixels or as latents

import {bell, lacking, make, megabytes, paint} from "./dom.mjs";
import {fetchUnpacked} from "./files.mjs";
import {STYLE} from "./look.mjs";
import {toBytes, toPlanes} from "./model.mjs";
import {Pad} from "./pad.mjs";
import {Generator} from "./random.mjs";
import {mix} from "./sampler.mjs";

const FACTOR = 4; // of the difference that is shown

class Trip extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot || this.known) return;
    this.known = true;
    const missing = lacking();
    if (missing) return this.refuse(`This browser is too old to compute here (it knows no ${missing}).`);
    this.prepend(bell(this, () => this.wake()));
  }

  refuse(sentence) {
    this.querySelector(".bell")?.remove();
    this.prepend(make("p", {class: "refusal"}, `${sentence} Below is what was computed before.`));
  }

  async wake() {
    this.base = new URL(this.getAttribute("model"), document.baseURI);
    this.given = JSON.parse(this.getAttribute("given"));
    this.noisy = "timestep" in this.given;
    this.number = 0;
    try {
      this.manifest = await (await fetch(this.base)).json();
      const path = new URL(this.manifest.files.levels.path, this.base).href;
      this.levels = JSON.parse(new TextDecoder().decode(await fetchUnpacked(path)));
    } catch {
      return this.refuse("The model of this site cannot be read.");
    }
    this.build();
    await this.pad.open(this.given.picture).catch(() => {});
    this.replaceChildren();
    this.draw();
  }

  build() {
    const root = this.attachShadow({mode: "open"}), {width, height} = this.manifest;
    this.pad = new Pad(this.manifest, () => this.draw());
    const panel = (name, title, text) => {
      this[name] = make("canvas", {width, height, role: "img", "aria-label": title});
      return make("figure", {}, this[name], make("figcaption", {}, make("b", {}, title), text));
    };
    const panels = make("div", {class: "panels two"}, panel("after", this.noisy ? "With noise" : "There and back",
      this.noisy ? "the picture at this timestep" : "what the decoder makes of the latents"),
      ...(this.noisy ? [] : [panel("difference", "The difference", `${FACTOR} times as large, on grey`)]));
    this.status = make("p", {class: "status", role: "status"});
    const knobs = [];
    if (this.noisy) {
      const output = make("output", {});
      this.timestep = make("input", {type: "range", min: 0, max: this.levels.length - 1, value: this.given.timestep,
        "aria-label": "Timestep", oninput: () => { output.value = this.timestep.value; this.draw(); }});
      output.value = this.given.timestep;
      this.seed = make("input", {type: "number", min: 0, max: 4294967295, value: this.given.seed, "aria-label": "Seed",
        oninput: () => this.draw()});
      const place = (value, text) => make("label", {}, make("input", {type: "radio", name: "place", value,
        checked: value === "pixels", onchange: () => { this.place = value; this.draw(); }}), text);
      this.place = "pixels";
      knobs.push(make("label", {class: "knob"}, make("span", {}, "Timestep"), this.timestep, output),
        make("div", {class: "knob"}, make("span", {}, "Seed"), this.seed),
        make("div", {class: "knob", role: "group", "aria-label": "Noise added to"}, make("span", {}, "Noise in"),
          make("div", {class: "choices"}, place("pixels", "pixels"), place("latents", "latents"))));
    }
    root.append(make("style", {}, STYLE), this.pad.node, make("div", {class: "knobs"}, ...knobs), panels, this.status);
    root.addEventListener("keydown", (event) => event.key !== "Tab" && event.stopPropagation());
  }

  draw() {
    const {signal, noise} = this.noisy ? this.levels[+this.timestep.value] : {signal: 1, noise: 0};
    const seed = this.noisy ? Math.floor(+this.seed.value) || 0 : 0, picture = this.pad.bytes();
    this.number += 1;
    this.sent = picture;
    this.said = this.noisy ? `${signal.toFixed(3)} × picture + ${noise.toFixed(3)} × noise` : "";
    if (this.noisy && this.place === "pixels") { // no network is asked
      const planes = toPlanes(picture);
      return this.show(toBytes(mix([signal, noise], [planes, new Generator(seed).normal(planes.length)])));
    }
    if (!this.worker) {
      this.worker = new Worker(new URL("worker.mjs", import.meta.url), {type: "module"});
      this.worker.onmessage = ({data}) => this.hear(data);
      this.worker.onerror = () => this.say("The work stopped. Reload the page to try again.", true);
      this.say("Fetching the autoencoder.");
    }
    this.setAttribute("busy", "");
    this.worker.postMessage({trip: this.number, picture, seed, signal, noise, base: this.base.href});
  }

  hear(data) {
    if ("fetched" in data) {
      if (!this.arrived) this.say(`Fetching the autoencoder: ${megabytes(data.fetched)} of ${megabytes(data.total)} MB.`);
    } else if ("trouble" in data) {
      this.removeAttribute("busy");
      this.say(data.trouble, true);
    } else if (data.tripped === this.number) {
      this.arrived = true;
      this.show(data.picture, data.latents);
    }
  }

  show(bytes, latents) {
    const {width} = this.manifest;
    this.removeAttribute("busy");
    paint(this.after, bytes, width);
    if (this.noisy) this.say(this.said);
    else {
      const grey = new Uint8ClampedArray(bytes.length);
      let sum = 0;
      for (let k = 0; k < bytes.length; k++) {
        const apart = bytes[k] - this.sent[k];
        grey[k] = k % 4 === 3 ? 255 : 128 + FACTOR * apart;
        if (k % 4 !== 3) sum += apart ** 2;
      }
      paint(this.difference, grey, width);
      const psnr = 10 * Math.log10(255 ** 2 / (sum / (0.75 * bytes.length)));
      this.say(`PSNR ${psnr.toFixed(1)} dB: ${0.75 * bytes.length} numbers became ${latents.length}, and came back.`);
    }
    this.dispatchEvent(new CustomEvent("tripped", {detail: {picture: bytes, latents}}));
  }

  say(sentence, trouble = false) {
    this.status.textContent = sentence;
    this.status.classList.toggle("trouble", trouble);
  }
}

customElements.define("sd-trip", Trip);
