// A sheet to begin with: a sketch made with a finger, a mouse or the keys, or a photograph, or both.

import {download, make} from "./dom.mjs";

const COLOURS = {
  red: "#e5383b", orange: "#f48c06", yellow: "#ffd60a", green: "#38b000", "sky blue": "#48bfe3", blue: "#1d4ed8",
  purple: "#7b2cbf", pink: "#ff70a6", brown: "#7f5539", black: "#111111", grey: "#9ca3af", white: "#ffffff",
};

export class Pad {
  /** manifest: says the size. changed: called after each stroke. */
  constructor({width, height}, changed) {
    Object.assign(this, {width, height, changed, colour: COLOURS.red, at: [width / 2, height / 2]});
    this.canvas = make("canvas", {width, height, tabindex: 0, role: "application",
      "aria-label": "A sheet to draw on. Arrow keys move the brush, the space bar paints."});
    this.pen = this.canvas.getContext("2d", {willReadFrequently: true});
    this.cursor = make("div", {class: "cursor"});
    this.cursor.hidden = true;
    this.listen();
    const swatches = make("fieldset", {class: "swatches"}, make("legend", {class: "unseen"}, "Colour"),
      ...Object.entries(COLOURS).map(([name, value]) => {
        const input = make("input", {type: "radio", name: "colour", value, "aria-label": name,
          checked: value === this.colour, onchange: () => { this.colour = value; }});
        const swatch = make("label", {class: "swatch", title: name}, input);
        swatch.style.background = value;
        return swatch;
      }));
    const file = make("input", {type: "file", accept: "image/*", class: "unseen", tabindex: -1,
      "aria-label": "A photograph to begin with", onchange: () => this.photograph(file.files[0])});
    const button = (text, onclick) => make("button", {type: "button", class: "small", onclick}, text);
    this.told = make("p", {class: "status", role: "status"});
    this.node = make("div", {class: "pad"}, make("div", {class: "paper"}, this.canvas, this.cursor), make("div",
      {class: "tools"}, swatches, make("div", {class: "row"}, button("Photograph", () => file.click()),
        button("Fill", () => this.fill(this.colour)), button("Save the start", () => this.store())), file, this.told));
    this.example();
  }

  /** Something to begin with: an orange head with two ears on a blue ground. */
  example() {
    const {pen, width, height} = this, at = (...places) => places.map(([x, y]) => [x * width, y * height]);
    this.fill(COLOURS["sky blue"], true);
    pen.fillStyle = COLOURS.orange;
    for (const ear of [at([0.2, 0.5], [0.22, 0.12], [0.5, 0.4]), at([0.8, 0.5], [0.78, 0.12], [0.5, 0.4])]) {
      pen.beginPath();
      for (const place of ear) pen.lineTo(...place);
      pen.fill();
    }
    pen.beginPath();
    pen.ellipse(width / 2, 0.58 * height, 0.33 * width, 0.28 * height, 0, 0, 2 * Math.PI);
    pen.fill();
  }

  listen() {
    const {canvas} = this, place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width * this.width, (event.clientY - box.top) / box.height * this.height];
    };
    let drawing = false;
    canvas.addEventListener("pointerdown", (event) => {
      drawing = true;
      canvas.setPointerCapture(event.pointerId);
      this.at = place(event);
      this.stroke(this.at);
    });
    canvas.addEventListener("pointermove", (event) => { if (drawing) this.stroke(place(event)); });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { if (drawing) this.changed(); drawing = false; });
    }
    canvas.addEventListener("keydown", (event) => {
      const far = this.width / 16, way = {ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far]};
      if (event.key === " " || event.key === "Enter") {
        this.stroke(this.at);
        this.changed();
      } else if (way[event.key]) {
        const [x, y] = this.at.map((value, k) => value + way[event.key][k]);
        this.at = [Math.max(0, Math.min(this.width, x)), Math.max(0, Math.min(this.height, y))];
        this.point();
      } else {
        return;
      }
      event.preventDefault();
    });
    canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) this.point(); });
    canvas.addEventListener("blur", () => { this.cursor.hidden = true; });
  }

  point() {
    this.cursor.hidden = false;
    Object.assign(this.cursor.style, {left: `${100 * this.at[0] / this.width}%`, top: `${100 * this.at[1] / this.height}%`});
  }

  stroke(to) {
    const {pen} = this;
    Object.assign(pen, {strokeStyle: this.colour, lineWidth: this.width / 8, lineCap: "round"});
    pen.beginPath();
    pen.moveTo(...this.at);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    this.at = to;
  }

  fill(colour, quietly = false) {
    this.pen.fillStyle = colour;
    this.pen.fillRect(0, 0, this.width, this.height);
    if (!quietly) this.changed();
  }

  /** A picture from a file, cut about its middle to the sheet's shape. */
  async photograph(file) {
    if (!file) return;
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      this.told.textContent = `${file.name} is no picture that this browser can read; choose a PNG or JPEG.`;
      return;
    }
    this.told.textContent = "";
    const scale = Math.max(this.width / picture.width, this.height / picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    this.fill(COLOURS.white, true);
    this.pen.imageSmoothingQuality = "high";
    this.pen.drawImage(picture, (this.width - w) / 2, (this.height - h) / 2, w, h);
    this.changed();
  }

  /** A picture from an address. */
  async open(address) {
    const picture = new Image();
    picture.src = address;
    await picture.decode();
    this.pen.drawImage(picture, 0, 0, this.width, this.height);
  }

  /** What is on the sheet. */
  bytes() {
    return this.pen.getImageData(0, 0, this.width, this.height).data;
  }

  store() {
    this.canvas.toBlob((blob) => download("start.png", blob), "image/png");
  }
}
