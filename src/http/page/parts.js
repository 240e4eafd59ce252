// Small parts that several views use.
import { html, useEffect, useRef } from './html.js';
import { strings } from './strings.js';
import { duration, instant, pieces, utc } from './format.js';
import { now, state } from './live.js';
import { addressable, devicePath } from './route.js';

// A status has a shape besides its colour: circle, square, triangle, quarter, ring.
const SHAPES = {
  online: html`<circle cx="8" cy="8" r="5.5" class="solid" />`,
  offline: html`<rect x="2.75" y="2.75" width="10.5" height="10.5" rx="1" class="solid" />`,
  error: html`<path d="M8 1.8 14.6 13.6H1.4z" class="solid" />`,
  late: html`<circle cx="8" cy="8" r="5.5" class="ring" /><path d="M8 8V2.5A5.5 5.5 0 0 1 13.5 8z" class="solid" />`,
  provisioning: html`<circle cx="8" cy="8" r="5.25" class="ring" />`,
};
export const Shape = ({ of }) => html`
  <svg class=${`shape ${of}`} viewBox="0 0 16 16" aria-hidden="true">${SHAPES[of]}</svg>`;

// The shapes of a device. One that is late may be in error all the same.
export const shapesOf = ({ status, late }) =>
  (!late ? [status] : status === 'online' ? ['late'] : [status, 'late']);
export const Shapes = ({ of }) => shapesOf(of).map((shape) => html`<${Shape} of=${shape} />`);

// Text from elsewhere, above all of a device: always text, its direction and its ink kept to
// itself, with nothing hidden in it. Every text that the page did not make is shown by this.
export const Foreign = ({ text, class: name = '' }) => html`
  <bdi class=${`foreign ${name}`}>${pieces(text).map((piece) => {
    if (!piece.hidden) return piece.text;
    const [said, why] = piece.more
      ? [`+${piece.more}`, strings.moreMarks(piece.more)] : [piece.text, `U+${piece.text}`];
    return html`<span class="hidden-char" title=${why}>${said}</span>`;
  })}</bdi>`;

// An id that a heading has no room for in one line is smaller there.
const LONG = 40;
export const Id = ({ id }) => html`
  <${Foreign} text=${id} class=${id.length > LONG ? 'id long' : 'id'} />`;

export const DeviceLink = ({ id, row }) => html`
  <a href=${addressable(id) ? devicePath(id) : `/devices?q=${encodeURIComponent(id)}`}
     data-row=${row ? '' : undefined}><${Id} id=${id} /></a>`;

export const Time = ({ at }) => html`
  <time datetime=${at} title=${utc(at)}>${instant(at, now.value)}</time>`;

// A sentence of the service. Its times are shown like all others, and no line of it ends within a
// duration, such as "26 min 13 s".
export const DURATION = /\d[\d,.]* (?:d|h|min|ms|s)\b(?: \d+ (?:h|min|s)\b)?/;
const INSTANT = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/;
const PARTS = new RegExp(`(${INSTANT.source})|(${DURATION.source})`);
export const Sentence = ({ text }) => text.split(PARTS).map((part, n) => {
  if (!part) return null;
  if (n % 3 === 1) return html`<${Time} at=${part} />`;
  return n % 3 === 2
    ? html`<span class="whole">${part}</span>` : html`<${Foreign} text=${part} />`;
});

export const Ago = ({ at, parts = 1 }) => {
  const seconds = Math.max(0, (now.value - Date.parse(at)) / 1000);
  const said = seconds < 1 ? strings.now : strings.ago(duration(Math.floor(seconds), parts));
  return html`<time datetime=${at} title=${utc(at)}>${said}</time>`;
};
// A duration that goes on.
export const For = ({ since, parts = 1 }) => html`
  <time datetime=${since} title=${utc(since)}>${
    duration(Math.floor(Math.max(0, (now.value - Date.parse(since)) / 1000)), parts)}</time>`;

// Says why there is nothing new to show. What was known before stays where it is. The words are
// the API's to the letter, for they may say what to write. While the banner says that the database is away, no list repeats it at length.
export function Trouble({ answer }) {
  if (!answer.problem) return null;
  if (state.value === 'database' && answer.problem.status === 503) {
    return html`<p class="quiet away">${strings.problem.database}</p>`;
  }
  return html`
    <p class="trouble" role="status">
      <strong>${strings.problem.title}</strong> <${Foreign} text=${answer.problem.message} />
      ${answer.data && html` ${strings.problem.kept}`}
    </p>`;
}

// The heading of a view. It takes the focus when the view changes, for screen readers and
// so that Tab goes on from there.
export function Heading({ children, focusKey, class: name }) {
  const heading = useRef(null);
  useEffect(() => {
    if (Heading.seen && heading.current) heading.current.focus({ preventScroll: true });
    Heading.seen = true;
  }, [focusKey]);
  return html`<h1 tabindex="-1" ref=${heading} class=${name}>${children}</h1>`;
}
