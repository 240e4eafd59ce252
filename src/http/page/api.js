// Questions to /api/v1. An answer that is not well is a Problem (RFC 9457), and only 401 has a
// meaning for the whole page.
import { computed, signal, useEffect, useMemo, useSignal } from './html.js';
import { strings } from './strings.js';

export const API = '/api/v1';
const PATIENCE_MS = 15_000;

// True while the service wants a token and this browser has none that it knows.
export const loginWanted = signal(false);
// True while somebody wants to log in although reading is free.
export const loginAsked = signal(false);
// What this browser may do, as /whoami says.
export const who = signal(null);
export const mayChange = computed(() => ['operate', 'admin'].includes(who.value?.scope));

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? body?.title ?? strings.problem.unreachable);
    this.status = status;
    this.type = body?.type ?? null;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(API + path, {
      credentials: 'same-origin',
      ...options,
      headers: { Accept: 'application/json', ...options.headers },
      signal: AbortSignal.any([AbortSignal.timeout(PATIENCE_MS), options.signal].filter(Boolean)),
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, null);
  }
  if (response.status === 401 && !path.startsWith('/login')) loginWanted.value = true;
  try {
    const body = await response.json();
    if (response.ok) return body;
    throw new Problem(response.status, body);
  } catch (problem) {
    if (problem instanceof Problem || options.signal?.aborted) throw problem;
    // An answer that was cut off, or that somebody between here and the service has made.
    throw new Problem(response.ok ? 0 : response.status, null);
  }
}

export const get = (path, signal) => ask(path, { signal });
const send = (method, path, body) => ask(path, {
  method,
  ...(body && {
    body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
  }),
});
export const post = (path, body) => send('POST', path, body);
export const change = (path, body) => send('PATCH', path, body);
export const remove = (path) => send('DELETE', path);

// A path with parameters; those that are null, false or empty are left out.
export function path(base, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== false && one !== '') {
        query.append(name, one);
      }
    }
  }
  const text = query.toString();
  return text ? `${base}?${text}` : base;
}

// Bumped when something changed that a list may show. See live.js.
export const changes = signal(0);

// The time after which a list of devices is asked for again. Until then the ages in it go on
// growing, also that of a device that has been heard meanwhile.
export const AGES_MS = 5_000;

// Keeps an answer fresh while a view shows it: asks at once, again `every` milliseconds, and
// soon after a change, but never more often than once in `rest`, and not in a hidden tab.
// The old answer stays until the new one is there, so nothing flickers. `fresh` makes the
// address anew for each question, for one that ends now, and `load` asks in a way of its own;
// `url` then only names it.
export function useAnswer(url, options = {}) {
  const { every = 60_000, rest = 4_000, onChange = true, fresh = null, load = null } = options;
  const answer = useSignal({ url: null, data: null, problem: null });
  const controls = useMemo(() => ({ again: () => {} }), []);

  useEffect(() => {
    let stopped = false;
    let running = false;
    let asked = 0;
    let timer = null;
    const abort = new AbortController();

    async function run() {
      clearTimeout(timer);
      if (stopped || running) return;
      if (document.hidden && answer.peek().url === url) { timer = setTimeout(run, every); return; }
      running = true;
      asked = Date.now();
      try {
        const data = await (load ? load(abort.signal) : get(fresh ? fresh() : url, abort.signal));
        if (!stopped) answer.value = { url, data, problem: null };
      } catch (problem) {
        if (!stopped) {
          const same = answer.value.url === url;
          answer.value = { url, data: same ? answer.value.data : null, problem };
        }
      }
      running = false;
      if (!stopped) timer = setTimeout(run, answer.value.problem ? Math.min(every, 5_000) : every);
    }
    function soon() {
      if (stopped || running) return;
      clearTimeout(timer);
      timer = setTimeout(run, Math.max(150, asked + rest - Date.now()));
    }
    const visible = () => !document.hidden && soon();

    controls.again = run;
    run();
    const unsubscribe = onChange
      ? changes.subscribe((n) => n > 0 && soon())
      : () => {};
    document.addEventListener('visibilitychange', visible);
    return () => {
      stopped = true;
      clearTimeout(timer);
      abort.abort();
      unsubscribe();
      document.removeEventListener('visibilitychange', visible);
    };
  }, [url, every, rest, onChange]);

  return { ...answer.value, waiting: answer.value.url !== url, again: () => controls.again() };
}
