// What the page needs to be loaded again without a network: a copy of each of its files, made when all of them have just been of use, so
// that they fit one another. sw.js answers with them. The weights have a cache of their own (weights.js).

const PAGE = "moebius-page"; // sw.js has this name, too

// `also` are files that may yet be needed. Nothing has asked the server for these of late, and an older export's do not fit.
export async function keepForOffline(also = []) {
  if (!navigator.serviceWorker || !globalThis.caches) return false;
  await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
  const home = new URL("./", document.baseURI);
  const used = performance.getEntriesByType("resource").map((entry) => new URL(entry.name));
  const further = also.map((name) => new URL(name, home).href);
  const files = new Set([home.href, ...further]);
  for (const url of used) if (url.href.startsWith(home.href) && !url.search && !url.pathname.endsWith(".bin")) files.add(url.href);
  const answers = await Promise.all([...files].map(async (url) => [url, await fetch(url, { cache: further.includes(url) ? "no-cache" : "default" })]));
  if (answers.some(([, answer]) => !answer.ok)) return false;
  const cache = await caches.open(PAGE);
  for (const old of await cache.keys()) if (!files.has(old.url)) await cache.delete(old);
  for (const [url, answer] of answers) await cache.put(url, answer);
  return true;
}
