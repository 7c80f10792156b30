// Fetching what is gzipped, once: the browser keeps it by its name, which changes with its content.

const CACHE = "sdlearn-playground";

/** The cache of the playground, or null where the browser has none (pages that came neither by https nor from here). */
export const shelf = async () => (globalThis.caches ? caches.open(CACHE) : null);

/**
 * The unpacked bytes of a gzipped file. progress: told of every few bytes that arrive.
 * Throws an Error that says which file could not be had.
 */
export async function fetchUnpacked(url, progress = () => {}) {
  const kept = await shelf();
  let answer = await kept?.match(url);
  if (!answer) {
    try {
      answer = await fetch(url);
    } catch {
      throw new Error("The model could not be fetched. Is there a connection? Press Draw to try again.");
    }
    if (!answer.ok) throw new Error(`The site lacks a part of the model (${answer.status} for ${url}). Tell its owner.`);
    const [shown, stored] = kept ? [answer, answer.clone()] : [answer, null];
    const keeping = kept?.put(url, stored).catch(() => {}); // a full disk is no reason not to draw
    const packed = await collect(shown.body, progress);
    await keeping;
    return unpack(packed);
  }
  return unpack(await collect(answer.body, progress));
}

async function collect(stream, progress) {
  const parts = [];
  for (const reader = stream.getReader(); ;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    progress(value.length);
  }
  return new Blob(parts);
}

/** Inflated, unless the host's header made the browser do it before. */
async function unpack(blob) {
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (first !== 0x1f || second !== 0x8b) return blob.arrayBuffer();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Forget the files of earlier models, and keep the pages that draw without a connection. */
export async function keep(urls, pages) {
  const kept = await shelf();
  if (!kept) return false;
  const wanted = new Set(urls.map((url) => new URL(url, globalThis.location.href).href));
  for (const request of await kept.keys()) {
    if (/-[0-9a-f]{10}\.\w+\.gz$/.test(request.url) && !wanted.has(request.url)) await kept.delete(request);
  }
  await Promise.all(pages.map((page) => kept.add(page)));
  return true;
}
