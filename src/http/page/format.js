// Numbers, times and durations as people read them. Pure: no element, no request.
import { strings } from './strings.js';

// The texts are English, so numbers and dates follow an English locale: the browser's if it
// is one. Otherwise "1.846" would stand beside the sentence's "1,846".
const locale = (navigator.languages ?? []).find((tag) => /^en\b/i.test(tag)) ?? 'en-GB';
const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat(locale, { maximumSignificantDigits: 3 });
const clock = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
const seconds = new Intl.DateTimeFormat(locale, { ...clock, second: '2-digit' });
const minutes = new Intl.DateTimeFormat(locale, clock);
const day = new Intl.DateTimeFormat(locale, { day: 'numeric', month: 'short', ...clock });
const date = new Intl.DateTimeFormat(locale, { day: 'numeric', month: 'short' });
const year = new Intl.DateTimeFormat(locale, {
  day: 'numeric', month: 'short', year: 'numeric', ...clock,
});

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone ?? 'UTC';
export const isUtc = new Date().getTimezoneOffset() === 0;

export const count = (n) => (n === null || n === undefined ? '–' : whole.format(n));
export const rate = (n) => (n >= 10 ? whole.format(n) : precise.format(n));

// 98.4 %, but never 100 % for a little less, and never 0 % for a little more.
export function percent(share) {
  if (share === null || Number.isNaN(share)) return '–';
  const digits = share > 0.99 || share < 0.01 ? 100 : 10;
  const floored = share >= 0.5
    ? Math.floor(share * 100 * digits) / digits
    : Math.ceil(share * 100 * digits) / digits;
  return `${new Intl.NumberFormat(locale, { maximumFractionDigits: 2 }).format(floored)} %`;
}

const UNITS = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

// "2 h 3 min": the largest unit and the next, as the command line says it, and tenths below ten
// seconds. The rest is cut off: nothing is said to have lasted longer than it has.
export function duration(value, parts = 2) {
  if (value === null || value === undefined) return '–';
  const { units } = strings;
  let rest = Math.abs(value);
  if (rest < 1 && rest > 0) return `${Math.max(1, Math.round(rest * 1000))} ${units.ms}`;
  if (rest < 10) return `${precise.format(Math.floor(Math.round(rest * 1000) / 100) / 10)} ${units.s}`;
  rest = Math.floor(rest);
  const first = UNITS.findIndex(([, size]) => rest >= size);
  return UNITS.slice(first, first + parts)
    .map(([unit, size]) => {
      const n = Math.floor(rest / size);
      rest -= n * size;
      return n > 0 && `${whole.format(n)} ${units[unit]}`;
    })
    .filter(Boolean)
    .join(' ');
}

export const latency = (value) =>
  (value < 1 ? `${precise.format(value * 1000)} ${strings.units.ms}` : duration(value));

export function skew(value) {
  if (Math.abs(value) < 1) return strings.skew.right;
  return value > 0 ? strings.skew.ahead(duration(value)) : strings.skew.behind(duration(value));
}

// The end of a stretch that has this instant, which has whole milliseconds, in it.
export const justAfter = (at) => new Date(Date.parse(at) + 1).toISOString();

// 14:08:22 today, "25 Nov, 14:08" this year, with the year before.
export function instant(iso, now = Date.now()) {
  const at = new Date(iso);
  const today = new Date(now);
  if (at.toDateString() === today.toDateString()) return seconds.format(at);
  return (at.getFullYear() === today.getFullYear() ? day : year).format(at);
}
export const timeOfDay = (ms) => minutes.format(ms);
export const timeOfMinute = (ms) => seconds.format(ms);
export const dayOfMonth = (ms) => date.format(ms);
export const utc = (iso) =>
  `${new Date(iso).toISOString().replace('T', ' ').replace(/\.\d+Z$/, '')} UTC`;
export const bytes = (n) => whole.format(n);

// An id or a text in pieces: visible text, and what would not be seen or would disfigure the
// rest, as code points. A device cannot look like another, nor turn the text around it, nor draw
// over it: marks that strike out or enclose what they follow are shown by themselves, and so is
// a mark with nothing to stand on. No script puts more than four marks on a character; those
// beyond are only counted.
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\u00a0\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2000-\u200a\u202f\u205f\u2800\u3000\u3164\uffa0\ufe00-\ufe0f]/u;
const OVERLAY = /[\u0334-\u0338\u0488\u0489\u1abe\u20d2\u20d3\u20d8-\u20da\u20dd-\u20e0\u20e2-\u20e6\u20ea\u20eb\u{10f82}]/u;
const MARK = /\p{M}/u;
const MARKS = 4;
export function pieces(text) {
  const out = [];
  let marks = MARKS; // on the last character
  for (const char of text) {
    const last = out.at(-1);
    const mark = MARK.test(char);
    const bare = mark && (!last || last.hidden);
    if (HIDDEN.test(char) || OVERLAY.test(char) || (bare && !last?.more)) {
      const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
      out.push({ hidden: true, text: code });
    } else if (mark && marks >= MARKS) {
      if (last.more) last.more += 1;
      else out.push({ hidden: true, more: 1 });
    } else {
      if (last && !last.hidden) last.text += char;
      else out.push({ hidden: false, text: char });
      marks = mark ? marks + 1 : 0;
    }
  }
  return out;
}
