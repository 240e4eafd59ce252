// One device: what is claimed about it, and the evidence.
import { html, useSignal } from '../html.js';
import { mayChange, path, useAnswer } from '../api.js';
import { bytes, duration, justAfter, percent, skew } from '../format.js';
import { beginning, now } from '../live.js';
import { go, oneIn, takesOnly, timeIn } from '../route.js';
import { strings } from '../strings.js';
import { For, Foreign, Heading, Id, Sentence, Shape, Shapes, shapesOf, Time, Trouble } from '../parts.js';
import { begins, sums, Ticks, Timeline } from '../bar.js';
import { Change } from './change.js';

const HOUR = 3_600_000;
const SPANS = { day: [24 * HOUR, 96], week: [168 * HOUR, 168], month: [720 * HOUR, 180] };
const OUTAGES = 10;
const CHANGES = 10;

export function Device({ id, query }) {
  takesOnly(query, ['at', 'span', 'outages']);
  const base = `/devices/${encodeURIComponent(id)}`;
  const at = timeIn(query, 'at');
  const span = oneIn(query, 'span', Object.keys(SPANS), 'day');
  const answer = useAnswer(path(base, { at }), { every: 2_000, rest: 1_000 });
  const removed = useSignal(null);
  const device = answer.data;
  const gone = answer.problem?.status === 404;
  if (removed.value) {
    return html`
      <p class="crumbs"><a href="/devices">${strings.device.back}</a></p>
      <${Heading} focusKey=${`removed ${id}`}><${Id} id=${id} /></${Heading}>
      <p class="empty" role="status">${strings.change.removed}
        ${removed.value.still_sending && html` ${strings.change.stillSending}`}</p>`;
  }
  return html`
    <p class="crumbs"><a href="/devices">${strings.device.back}</a>
      ${at && html` · <strong>${strings.device.asOf} <${Time} at=${at} /></strong> · <a href="?">${strings.device.now}</a>`}</p>
    ${gone
      ? html`<${Heading} focusKey=${id}><${Id} id=${id} /></${Heading}>
          <p class="empty"><${Foreign} text=${answer.problem.message} /></p>`
      : html`<${Trouble} answer=${answer} />`}
    ${!device && !gone && html`<${Heading} focusKey=${id}><${Id} id=${id} /></${Heading}>`}
    ${device && !gone && html`
      <${Claim} device=${device} />
      <${Spans} base=${base} status=${device.status} span=${span} at=${at} />
      <div class="columns even"><${Facts} device=${device} /><${Changes} id=${id} at=${at} /></div>
      ${mayChange.value && !at && html`<${Change} base=${base} device=${device}
        onChanged=${answer.again} onRemoved=${(answer) => { removed.value = answer; }} />`}
      <${Outages} id=${id} query=${query} />`}`;
}

// The command line begins with the status, which stands above here.
function evidence({ status, sentence }) {
  const rest = sentence.startsWith(`${status}: `) ? sentence.slice(status.length + 2) : sentence;
  const whole = rest[0].toUpperCase() + rest.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function Claim({ device }) {
  const [shape] = shapesOf(device);
  const since = device.outage?.silent_since ?? device.outage?.found_at;
  return html`
    <section class=${`claim ${shape}`}>
      <${Heading} focusKey=${device.id}><span class="name"><${Shapes} of=${device} /><${Id} id=${device.id} /></span>
        <span class="verdict">${strings.status[device.status]}${
          device.late ? ` · ${strings.device.late}` : ''}</span>
        ${device.status === 'offline' && since && html`
          <span class="since">${strings.device.since} <${Time} at=${since} />
            ${device.at === null && html` (<${For} since=${since} parts=${2} />)`}</span>`}
      </${Heading}>
      ${device.sentence && html`<p class="evidence"><${Sentence} text=${evidence(device)} /></p>`}
      ${device.evidence?.listeners?.length > 0 && html`
        <p class="quiet listened-by">${strings.device.listenedBy} ${
          device.evidence.listeners.map((of, n) => html`${n > 0 && ', '}${of.instance} <span
            class="whole">(${duration(of.listened_seconds)})</span>`)}</p>`}
      ${device.not_counted?.length > 0 && html`
        <ul class="not-counted">${device.not_counted.map((text) => html`
          <li><i class="swatch unknown"></i>${strings.device.notCounted}: <${Sentence} text=${text} /></li>`)}</ul>`}
      ${device.error !== null && html`
        <p class="said"><${Shape} of="error" /><${Foreign} text=${device.error} class="note" /></p>`}
    </section>`;
}

// Its day, week or month; the one that is chosen is in the address.
function Spans({ base, status, span: chosen, at }) {
  const [length, buckets] = SPANS[chosen];
  const end = (time) => (at ? Date.parse(at) : time);
  const whole = beginning(length, end(now.value)) <= end(now.value) - length;
  const answer = useAnswer(`${base}/timeline#${chosen},${status},${whole},${at}`, {
    onChange: false,
    every: whole || at ? 60_000 : 10_000,
    fresh: () => path(`${base}/timeline`, {
      from: new Date(beginning(length, end(now.peek()))).toISOString(), to: at, buckets,
    }),
  });
  const chosenAt = (name) =>
    path('', { at, span: name === 'day' ? null : name }) || '?';
  const choose = (event) => {
    event.preventDefault();
    const url = new URL(event.currentTarget.href);
    go(url.pathname + url.search, { replace: true });
  };
  return html`
    <section class="spans" aria-labelledby="known">
      <div class="head"><h2 id="known">${strings.device.history}</h2>
        <nav class="chips" aria-label=${strings.device.history}>${Object.keys(SPANS).map((name) => html`
          <a class=${`chip ${name === chosen ? 'on' : ''}`} onClick=${choose}
            href=${chosenAt(name)}
            aria-current=${name === chosen ? 'true' : undefined}>${strings.device.spans[name]}</a>`)}</nav>
        <p class="legend"><span class="key"><i class="swatch up"></i>${strings.device.up}</span>
          <span class="key"><i class="swatch error"></i>${strings.device.error}</span>
          <span class="key"><i class="swatch offline"></i>${strings.device.offline}</span>
          <span class="key"><i class="swatch unknown"></i>${strings.device.unknown}</span></p>
      </div>
      <${Trouble} answer=${answer} />
      <div class="big">${answer.data
        ? html`<${Timeline} timeline=${answer.data} name=${strings.device.spanNames[chosen]} />
            <${Ticks} from=${answer.data.from} to=${answer.data.known_until} />`
        : html`<div class="bar"></div><div class="ticks"></div>`}</div>
      <p class="quiet">${answer.data && heardIn(answer.data)}.
        ${answer.data && !whole && html` ${strings.device.firstStart} <${Time} at=${answer.data.from} />.`}</p>
      ${answer.data && Date.parse(answer.data.known_from) > begins(answer.data) && html`
        <p class="quiet">${strings.listening.tooMany} <${Time} at=${answer.data.known_from} />.</p>`}
    </section>`;
}

function heardIn({ buckets }) {
  const { share } = sums(buckets);
  const { heard, ofKnown, nothingKnown } = strings.device;
  return share === null ? nothingKnown : `${heard} ${percent(share)} ${ofKnown}`;
}

function Facts({ device }) {
  const { facts, notKept } = strings.device;
  // Of the past only the last heartbeat is kept. What it did not say then is not known.
  const notReported = device.report_kept ? strings.device.notReported : notKept;
  const none = device.report_kept ? strings.device.none : notKept;
  const off = device.clock_skew_seconds;
  const rows = [
    [facts.seen, device.last_seen_at
      ? html`<${Time} at=${device.last_seen_at} />`
      : device.status === 'provisioning' ? strings.device.never : notKept],
    [facts.timeout, html`${duration(device.effective_timeout_seconds)} <span class="quiet">${
      device.timeout_seconds === null ? strings.device.defaultTimeout : strings.device.ownTimeout}</span>
      ${device.timeout_error && html`<br /><${Foreign} text=${device.timeout_error} class="warn" />`}`],
    [facts.uptime, device.uptime_seconds === null ? notReported : duration(device.uptime_seconds)],
    [facts.memory, device.free_memory === null ? notReported
      : html`${bytes(device.free_memory)} <span class="quiet">${strings.device.bytes}</span>`],
    [facts.skew, off === null ? notReported
      : html`<span class=${Math.abs(off) >= 60 ? 'warn' : ''}>${skew(off)}</span>`],
    [facts.error, device.error === null ? none
      : html`<${Foreign} text=${device.error} class="note" />`],
    device.payload_error !== null
      && [facts.payload, html`<${Foreign} text=${device.payload_error} class="note" />`],
    [facts.registered, html`<${Time} at=${device.registered_at} />`],
  ].filter(Boolean);
  return html`
    <section aria-labelledby="facts"><h2 id="facts">${strings.device.reported}</h2>
      <dl class="facts">${rows.map(([term, text]) => html`<div><dt>${term}</dt><dd>${text}</dd></div>`)}</dl>
    </section>`;
}

function Changes({ id, at }) {
  const answer = useAnswer(path('/transitions', {
    device: id, limit: CHANGES, until: at && justAfter(at),
  }));
  return html`
    <section aria-labelledby="changes"><h2 id="changes">${strings.device.changes}</h2>
      <${Trouble} answer=${answer} />
      ${answer.data?.items.length === 0 && html`<p class="quiet">${strings.fleet.noChanges}</p>`}
      <ul class="lines changes">${answer.data?.items.map((change) => html`
        <li key=${change.sequence}><${Shape} of=${change.to} />
          <span class="to">${strings.status[change.to]}</span>
          <span class="quiet">${strings.device.was} ${strings.status[change.from]}</span>
          <span class="when"><${Time} at=${change.at} /></span></li>`)}</ul>
    </section>`;
}

// An outage began between its last heartbeat and the moment when its silence was proven, so
// how long it lasted lies between two numbers, and both are said.
function Down({ of }) {
  const first = Date.parse(of.silent_since ?? of.found_at);
  if (of.ended_at === null) {
    return html`${strings.device.atLeast(duration(Math.floor(Math.max(0, (now.value - first) / 1000))))}`;
  }
  const end = Date.parse(of.ended_at);
  return html`${strings.device.between(
    duration((end - Date.parse(of.found_at)) / 1000), duration((end - first) / 1000))}`;
}

function Outages({ id, query }) {
  const answer = useAnswer(
    path('/outages', { device: id, limit: OUTAGES, cursor: query.get('outages') }));
  const { outageColumns: columns } = strings.device;
  const { items, next } = answer.data ?? { items: null };
  const older = new URLSearchParams(query);
  if (next) older.set('outages', next);
  return html`
    <section aria-labelledby="outages"><h2 id="outages">${strings.device.outages}</h2>
      <${Trouble} answer=${answer} />
      ${items?.length === 0 && html`<p class="quiet">${strings.device.noOutages}</p>`}
      ${items?.length > 0 && html`
        <table class="plain"><thead><tr>
          <th scope="col">${columns.silent}</th><th scope="col" class="c-2">${columns.found}</th>
          <th scope="col">${columns.ended}</th><th scope="col" class="num">${columns.down}</th>
          <th scope="col" class="num c-2">${columns.listened}</th></tr></thead>
        <tbody>${items.map((outage) => html`
          <tr key=${outage.sequence}>
            <td><a href=${`?at=${outage.found_at}`} title=${strings.device.evidenceThen}>${
              outage.silent_since ? html`<${Time} at=${outage.silent_since} />` : '–'}</a></td>
            <td class="c-2"><${Time} at=${outage.found_at} /></td>
            <td>${outage.ended_at ? html`<${Time} at=${outage.ended_at} />`
              : html`<strong class="offline">${strings.device.lasts}</strong>`}</td>
            <td class="num"><${Down} of=${outage} /></td>
            <td class="num c-2">${duration(outage.listened_seconds)}</td></tr>`)}</tbody></table>`}
      <p class="more">${query.has('outages') && html`<a href="?">${strings.devices.first}</a> `}
        ${next && html`<a href=${`?${older}`}>${strings.device.more}</a>`}</p>
    </section>`;
}
