// The service worker: the network first, and without one the copies that offline.js made.

const PAGE = "moebius-page";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin || url.pathname.endsWith(".bin") || url.pathname.includes("/api/")) return;
  event.respondWith(fetch(request).catch((error) => copy(request, error)));
});

async function copy(request, error) {
  const cache = await caches.open(PAGE);
  const kept = await cache.match(request.mode === "navigate" ? self.registration.scope : request, { ignoreSearch: true });
  if (!kept) throw error;
  return kept;
}
