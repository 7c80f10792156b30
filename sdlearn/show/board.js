// A board to paint a hole on, laid over a text field that holds one line of . and # for each row of cells. widgets.py
// puts what to draw in the place of the last word. Where this script does not run, the text field is there to be typed
// in. A board fills itself from its field and writes back to it as a hand would, so that any ipywidgets notices.
((data) => {
const style = `
.sdlearn-board { font: 14px/1.4 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 4px 0; }
.sdlearn-board canvas { display: block; width: SIDEpx; max-width: 100%; height: auto; cursor: crosshair; touch-action: none;
  outline: 1px solid #8c959f; }
.sdlearn-board canvas:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
.sdlearn-board button { margin: 6px 6px 0 0; padding: 4px 10px; min-height: 32px; cursor: pointer; }
.sdlearn-board .said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }`;
const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const build = (holder, area) => {
  const cell = Math.max(1, Math.floor(640 / Math.max(data.columns, data.rows)));  // canvas pixels, twice the page's
  const canvas = make("canvas", {
    width: cell * data.columns, height: cell * data.rows, tabindex: 0, role: "img", "data-lm-suppress-shortcuts": "true",
    "aria-label": `The picture under ${data.columns} by ${data.rows} cells. Arrow keys move, space paints or wipes a cell.`,
  });
  const clear = make("button", {type: "button"}, "Wipe the board"), turn = make("button", {type: "button"}, "Swap inside and outside");
  const said = make("div", {class: "said", "aria-live": "polite"});
  const pen = canvas.getContext("2d"), picture = new Image();
  const at = {x: data.columns >> 1, y: data.rows >> 1};
  const brush = Math.max(1, Math.round(Math.max(data.columns, data.rows) / 16));
  let cells = [], paints = null, keys = false;
  const read = () => {
    const lines = area.value.split("\n");
    cells = Array.from({length: data.rows}, (_, y) => Array.from({length: data.columns}, (_, x) => (lines[y] || "")[x] === "#"));
  };
  const draw = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (picture.complete) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    cells.forEach((row, y) => row.forEach((hole, x) => {
      if (!hole) return;
      pen.fillStyle = "#ffffff";
      pen.fillRect(x * cell, y * cell, cell, cell);
      pen.fillStyle = "#0072b2";  // a blue dot says hole where the picture is white, too
      pen.fillRect((x + 0.38) * cell, (y + 0.38) * cell, Math.ceil(0.24 * cell), Math.ceil(0.24 * cell));
    }));
    if (!keys) return;
    pen.lineWidth = Math.max(2, cell / 8);
    pen.strokeStyle = "#d55e00";
    pen.strokeRect(at.x * cell + 1, at.y * cell + 1, cell - 2, cell - 2);
  };
  const write = () => {
    area.value = cells.map((row) => row.map((hole) => hole ? "#" : ".").join("")).join("\n");
    for (const kind of ["input", "change"]) area.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * data.columns);
    const y = Math.floor((event.clientY - box.top) / box.height * data.rows);
    return [Math.max(0, Math.min(data.columns - 1, x)), Math.max(0, Math.min(data.rows - 1, y))];
  };
  const paint = (x, y) => {
    for (let v = y; v < Math.min(data.rows, y + brush); v++) {
      for (let u = x; u < Math.min(data.columns, x + brush); u++) cells[v][u] = paints;
    }
    draw();
  };
  const sweep = (event) => {  // all cells between two events of a quick hand
    const [x, y] = place(event), n = Math.max(Math.abs(x - at.x), Math.abs(y - at.y), 1);
    for (let k = 1; k <= n; k++) paint(Math.round(at.x + (x - at.x) * k / n), Math.round(at.y + (y - at.y) * k / n));
    [at.x, at.y] = [x, y];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    keys = false;
    [at.x, at.y] = place(event);
    paints = !cells[at.y][at.x];  // a stroke that begins on a hole wipes
    paint(at.x, at.y);
  });
  canvas.addEventListener("pointermove", (event) => { if (paints !== null && event.buttons) sweep(event); });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, () => { if (paints !== null) { paints = null; write(); } });
  }
  canvas.addEventListener("keydown", (event) => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    keys = true;
    if (way) {
      at.x = Math.max(0, Math.min(data.columns - 1, at.x + way[0] * brush));
      at.y = Math.max(0, Math.min(data.rows - 1, at.y + way[1] * brush));
      draw();
    } else {
      paints = !cells[at.y][at.x];
      paint(at.x, at.y);
      paints = null;
      write();
    }
    said.textContent = `row ${at.y + 1}, column ${at.x + 1}: ${cells[at.y][at.x] ? "hole" : "kept"}`;
  });
  canvas.addEventListener("blur", () => { keys = false; draw(); });
  clear.addEventListener("click", () => { cells.forEach((row) => row.fill(false)); draw(); write(); });
  turn.addEventListener("click", () => { cells = cells.map((row) => row.map((hole) => !hole)); draw(); write(); });
  picture.addEventListener("load", draw);
  picture.src = data.picture;
  for (const child of holder.children) child.style.display = "none";
  holder.style.height = holder.style.width = "auto";
  holder.append(make("div", {class: "sdlearn-board"}, make("style", {}, style.replace("SIDE", data.side)), canvas, clear, turn, said));
  read();
  draw();
};
let looks = 0;
const timer = setInterval(() => {
  for (const area of document.querySelectorAll("." + data.id + " .sdlearn-hole textarea")) {
    const holder = area.closest(".sdlearn-hole");
    if (!holder.querySelector(".sdlearn-board")) build(holder, area);
  }
  if (++looks === 240) clearInterval(timer);  // a minute: a notebook may bring its widgets to life late, or twice
}, 250);
})(DATA);
