// The service worker of the playground: what the page has kept is there without a connection.

const CACHE = "sdlearn-playground";
const BY_CONTENT = /-[0-9a-f]{10}\.\w+\.gz$/;

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const {request} = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(request));
});

async function answer(request) {
  const cache = await caches.open(CACHE), kept = await cache.match(request, {ignoreSearch: true});
  if (kept && BY_CONTENT.test(request.url)) return kept;
  try {
    return await fetch(request);
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
