// Each state of the page has an address: the path says the view, the query its filters. A part
// of an address that means nothing is never passed over: it is thrown, and shown in place of the
// view. A list without its filter would look like an answer.
import { computed, signal } from './html.js';
import { strings } from './strings.js';

const current = signal(new URL(location.href));

export const href = computed(() => current.value.href);
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

export class WrongAddress extends Error {}

// A time as the API takes it, RFC 3339.
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i;

// A browser takes February 30 for March 2.
const isDay = (day) => {
  const at = new Date(`${day}T00:00:00Z`);
  return !Number.isNaN(at.getTime()) && at.toISOString().startsWith(day);
};

// The time in a parameter of an address, as text; null without that parameter. A `+` that was not
// encoded is a blank.
export function timeIn(query, name) {
  const text = query.get(name)?.replace(/ (?=\d\d:\d\d$)/, '+') ?? null;
  const isTime = () =>
    TIME.test(text) && isDay(text.slice(0, 10)) && !Number.isNaN(Date.parse(text));
  if (text === null || isTime()) return text;
  throw new WrongAddress(strings.wrong.time(name, text));
}
// One of several words; `standard` without that parameter.
export function oneIn(query, name, words, standard) {
  const text = query.get(name) ?? standard;
  if (words.includes(text)) return text;
  throw new WrongAddress(strings.wrong.word(name, words, text));
}
// Refuses parameters that a view does not have, that are empty, or that come twice although only
// those of `several` may.
export function takesOnly(query, names, several = []) {
  const seen = new Set();
  for (const [name, text] of query) {
    if (!names.includes(name)) throw new WrongAddress(strings.wrong.name(name, names));
    if (text === '') throw new WrongAddress(strings.wrong.empty(name));
    if (seen.has(name) && !several.includes(name)) throw new WrongAddress(strings.wrong.twice(name));
    seen.add(name);
  }
}
// Refuses a stretch of time that ends before it begins.
export function endsAfter(query, from, until) {
  const [begin, end] = [from, until].map((name) => timeIn(query, name));
  if (begin && end && Date.parse(begin) >= Date.parse(end)) {
    throw new WrongAddress(strings.wrong.order(from, until));
  }
}

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
