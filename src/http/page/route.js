// Each state of the page has an address: the path says the view, the query its filters.
import { computed, signal } from './html.js';

const current = signal(new URL(location.href));

export const route = computed(() => {
  const { pathname, searchParams } = current.value;
  const [, first, ...rest] = pathname.split('/');
  if (pathname === '/') return { view: 'fleet', query: searchParams };
  if (first === 'listening' && rest.length === 0) return { view: 'listening', query: searchParams };
  if (first === 'devices' && (rest.length === 0 || rest.join('') === '')) {
    return { view: 'devices', query: searchParams };
  }
  if (first === 'devices' && rest.length === 1) {
    return { view: 'device', id: decode(rest[0]), query: searchParams };
  }
  return { view: 'missing', query: searchParams };
});

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

export const devicePath = (id) => `/devices/${encodeURIComponent(id)}`;
// A browser takes "." and ".." in a path for steps, however they are written.
export const addressable = (id) => id !== '.' && id !== '..';

export function go(to, { replace = false, keepScroll = false } = {}) {
  const url = new URL(to, location.href);
  if (url.href === location.href && !replace) { scrollTo(0, 0); return; }
  const depth = history.state?.depth ?? 0;
  if (replace) history.replaceState({ depth }, '', url);
  else history.pushState({ depth: depth + 1 }, '', url);
  current.value = url;
  if (!keepScroll && !replace) scrollTo(0, 0);
}
export const back = () => history.back();
export const canGoBack = () => (history.state?.depth ?? 0) > 0;

// Links within the page do not load it again; all others are the browser's.
function onClick(event) {
  if (event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest?.('a[href]');
  if (!link || link.target || link.origin !== location.origin) return;
  if (!/^\/($|devices|listening)/.test(link.pathname) || link.hash) return;
  event.preventDefault();
  go(link.href);
}

export function startRouting() {
  addEventListener('popstate', () => { current.value = new URL(location.href); });
  document.addEventListener('click', onClick);
}
