// What the page knows about the service right now, and whether that may be believed.
import { batch, computed, effect, signal } from './html.js';
import { changes, get, loginWanted, path } from './api.js';
import { listen } from './stream.js';

// After so long without a word the page no longer vouches for what it shows.
const STALE_MS = 12_000;

export const summary = signal(null);
export const tick = signal(Date.now());
const heardAt = signal(Date.now());
// Why the service is known to be gone, before its silence says so: 'stopped', 'unreachable'.
export const lost = signal(null);
const ahead = signal(0); // the service's clock minus this browser's

export const updatedTo = signal(null); // another version than the one that sent this page
let firstVersion = null;

// The service's time: ages are right even if this machine's clock is not.
export const now = computed(() => tick.value + ahead.value);
export const silentFor = computed(() => Math.max(0, tick.value - heardAt.value) / 1000);
export const stale = computed(() =>
  lost.value !== null || tick.value - heardAt.value > STALE_MS);
export const state = computed(() => {
  if (stale.value) return 'stale';
  return summary.value?.state ?? 'asking';
});
// Nothing is green unless this holds.
export const proven = computed(() => ['listening', 'standby'].includes(state.value));

// True while the next echo is awaited: what is not proven since the last one is no gap yet.
export const echoes = computed(() =>
  proven.value || ['warming', 'fleet_silent'].includes(state.value));

// When the service listened for the first time, in milliseconds. Before, there is nothing to know
// or to miss, so nothing is drawn.
const beganAt = signal(null);
export const knowsBeginning = computed(() => beganAt.value !== null);
const SHORTEST_MS = 10_000;
const ASK_AGAIN_MS = 5_000;
let beganAsked = 0;
async function learnBeginning() {
  if (beganAt.peek() !== null || Date.now() - beganAsked < ASK_AGAIN_MS) return;
  beganAsked = Date.now();
  const from = new Date(now.peek() - SHORTEST_MS).toISOString();
  const { first_listened_at: first } = await get(path('/listening', { from })).catch(() => ({}));
  if (first) beganAt.value = Date.parse(first);
}

// Where a stretch of this length begins that ends at `end`: not before the first start.
export function beginning(length, end) {
  const first = beganAt.value === null ? -Infinity : Math.min(beganAt.value, end - SHORTEST_MS);
  return Math.max(end - length, first);
}

const fingerprint = (s) => JSON.stringify([s.devices, s.late, s.bursts, s.state, s.started_at]);

function onSummary(next) {
  const before = summary.peek();
  firstVersion ??= next.version;
  const heard = Date.now();
  batch(() => {
    tick.value = heard;
    heardAt.value = heard;
    ahead.value = Date.parse(next.now) - heard;
    summary.value = next;
    lost.value = null;
    loginWanted.value = false; // another tab may have logged in
    updatedTo.value = next.version === firstVersion ? null : next.version;
    if (before && fingerprint(before) !== fingerprint(next)) changes.value += 1;
  });
  learnBeginning();
}

function onLost(why) {
  // Who said goodbye cannot be reached, either.
  batch(() => {
    tick.value = Date.now();
    lost.value ??= why;
  });
}

export function start() {
  const stream = listen(onSummary, onLost);
  setInterval(() => { tick.value = Date.now(); }, 1_000);
  // The look of the whole document follows the state; see app.css.
  effect(() => {
    const root = document.documentElement;
    root.dataset.state = loginWanted.value ? 'login' : state.value;
    root.toggleAttribute('data-proven', proven.value);
  });
  effect(() => {
    const icon = document.querySelector('link[rel=icon]');
    let name = 'blind';
    if (state.value === 'asking') name = 'asking';
    if (proven.value) name = summary.value.devices.offline > 0 ? 'offline' : 'well';
    icon.href = new URL(`./icons/${name}.svg`, import.meta.url);
  });
  return stream;
}
