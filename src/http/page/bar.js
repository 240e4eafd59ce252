// Time as a bar: up is low, an error is higher, an outage has the whole height, and what was
// not listened to is hatched. So the four differ in shape and not only in colour.
import { html } from './html.js';
import { strings } from './strings.js';
import { dayOfMonth, duration, instant, percent, timeOfDay, timeOfMinute, utc } from './format.js';

const KINDS = ['up', 'error', 'offline', 'unknown'];

// The beginning of what an answer is about, in milliseconds. What lies before the first start is
// neither listened to nor missed.
export function begins({ from, to, first_listened_at: first }) {
  return Math.max(Date.parse(from), Date.parse(first ?? to));
}

// The end of what is known, in milliseconds: the newest proof while the next echo is awaited. The
// moments since then are neither listened to nor missed.
export const ends = ({ known_until: until }) => Date.parse(until);

// The buckets without those moments.
function decided({ buckets, to, known_until: until }) {
  let awaited = Math.max(0, Date.parse(to) - Date.parse(until));
  return buckets.toReversed().map((bucket) => {
    const cut = Math.min(awaited, bucket.unknown_ms);
    awaited -= cut;
    return { ...bucket, unknown_ms: bucket.unknown_ms - cut };
  }).toReversed();
}

// The buckets as runs. Within a bucket the order is not known, so a kind that the one before
// ended with comes first.
export function runs(buckets) {
  const out = [];
  let at = 0;
  for (const bucket of buckets) {
    const parts = KINDS.map((kind) => [kind, bucket[`${kind}_ms`]]).filter(([, ms]) => ms > 0);
    const last = out.at(-1)?.kind;
    parts.sort(([a], [b]) => (b === last) - (a === last));
    for (const [kind, ms] of parts) {
      if (out.at(-1)?.kind === kind) out.at(-1).ms += ms;
      else out.push({ kind, ms, at });
      at += ms;
    }
  }
  return { out, total: at };
}

export function sums(buckets) {
  const sum = { up: 0, error: 0, offline: 0, unknown: 0 };
  for (const bucket of buckets) for (const kind of KINDS) sum[kind] += bucket[`${kind}_ms`];
  const known = sum.up + sum.error + sum.offline;
  return { ...sum, known, share: known > 0 ? (sum.up + sum.error) / known : null };
}

const said = (sum) => KINDS
  .filter((kind) => sum[kind] > 0)
  .map((kind) => `${strings.device[kind]} ${duration(sum[kind] / 1000)}`)
  .join(', ');

// Short runs keep a visible width (see app.css for the pixels): a short outage is still an outage,
// also one that has only begun at the end of the bar.
const MIN_SHARE = 0.0025;
function place({ kind, ms, at }, total) {
  const width = Math.max(kind === 'up' ? 0 : MIN_SHARE, ms / total) * 100;
  const left = (at / total) * 100;
  return {
    width: `${width}%`,
    left: kind === 'up' ? `${left}%` : `min(${left}%, 100% - max(2px, ${width}%))`,
  };
}

export function Segments({ segments, total, from, label }) {
  const start = Date.parse(from);
  return html`
    <div class="bar" role="img" aria-label=${label}>
      ${segments.map(({ kind, ms, at }) => html`
        <i class=${kind} style=${place({ kind, ms, at }, total)}
           title=${`${strings.device[kind]} ${duration(ms / 1000)}\n${
             instant(start + at)} – ${instant(start + at + ms)}\n${utc(start + at)}`}></i>`)}
    </div>`;
}

export function Timeline({ timeline, name }) {
  const buckets = decided(timeline);
  const { out, total } = runs(buckets);
  const sum = sums(buckets);
  return html`<${Segments} segments=${out} total=${total} from=${timeline.from}
    label=${`${name}: ${said(sum)}`} />`;
}

export const Share = ({ timeline }) => {
  const { share } = sums(timeline.buckets);
  return share === null
    ? html`<span class="quiet" title=${strings.device.nothingKnown}>–</span>`
    : html`${percent(share)}`;
};

// Where whole hours or days lie, as labels under a bar.
const SECOND = 1_000;
const MINUTE = 60_000;
const HOUR = 3_600_000;
const STEPS = [10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE,
  30 * MINUTE, HOUR, 4 * HOUR, 24 * HOUR, 5 * 24 * HOUR];
const LABELS = 8;
const LONG_LABELS = 5;
export function Ticks({ from, to }) {
  const start = Date.parse(from);
  const span = Date.parse(to) - start;
  const step = STEPS.find((step) => span / step <= (step < MINUTE ? LONG_LABELS : LABELS))
    ?? STEPS.at(-1);
  const first = new Date(start);
  first.setMinutes(0, 0, 0);
  if (step >= 24 * HOUR) first.setHours(0);
  else if (step > HOUR) first.setHours(Math.floor(first.getHours() / 4) * 4);
  const ticks = [];
  for (let at = first.getTime(); at < start + span; at += step) {
    const share = (at - start) / span;
    if (share > 0.03 && share < 0.94) ticks.push([at, share]);
  }
  const format = step < MINUTE ? timeOfMinute : step < 24 * HOUR ? timeOfDay : dayOfMonth;
  return html`<div class="ticks" aria-hidden="true">${ticks.map(([at, share]) => html`
    <span style=${{ left: `${share * 100}%` }}>${format(at)}</span>`)}</div>`;
}
