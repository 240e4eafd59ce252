// What the service heard of the world: when it listened, when not, and why not.
import { html } from '../html.js';
import { path, useAnswer } from '../api.js';
import { count, duration, latency, percent } from '../format.js';
import { now } from '../live.js';
import { takesOnly } from '../route.js';
import { strings } from '../strings.js';
import { Heading, Time, Trouble } from '../parts.js';
import { begins, ends, Segments, Ticks } from '../bar.js';

const HOUR = 3_600_000;
const LISTED = 50;
const SPANS = { day: 24 * HOUR, month: 720 * HOUR };

const useListening = (span) => useAnswer(`/listening#${span}`, {
  every: 30_000,
  fresh: () => path('/listening', { from: new Date(now.peek() - SPANS[span]).toISOString() }),
});

// A service that was first started within a day has listened in no other time.
const isFresh = ({ data }) => Boolean(data) && begins(data) > Date.parse(data.from);

export function Listening({ query }) {
  takesOnly(query, []);
  const day = useListening('day');
  const month = useListening('month');
  const text = strings.listening;
  return html`
    <${Heading} focusKey="listening">${text.title}</${Heading}>
    <p class="lead">${text.why}</p>
    <${Trouble} answer=${day} />
    <${Span} answer=${day} name="day" />
    ${!isFresh(day) && html`<${Span} answer=${month} name="month" />`}
    <div class="columns wide-first"><${Gaps} answer=${month} />
      <div><${Listeners} answer=${month} /><${Latency} answer=${day} /></div></div>`;
}

// Intervals and what lies between them, as segments of a bar. Nothing is drawn where they are
// not listed.
function segments(of) {
  const { listed_from: listed, intervals } = of;
  const start = begins(of);
  const end = ends(of);
  const out = [];
  let at = Date.parse(listed);
  const push = (kind, until) => {
    if (until > at) out.push({ kind, at: at - start, ms: until - at });
    at = Math.max(at, until);
  };
  const sorted = [...intervals].sort((a, b) => Date.parse(a.from) - Date.parse(b.from));
  for (const interval of sorted) {
    push('unknown', Math.min(end, Date.parse(interval.from)));
    push('up', Math.min(end, Date.parse(interval.to)));
  }
  push('unknown', end);
  return { out, total: end - start };
}

function Span({ answer, name }) {
  const text = strings.listening;
  const of = answer.data;
  if (!of) return html`<section class="spans"><h2>${text.spans[name]}</h2><div class="big"><div class="bar"></div></div></section>`;
  const { out, total } = segments(of);
  const from = new Date(begins(of)).toISOString();
  const isWhole = begins(of) === Date.parse(of.from);
  const known = (ends(of) - Date.parse(of.known_from)) / 1000;
  const share = known > 0 ? of.listened_seconds / known : null;
  const span = isWhole ? text.spans[name] : text.sinceFirst(duration(total / 1000));
  const said = text.lead(duration(of.listened_seconds), span);
  return html`
    <section class="spans listened">
      <h2><span class="n">${percent(share)}</span> ${text.share}
        <span class="quiet">${text.of(duration(of.listened_seconds), span)}</span></h2>
      <div class="big"><${Segments} segments=${out} total=${Math.max(1, total)} from=${from} label=${said} />
        <${Ticks} from=${from} to=${of.known_until} /></div>
      ${Date.parse(of.listed_from) > begins(of) && html`
        <p class="quiet">${text.tooMany} <${Time} at=${of.listed_from} />.</p>`}
    </section>`;
}

const lasts = (gap) => Date.parse(gap.to) - Date.parse(gap.from);

// The service's sentence has the length and the times before its colon; the table has columns
// for them.
function cause({ sentence, cause: name }) {
  const said = sentence?.split(': ').at(-1) ?? name ?? '–';
  return said[0].toUpperCase() + said.slice(1);
}

function Gaps({ answer }) {
  const text = strings.listening;
  const of = answer.data;
  const gaps = of?.gaps;
  const older = of ? of.more + Math.max(0, gaps.length - LISTED) : 0;
  return html`
    <section aria-labelledby="gaps"><h2 id="gaps">${text.gaps}</h2>
      ${gaps?.length === 0 && html`<p class="quiet">${text.noGaps}</p>`}
      ${gaps?.length > 0 && html`
        <table class="plain gaps"><thead><tr><th scope="col">${text.columns.from}</th>
          <th scope="col" class="c-2">${text.columns.to}</th>
          <th scope="col" class="num">${text.columns.duration}</th>
          <th scope="col">${text.columns.cause}</th></tr></thead>
        <tbody>${gaps.slice(0, LISTED).map((gap) => html`
          <tr key=${gap.from}><td><${Time} at=${gap.from} /></td>
            <td class="c-2"><${Time} at=${gap.to} /></td>
            <td class="num">${duration(lasts(gap) / 1000)}</td>
            <td>${cause(gap)}</td></tr>`)}</tbody></table>`}
      ${older > 0 && html`<p class="quiet more">${text.more(count(older))}</p>`}
    </section>`;
}

// The instances, if several have listened.
function Listeners({ answer }) {
  const text = strings.listening;
  const listeners = answer.data?.listeners ?? [];
  return listeners.length > 0 && html`
    <section aria-labelledby="listeners"><h2 id="listeners">${text.listeners}</h2>
      <dl class="facts names">${listeners.map((of) => html`
        <div key=${of.instance}><dt>${of.instance}</dt>
          <dd>${duration(of.listened_seconds)} <span class="quiet">${text.until} <${Time} at=${of.to} /></span></dd></div>`)}</dl>
    </section>`;
}

function Latency({ answer }) {
  const text = strings.listening;
  const echo = answer.data?.echo_latency_seconds;
  return html`
    <section aria-labelledby="latency"><h2 id="latency">${text.latency}</h2>
      ${!echo || echo.p50 === null || echo.p50 === undefined
        ? html`<p class="quiet">${answer.data && text.noEcho}</p>`
        : html`<dl class="facts">
            <div><dt>${text.p50}</dt><dd>${latency(echo.p50)}</dd></div>
            <div><dt>${text.p99}</dt><dd>${latency(echo.p99)}</dd></div></dl>`}
    </section>`;
}
