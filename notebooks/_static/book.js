// What the theme lacks: a switch for all the proofs of a page, a contents list that keeps up with the reader, and a search
// that knows numbers and reads formulas as they are seen.
(() => {
const KEY = "sdlearn-proofs";
// A browser may forbid to remember; the switch then holds for its page.
const remembered = () => { try { return localStorage.getItem(KEY) === "shown"; } catch { return false; } };
const remember = (shown) => { try { localStorage.setItem(KEY, shown ? "shown" : "folded"); } catch { } };

const proofs = () => {
  const folds = [...document.querySelectorAll(".cell.tag_proof > details")];
  const bar = document.querySelector(".article-header-buttons");
  if (!folds.length || !bar) return;
  const button = document.createElement("button");
  const show = (shown) => {
    button.setAttribute("aria-pressed", shown);
    for (const fold of folds) fold.open = shown;
  };
  button.type = "button";
  button.className = "proofs";
  const verb = document.createElement("span");  // a phone has no room for it, and says it only aloud
  verb.textContent = "Show";
  button.append(verb, " proofs");
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    remember(shown);
    show(shown);
  });
  show(remembered());
  bar.prepend(button);
  // A page that the browser kept alive may have missed what was chosen on the next one.
  addEventListener("pageshow", (event) => event.persisted && show(remembered()));
};

const contents = () => {
  const list = document.getElementById("pst-page-toc-nav");
  const bar = document.getElementById("pst-secondary-sidebar");
  if (!list || !bar) return;
  document.body.removeAttribute("data-bs-spy");  // the theme's own follower, which loses long sections
  const links = [...list.querySelectorAll("a")];
  const sections = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  let current = -1, waiting = false;
  const follow = () => {
    waiting = false;
    const end = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const line = end ? Infinity : 100;  // a little below where a click on the list puts a heading
    const now = sections.findLastIndex((section) => section && section.getBoundingClientRect().top < line);
    if (now === current) return;
    current = now;
    links.forEach((link, k) => {
      link.classList.toggle("active", k === now);
      if (k === now) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    });
    for (const entry of list.querySelectorAll("li")) {
      entry.classList.toggle("active", now >= 0 && entry.contains(links[now]));  // the theme unfolds what is below it
    }
    if (now < 0) return;
    const frame = bar.getBoundingClientRect(), link = links[now].getBoundingClientRect();
    if (link.top < frame.top || link.bottom > frame.bottom) bar.scrollTop += link.top - frame.top - frame.height / 2;
  };
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(follow); } };
  addEventListener("scroll", later, {passive: true});
  addEventListener("resize", later);
  follow();
};

const search = () => {
  if (typeof Search === "undefined") return;
  const [parse, read] = [Search._parseQuery, Search.htmlToText];
  Search._parseQuery = (query) => {  // 0.18215 is in the index as 18215, and its own search passes over digits
    const found = parse(query);
    for (const number of query.match(/\d{2,}/g) ?? []) for (const words of [found[1], found[3]]) words.add(number);
    return found;
  };
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    for (const twice of page.querySelectorAll(".katex-mathml, noscript")) twice.remove();
    return read(page.documentElement.outerHTML, anchor);
  };
};

document.addEventListener("DOMContentLoaded", search);  // at the document, where the search itself listens after it
addEventListener("DOMContentLoaded", () => { proofs(); contents(); });
})();
