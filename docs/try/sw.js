// Keeps the whole page on the machine, so that it opens without a network connection.
// `python tools/build_page.py` fills in the files and a version that changes with any of them.

const VERSION = '@version@';
const FILES = ['@files@'];
const CACHE = `leukaemia-zoo-try-${VERSION}`;

self.addEventListener('install', (event) => {
  const fresh = FILES.map((file) => new Request(file, { cache: 'no-cache' }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  const isOld = (name) => name.startsWith('leukaemia-zoo-try-') && name !== CACHE;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener('fetch', (event) => {
  if (event.request.method !== 'GET') return;
  const answer = async () => {
    const cache = await caches.open(CACHE);
    const isFolder = event.request.url.split(/[?#]/)[0] === self.registration.scope;
    return (await cache.match(isFolder ? 'index.html' : event.request, { ignoreSearch: true })) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
