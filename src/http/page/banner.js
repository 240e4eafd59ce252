// May I believe it, is it bad, is it one thing or many: the sentence, and how it is known.
import { html } from './html.js';
import { strings } from './strings.js';
import { count, duration, isUtc, rate } from './format.js';
import { lost, silentFor, state, summary, updatedTo } from './live.js';
import { Ago, DURATION, Foreign, Heading, Time } from './parts.js';

const GLYPHS = {
  listening: html`<circle cx="12" cy="12" r="4.5" class="solid" /><circle cx="12" cy="12" r="9" class="ring" />`,
  unproven: html`<circle cx="12" cy="12" r="8.5" class="ring dashed" /><path d="M9.4 9.6a2.7 2.7 0 1 1 3.7 2.5c-.8.35-1.1.8-1.1 1.7M12 16.6v.3" class="line" />`,
  disconnected: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M6 18 18 6" class="line" />`,
  warming: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M12 7v5l3.4 2" class="line" />`,
  database: html`<path d="M5 7c0-3 14-3 14 0v10c0 3-14 3-14 0zM5 7c0 3 14 3 14 0M5 12c0 3 14 3 14 0" class="line" />`,
  shedding: html`<path d="M12 3 22 20H2zM12 10v4.4M12 17v.3" class="line" />`,
  standby: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M9.5 8.5v7M14.5 8.5v7" class="line" />`,
  barred: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M8.5 8.5l7 7M15.5 8.5l-7 7" class="line" />`,
  fleet_silent: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M7.5 12h9" class="line" />`,
  stale: html`<path d="M4 9a12 12 0 0 1 16 0M7 12.6a7.5 7.5 0 0 1 10 0M10 16.2a3 3 0 0 1 4 0M4 20 20 4" class="line" />`,
  clock: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M12 7.5V12h-4" class="line" />`,
  note: html`<circle cx="12" cy="12" r="8.5" class="ring" /><path d="M12 11v5M12 8v.3" class="line" />`,
};
const Glyph = ({ of }) => html`
  <svg class="glyph" viewBox="0 0 24 24" aria-hidden="true">${GLYPHS[of]}</svg>`;

// The service's words with their times of day, which are UTC, named so where that is not the
// reader's time.
const inUtc = (sentence) =>
  (isUtc ? sentence : sentence.replace(/\b\d\d:\d\d(:\d\d)?/g, '$& UTC'));

// A sentence. No line of it ends between a number and what it counts.
const KEPT = new RegExp(`(Last known:|${DURATION.source}|\\d[\\d,]* \\p{L}+[.,;]?)`, 'u');
const Said = ({ sentence }) => inUtc(sentence).split(KEPT).map((part, n) =>
  (n % 2 === 1 ? html`<span class="whole">${part}</span>` : part));

function Meta({ of }) {
  const beats = strings.rate(rate(of.heartbeats_per_second));
  return html`<p class="meta">
    <span>${state.value === 'listening' ? strings.proven : strings.lastProof} ${
      of.as_of ? html`<${Ago} at=${of.as_of} />` : '–'}</span>
    <span>${beats}</span>
    <span>${strings.asOf} <${Time} at=${of.now} /></span>
  </p>`;
}

// The service's own words come first; what they mean for an operator follows.
function Advice({ of }) {
  const advice = of.detail && (of.state === 'fleet_silent' || of.restart_needed)
    ? null : strings.advice[of.state];
  return html`
    ${of.detail && html`<p class="detail"><${Foreign} text=${of.detail} /></p>`}
    ${advice && html`<p class="advice">${advice}</p>`}`;
}

// What the service said last, by a page that cannot vouch for it any more. Its first sentence
// says the state, and that is what is not known.
const lastKnown = (sentence) =>
  strings.stale.known(sentence.replace(/^.*?\. (Last known: )?/, ''));

function Stale({ of }) {
  const sentence = strings.stale.title(duration(Math.max(1, Math.floor(silentFor.value))));
  return html`
    <section class="banner stale" role="alert">
      <${Glyph} of="stale" />
      <div>
        ${of ? html`<p class="sentence"><${Said} sentence=${sentence} /></p>`
          : html`<h1 class="sentence"><${Said} sentence=${sentence} /></h1>`}
        <p class="detail">${of
          ? html`${strings.stale.why[lost.value ?? 'silent']} <${Time} at=${of.now} />. ${strings.stale.again}`
          : strings.stale.never}</p>
      </div>
    </section>`;
}

function Note({ glyph, title, children }) {
  return html`<section class="banner aside"><${Glyph} of=${glyph} />
    <div><p class="sentence">${title}</p>${children}</div></section>`;
}

// An alert is normally delivered within a second of its check.
const WAITS_LONG = 10_000;

function waitsLong(of) {
  return of.undelivered_alerts > 0
    && Date.parse(of.now) - Date.parse(of.undelivered_since) > WAITS_LONG;
}

// Two readings measure a step to some milliseconds, so nobody is told 59 min 59 s of an hour.
const amount = (seconds) => duration(Math.abs(seconds) < 10 ? seconds : Math.round(seconds));

function Notes({ of }) {
  const step = of.clock_step;
  const reload = (event) => { event.preventDefault(); location.reload(); };
  return html`
    ${step && html`<${Note} glyph="clock" title=${
      strings.clock[step.by_seconds < 0 ? 'back' : 'forward'](amount(step.by_seconds))}>
      <p class="detail"><${Time} at=${step.at} /> · ${strings.clock.detail}</p></${Note}>`}
    ${waitsLong(of) && html`<${Note} glyph="note" title=${
      strings.undelivered(count(of.undelivered_alerts), of.undelivered_alerts === 1)} />`}
    ${updatedTo.value && html`<${Note} glyph="note" title=${
      strings.updated.title(updatedTo.value)}>
      <p class="detail"><a href="" onClick=${reload}>${strings.updated.action}</a></p></${Note}>`}`;
}

// `first` is the first screen, where the sentence is the heading.
export function Banner({ first }) {
  const of = summary.value;
  const shown = state.value;
  const sentence = of && (shown === 'stale' ? lastKnown(of.sentence) : of.sentence);
  const known = of && html`
    <section class=${`banner s-${of.state} ${first ? 'first' : ''}`}>
      <${Glyph} of=${of.state} />
      <div>
        ${first
          ? html`<${Heading} class="sentence" focusKey="fleet"><${Said} sentence=${sentence} /></${Heading}>`
          : html`<p class="sentence"><${Said} sentence=${sentence} /></p>`}
        <${Meta} of=${of} />
        <${Advice} of=${of} />
      </div>
    </section>`;
  return html`
    <p class="unseen" role="status">${strings.state[shown]}</p>
    ${shown === 'stale' && html`<${Stale} of=${of} />`}
    ${known ?? (shown !== 'stale' && html`<p class="asking">${strings.asking}</p>`)}
    ${of && html`<${Notes} of=${of} />`}`;
}

// What the tab says: the shape of the worst, and the sentence.
export function title() {
  const of = summary.value;
  if (!of) return strings.name;
  if (state.value === 'stale') return `⚠ ${inUtc(lastKnown(of.sentence))}`;
  return inUtc(of.sentence);
}
