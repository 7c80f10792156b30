// Elements, and files to save.

/** An element with attributes (functions listen: {onclick: ...}) and children. */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** A small drawing of one path, eighteen units wide. */
export function icon(path) {
  const [svg, shape] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.setAttribute("viewBox", "0 0 18 18");
  svg.setAttribute("aria-hidden", "true");
  shape.setAttribute("d", path);
  shape.setAttribute("fill-rule", "evenodd");
  svg.append(shape);
  return svg;
}

/** Paint the bytes of a picture onto a canvas, which takes its size. */
export function paint(canvas, bytes, width) {
  const height = bytes.length / 4 / width;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
  canvas.getContext("2d").putImageData(new ImageData(bytes, width, height), 0, 0);
}

/** Hand the reader a file. */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  make("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const PLAY = "M4 2 L16 9 L4 16 Z", PAUSE = "M3 2 H7 V16 H3 Z M11 2 H15 V16 H11 Z";

export const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/** What this browser lacks to draw, in words, or undefined. */
export function lacking() {
  const needed = {WebAssembly: globalThis.WebAssembly, workers: globalThis.Worker, unpacking: globalThis.DecompressionStream};
  return Object.keys(needed).find((name) => !needed[name]);
}

/** The button of an explorer that is asleep: it says what will come, and is gone once pressed. */
export function bell(host, wake) {
  const button = make("button", {type: "button"}, host.getAttribute("asleep")), note = make("span", {},
    "Or drag through what was drawn before.");
  const node = make("div", {class: "bell"}, button, note);
  button.addEventListener("click", () => {
    button.disabled = true;
    note.textContent = "One moment.";
    wake();
  });
  return node;
}
