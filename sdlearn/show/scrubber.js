// The script of one scrubber or comparison; scrubber.py puts the frames and their labels in the place of the last word.
// It runs once for each output, finds its own element by id (a notebook opened in two views has two of them), and fills a
// shadow tree with plain DOM calls, so that no text is ever read as HTML. It leaves nothing in the global scope.
((data) => {
const style = `
:host { all: initial; display: block; max-width: 100%; margin: 8px 0; }
.card { --back: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #c9d1d9; --accent: #0072b2;
  box-sizing: border-box; max-width: 100%; padding: 12px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--back); color: var(--ink); font: 15px/1.4 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0; }
.card.dark { --back: #1c2128; --ink: #e6edf3; --soft: #adbac7; --line: #444c56; --accent: #56b4e9; }
.stage { position: relative; display: flex; gap: 8px; justify-content: center; touch-action: pan-y; cursor: ew-resize;
  user-select: none; -webkit-user-select: none; }
.cell { flex: 0 1 auto; min-width: 0; text-align: center; display: flex; flex-direction: column; justify-content: end; }
.name { color: var(--soft); min-height: 1.4em; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; -webkit-user-drag: none; }
img.crisp { image-rendering: pixelated; }
.over { position: absolute; inset: 0; margin: 0 auto; }
.edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #ffffff; outline: 1px solid #000000; }
.label { text-align: center; font-variant-numeric: tabular-nums; font-weight: 600; margin: 8px 0 4px; min-height: 1.4em;
  overflow-wrap: anywhere; }
.frames { display: grid; }
.frames > * { grid-area: 1 / 1; }
.room { visibility: hidden; }
.plane { display: flex; flex-wrap: wrap; gap: 12px 24px; justify-content: center; align-items: center; }
.field { display: grid; grid-template-columns: auto 1fr; gap: 4px 8px; color: var(--soft); font-size: 13px; }
.axis { display: flex; justify-content: space-between; gap: 6px; }
.axis b { color: var(--ink); }
.axis.down { grid-row: 1; flex-direction: column; text-align: right; }
.axis.across { grid-column: 2; }
.pad { display: grid; gap: 2px; width: 208px; aspect-ratio: 1; cursor: crosshair; touch-action: none; border-radius: 4px; }
.pad > span { border-radius: 4px; background: var(--line); }
.pad > .near { background: color-mix(in srgb, var(--accent) 45%, var(--back)); }
.pad > .here { background: var(--accent); outline: 2px solid var(--ink); }
.link { flex: none; width: 40px; height: 40px; display: grid; place-items: center; color: var(--accent); border-radius: 50%; }
.link svg { width: 18px; height: 18px; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round; }
.sides { display: flex; justify-content: space-between; gap: 12px; }
.bar { display: flex; gap: 10px; align-items: center; }
input { flex: 1; min-width: 0; height: 40px; margin: 0; accent-color: var(--accent); cursor: pointer; touch-action: pan-y; }
button { flex: none; width: 40px; height: 40px; padding: 0; border: 1px solid var(--line); border-radius: 50%; cursor: pointer;
  background: var(--back); color: var(--accent); display: grid; place-items: center; }
button svg { width: 18px; height: 18px; fill: currentColor; }
:is(input, button, .pad, .link):focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figcaption { color: var(--soft); margin-top: 6px; text-align: left; overflow-wrap: anywhere; }`;
const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const icon = (path) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 18 18");
  svg.setAttribute("aria-hidden", "true");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
};
const build = (host) => {
  const root = host.attachShadow({mode: "open"});
  const comparing = data.kind === "compare", plane = data.kind === "plane", columns = plane ? data.across.length : 0;
  const last = comparing ? 100 : data.frames.length - 1;
  const leap = Math.max(1, last / 10);
  const image = () => make("img", {
    class: data.crisp ? "crisp" : "", width: data.width, height: data.height, alt: "", draggable: "false", loading: "lazy",
  });
  const stage = make("div", {class: "stage"});
  const images = comparing ? [image(), image()] : data.frames[0].map(image);
  const label = make("div", {class: `label ${comparing ? "sides" : "frames"}`}), said = make("div");
  const slider = make("input", {type: "range", min: 0, max: last, step: 1, "aria-label": data.caption || data.alt});
  const edge = make("div", {class: "edge"});
  const play = make("button", {type: "button"}), link = make("a", {class: "link", title: "A link to this"});
  const pad = make("div", {class: "pad", role: "slider", tabindex: 0, "aria-label": data.caption || data.alt,
    "aria-valuemin": 0, "aria-valuemax": last});
  let index = 0, timer = null;
  if (comparing) {
    const holder = make("div", {class: "cell", style: `position: relative; width: ${data.shown}px`}, ...images, edge);
    images[1].classList.add("over");
    images.forEach((img, k) => { img.src = data.uris[data.frames[k][0]]; img.alt = `${data.alt}: ${data.labels[k]}`; });
    label.append(...data.labels.map((text) => make("span", {}, text)));
    stage.append(holder);
  } else {
    // All labels lie in one place and one of them is seen, so that the card has room for the longest and never jumps.
    label.append(said, ...[...new Set(data.labels)].map((text) => make("div", {class: "room"}, text)));
    images.forEach((img, k) => stage.append(make("div", {class: "cell", style: `width: ${data.shown}px`},
      ...(data.names.length ? [make("div", {class: "name"}, data.names[k])] : []), img)));
  }
  const show = (wanted) => {
    index = Math.max(0, Math.min(last, Math.round(wanted)));
    slider.value = index;
    if (comparing) {
      images[1].style.clipPath = `inset(0 0 0 ${index}%)`;
      edge.style.left = `${index}%`;
      slider.setAttribute("aria-valuetext", `${index} % ${data.labels[0]}, ${100 - index} % ${data.labels[1]}`);
      return;
    }
    said.textContent = data.labels[index];
    link.href = address(index);
    link.setAttribute("aria-label", `A link to ${data.labels[index]}`);
    pad.setAttribute("aria-valuenow", index);
    pad.setAttribute("aria-valuetext", data.labels[index]);
    [...pad.children].forEach((spot, k) => {
      spot.classList.toggle("here", k === index);
      spot.classList.toggle("near", k !== index && (k % columns === index % columns ||
        Math.floor(k / columns) === Math.floor(index / columns)));
    });
    slider.setAttribute("aria-valuetext", data.labels[index]);
    images.forEach((img, k) => {
      img.src = data.uris[data.frames[index][k]];
      img.alt = [data.alt, data.names[k], data.labels[index]].filter(Boolean).join(", ");
    });
  };
  // On the site every frame has an address: what its label begins with, and which of the page's scrubbers it belongs to.
  const short = (text) => text.toLowerCase().replace(/\s+/g, "").split(":")[0], starts = data.labels.map(short);
  const keys = comparing ? [] : new Set(starts).size === starts.length ? starts : starts.map((_, k) => `frame=${k + 1}`);
  const onSite = "content_root" in document.documentElement.dataset;
  const others = () => [...document.querySelectorAll("[id^=sdlearn-]")];
  const address = (k) => `#${encodeURI(keys[k])}${others().indexOf(host) > 0 ? `@${others().indexOf(host) + 1}` : ""}`;
  const follow = () => {
    let wanted = "";
    try { wanted = decodeURI(location.hash.slice(1)); } catch { }
    const [key, place] = wanted.split(/@(?=\d+$)/), frame = keys.indexOf(key);
    const first = place ? others()[place - 1] : others().find((other) => other.keys && other.keys.includes(key));
    if (frame < 0 || first !== host) return;
    stop();
    show(frame);
    host.scrollIntoView({block: "center"});
  };
  // What lies beside the page is fetched when someone is about to look.
  let warm = false;
  const fetchAll = () => {
    if (warm) return;
    warm = true;
    for (const uri of data.uris) if (!uri.startsWith("data:")) new Image().src = uri;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.setAttribute("aria-label", "Play");
    play.replaceChildren(icon("M4 2 L16 9 L4 16 Z"));
  };
  const toggle = () => {
    if (timer !== null) return stop();
    if (index === last) show(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setInterval(() => {
      if (!host.isConnected || index >= last) return stop();
      show(index + 1);
    }, calm ? Math.max(data.delay, 1000) : data.delay);
    play.setAttribute("aria-label", "Pause");
    play.replaceChildren(icon("M3 2 H7 V16 H3 Z M11 2 H15 V16 H11 Z"));
  };
  const across = comparing ? 1 : images.length;
  const width = Math.max(across * (data.shown + 8) - 8, 288) + 26;  // and the padding and border of the card
  const card = make("figure", {class: "card", style: `width: ${plane ? width + 400 : width}px`}, stage, label);
  if (plane) {
    pad.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    pad.append(...data.labels.map(() => make("span")));
    const axis = (way, name, labels) => make("div", {class: `axis ${way}`, "aria-hidden": "true"},
      make("span", {}, labels[0]), make("b", {}, name), make("span", {}, labels[labels.length - 1]));
    const beside = make("div", {class: "plane"});
    stage.replaceWith(beside);
    beside.append(stage, make("div", {class: "field"}, axis("down", data.axes[1], data.down), pad,
      axis("across", data.axes[0], data.across)));
    if (onSite) card.append(make("div", {class: "bar", style: "justify-content: center"}, link));
  } else if (last > 0) card.append(make("div", {class: "bar"}, ...(comparing ? [] : [play]), slider,
    ...(comparing || !onSite ? [] : [link])));
  if (data.caption) card.append(make("figcaption", {}, data.caption));
  link.append(icon("M7 11 L11 7 M5 8 L3 10 a3.5 3.5 0 0 0 5 5 L10 13 M8 5 L10 3 a3.5 3.5 0 0 1 5 5 L13 10"));
  root.append(make("style", {}, style), card);

  // A finger that goes up or down scrolls the page, and the browser takes it from us. Until it has gone sideways, or is
  // lifted where it came down, it has said nothing about the value, though a slider moves at once.
  let touch = null;
  slider.addEventListener("input", () => {
    if (touch) { touch.wanted = +slider.value; slider.value = index; }
    else { stop(); show(+slider.value); }
  });
  play.addEventListener("click", toggle);
  card.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === link) return;
    const row = plane ? Math.floor(index / columns) : 0, column = index % columns;
    const cell = (r, c) => Math.max(0, Math.min(data.labels.length / columns - 1, r)) * columns +
      Math.max(0, Math.min(columns - 1, c));
    const to = plane ? {ArrowRight: cell(row, column + 1), ArrowLeft: cell(row, column - 1), ArrowUp: cell(row - 1, column),
      ArrowDown: cell(row + 1, column), Home: cell(row, 0), End: cell(row, columns - 1), PageUp: cell(0, column),
      PageDown: cell(Infinity, column)}[event.key] : {ArrowRight: index + 1, ArrowUp: index + 1, ArrowLeft: index - 1, ArrowDown: index - 1, Home: 0, End: last,
      PageUp: index + leap, PageDown: index - leap}[event.key];
    if (to !== undefined) { stop(); show(to); event.preventDefault(); }
    else if (event.key === " " && !comparing && root.activeElement === slider) { toggle(); event.preventDefault(); }
    if (event.key !== "Tab") event.stopPropagation();  // the page's own shortcuts would turn pages or select cells
  });
  const at = (event) => {
    const box = (comparing ? images[0] : stage).getBoundingClientRect();
    return (event.clientX - box.left) / box.width * last;
  };
  for (const target of [stage, slider]) {
    target.addEventListener("pointerdown", (event) => {
      const finger = {x: event.clientX, y: event.clientY, wanted: target === stage ? at(event) : index};
      touch = event.pointerType === "touch" ? finger : null;
    });
    target.addEventListener("pointermove", (event) => {
      if (touch && Math.abs(event.clientX - touch.x) >= Math.max(8, Math.abs(event.clientY - touch.y))) touch = null;
    });
    target.addEventListener("pointerup", () => {
      if (touch) { stop(); show(touch.wanted); }
      touch = null;
    });
    target.addEventListener("pointercancel", () => { touch = null; });
  }
  const drag = (event) => {
    if (touch || !(event.buttons & 1) || last === 0) return;
    stop();
    show(at(event));
  };
  if (plane) {
    const aim = (target) => (event) => {
      if (!(event.buttons & 1) || touch) return;
      const box = target.getBoundingClientRect(), rows = data.labels.length / columns;
      const part = (at, from, size, count) => Math.max(0, Math.min(count - 1, Math.floor((at - from) / size * count)));
      show(part(event.clientY, box.top, box.height, rows) * columns + part(event.clientX, box.left, box.width, columns));
    };
    for (const target of [pad, images[0]]) {
      target.addEventListener("pointerdown", (event) => {
        target.setPointerCapture(event.pointerId);
        aim(target)(event);
        event.stopPropagation();
        if (target === pad) touch = null;
      });
      target.addEventListener("pointermove", aim(target));
    }
  } else stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  if (!plane) stage.addEventListener("pointermove", drag);
  // Dark or light is what the page behind really is: Jupyter Book, JupyterLab and Colab each have a switch of their own.
  const tone = () => {
    let dark = document.documentElement.getAttribute("theme") === "dark";
    for (let node = host; node; node = node.parentElement) {
      const [r, g, b, a = 1] = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
      if (a > 0.5) { dark = 0.3 * r + 0.59 * g + 0.11 * b < 128; break; }
    }
    card.classList.toggle("dark", dark);
  };
  const watcher = new MutationObserver(() => host.isConnected ? setTimeout(tone, 300) : watcher.disconnect());
  for (const node of [document.documentElement, document.body]) watcher.observe(node, {attributes: true});
  tone();
  stop();
  show(data.start);
  for (const hint of ["pointerenter", "focusin"]) card.addEventListener(hint, fetchAll);
  play.addEventListener("click", fetchAll);
  host.keys = keys;
  if (onSite && keys.length > 1) {
    addEventListener("hashchange", follow);
    follow();
  }
};
for (const host of document.querySelectorAll("#" + data.id)) if (!host.shadowRoot) build(host);
})(DATA);
