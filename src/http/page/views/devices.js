// The list of devices: filters and the place in it are in the address.
import { html } from '../html.js';
import { AGES_MS, get, path, useAnswer } from '../api.js';
import { bytes, count, duration, skew } from '../format.js';
import { summary } from '../live.js';
import { back, canGoBack, endsAfter, go, oneIn, takesOnly, timeIn } from '../route.js';
import { strings } from '../strings.js';
import { Ago, DeviceLink, Foreign, Heading, Id, Shape, Shapes, shapesOf, Time, Trouble } from '../parts.js';

const PAGE = 100;
// A search that takes longer goes on only if somebody wants it to.
const SEARCH_MS = 3_000;
const CHIPS = ['online', 'offline', 'error', 'late', 'provisioning'];

export function Devices({ query }) {
  const isTogether = TOGETHER.some((name) => query.has(name));
  takesOnly(query, [...(isTogether ? TOGETHER : FILTERS), 'cursor'], ['status']);
  return isTogether ? html`<${Together} query=${query} />` : html`<${List} query=${query} />`;
}

const FILTERS = ['status', 'late', 'q'];
// The parameters of outages that have something in common: they began together, or one check
// found them. The first that is there names the list.
const TOGETHER = ['silent_from', 'found_at', 'from', 'silent_until', 'until'];

const filters = (query) => ({
  status: query.getAll('status'),
  late: query.get('late'),
  q: query.get('q'),
});

// What is looked for in every id, or by every age, is looked for less often.
const SCANNED_MS = 15_000;
const isScan = ({ q, late }) => late === 'true' || /[*?]/.test(q ?? '');

// A page of the list. Each question has little time; what it did not get to is asked next.
async function pageOf(ask, cursor, signal) {
  const end = Date.now() + SEARCH_MS;
  let page = await get(ask(PAGE, cursor), signal);
  while (page.partial && page.items.length < PAGE && Date.now() < end) {
    const more = await get(ask(PAGE - page.items.length, page.next), signal);
    page = { ...more, items: [...page.items, ...more.items] };
  }
  return page;
}

function List({ query }) {
  oneIn(query, 'late', ['true', 'false'], 'false');
  const asked = filters(query);
  const cursor = query.get('cursor');
  const ask = (limit, cursor) => path('/devices', { ...asked, limit, cursor });
  const answer = useAnswer(ask(PAGE, cursor), {
    every: isScan(asked) ? SCANNED_MS : AGES_MS, load: (signal) => pageOf(ask, cursor, signal),
  });
  const items = answer.data?.items ?? [];
  const next = answer.data?.next;
  const filtered = asked.status.length > 0 || asked.late || asked.q;
  return html`
    <div class="head"><${Heading} focusKey="devices">${strings.devices.title}</${Heading}>
      <${Chips} asked=${asked} /></div>
    <${Trouble} answer=${answer} />
    ${answer.data?.partial && html`<p class="trouble" role="status">${strings.devices.partial}
      ${next && html` <a href=${path('/devices', { ...asked, cursor: next })}>${strings.devices.goOn}</a>`}</p>`}
    ${answer.data && items.length === 0
      ? html`<p class="empty">${strings.devices.none}
          ${filtered && html` <a href="/devices">${strings.devices.clear}</a>`}</p>`
      : answer.data && html`<${Table} items=${items} waiting=${answer.waiting} />`}
    <${Pager} items=${items} ids=${(item) => item.id}
      first=${path('/devices', asked)} next=${next && path('/devices', { ...asked, cursor: next })}
      atFirst=${!query.has('cursor')} />`;
}

function Chips({ asked }) {
  // The counts are those of the whole fleet. What a search finds is not counted.
  const of = asked.q ? null : summary.value;
  const n = { ...of?.devices, late: of?.late };
  const late = asked.late === 'true';
  const none = asked.status.length === 0 && !late;
  const toggle = (chip) => {
    if (chip === 'late') return { ...asked, late: late ? null : 'true' };
    const status = asked.status.includes(chip)
      ? asked.status.filter((one) => one !== chip) : [...asked.status, chip];
    return { ...asked, status };
  };
  const chip = (name, on, href, n) => html`
    <a class=${`chip ${on ? 'on' : ''}`} href=${href} aria-current=${on ? 'true' : undefined}>
      ${name !== 'all' && html`<${Shape} of=${name} />`}
      ${name === 'all' ? strings.devices.all : strings.status[name]}
      ${n !== undefined && n !== null && html`<span class="n">${count(n)}</span>`}</a>`;
  return html`<nav class="chips" aria-label=${strings.devices.filters}>
    ${chip('all', none, path('/devices', { q: asked.q }), of?.total)}
    ${CHIPS.map((name) => chip(
      name,
      name === 'late' ? late : asked.status.includes(name),
      path('/devices', toggle(name)), n[name]))}
  </nav>`;
}

function openRow(event) {
  if (event.target.closest('a') || String(getSelection())) return;
  event.currentTarget.querySelector('a[data-row]')?.click();
}

function Table({ items, waiting }) {
  const { columns } = strings.devices;
  return html`
    <table class="devices" aria-busy=${waiting}>
      <thead><tr>
        <th scope="col">${columns.id}</th><th scope="col" class="c-status">${columns.status}</th>
        <th scope="col" class="num">${columns.seen}</th>
        <th scope="col" class="num c-3">${columns.timeout}</th>
        <th scope="col" class="num c-2">${columns.uptime}</th>
        <th scope="col" class="num c-3">${columns.memory}</th>
        <th scope="col" class="num c-3">${columns.skew}</th>
        <th scope="col" class="c-note">${columns.note}</th>
      </tr></thead>
      <tbody>${items.map((device) => html`<${Row} key=${device.id} device=${device} />`)}</tbody>
    </table>`;
}

function Row({ device }) {
  const [shape] = shapesOf(device);
  const off = device.clock_skew_seconds;
  const note = device.error ?? (device.payload_error && strings.devices.unreadable);
  return html`
    <tr class=${shape} onClick=${openRow}>
      <th scope="row"><span class="cell"><${Shapes} of=${device} /><${DeviceLink} id=${device.id} row /></span>
        ${note && html`<${Foreign} text=${note} class="note under" />`}</th>
      <td class="c-status">${strings.status[device.status]}${
        device.late ? html` <span class="quiet">${strings.status.late}</span>` : ''}</td>
      <td class="num">${device.last_seen_at
        ? html`<${Ago} at=${device.last_seen_at} />`
        : html`<span class="quiet">${strings.devices.never}</span>`}</td>
      <td class=${`num c-3 ${device.timeout_seconds === null ? 'quiet' : ''}`}>${
        duration(device.effective_timeout_seconds)}</td>
      <td class="num c-2">${duration(device.uptime_seconds, 1)}</td>
      <td class="num c-3">${device.free_memory === null ? '–' : bytes(device.free_memory)}</td>
      <td class=${`num c-3 ${off !== null && Math.abs(off) >= 60 ? 'warn' : 'quiet'}`}>${
        off === null ? '–' : Math.abs(off) >= 1 ? skew(off) : ''}</td>
      <td class="c-note">${note && html`<${Foreign} text=${note} class="note" />`}</td>
    </tr>`;
}

function Pager({ items, ids, first, next, atFirst }) {
  const { devices } = strings;
  if (items.length === 0 && atFirst && !next) return null;
  return html`
    <nav class="pager" aria-label=${devices.title}>
      <span class="shown">${devices.shown(count(items.length))}${items.length > 1 && html`${': '}
        <${Id} id=${ids(items[0])} /> ${devices.to} <${Id} id=${ids(items.at(-1))} />`}</span>
      ${!atFirst && html`<a class="button" href=${first}>${devices.first}</a>`}
      ${!atFirst && canGoBack() && html`
        <button type="button" data-previous onClick=${back}>${devices.previous}</button>`}
      ${next && html`<a class="button" data-next href=${next}>${devices.next}</a>`}
    </nav>`;
}

// Those that fell silent together, or that one check found.
function Together({ query }) {
  const asked = Object.fromEntries(TOGETHER.map((name) => [name, timeIn(query, name)]));
  endsAfter(query, 'silent_from', 'silent_until');
  endsAfter(query, 'from', 'until');
  const named = TOGETHER.find((name) => asked[name] !== null);
  const answer = useAnswer(
    path('/outages', { ...asked, limit: PAGE, cursor: query.get('cursor') }),
  );
  const items = answer.data?.items ?? [];
  const next = answer.data?.next;
  const { outageColumns: columns } = strings.device;
  return html`
    <div class="head"><${Heading} focusKey=${asked[named]}>${strings.devices.title} ${
      strings.devices.together[named]} <${Time} at=${asked[named]} /></${Heading}>
      <nav class="chips"><a class="chip" href="/devices?status=offline">${strings.fleet.all(count(summary.value?.devices.offline))}</a></nav></div>
    <${Trouble} answer=${answer} />
    ${answer.data && items.length === 0 && html`<p class="empty">${strings.devices.none}</p>`}
    ${items.length > 0 && html`<table class="devices">
      <thead><tr><th scope="col">${strings.devices.columns.id}</th>
        <th scope="col" class="num">${columns.silent}</th>
        <th scope="col" class="num">${columns.ended}</th>
        <th scope="col" class="num c-2">${columns.listened}</th></tr></thead>
      <tbody>${items.map((outage) => html`
        <tr key=${outage.sequence} onClick=${openRow} class=${outage.ended_at ? 'online' : 'offline'}>
          <th scope="row"><span class="cell"><${Shape} of=${outage.ended_at ? 'online' : 'offline'} />
            <${DeviceLink} id=${outage.device_id} row /></span></th>
          <td class="num">${outage.silent_since && html`<${Time} at=${outage.silent_since} />`}</td>
          <td class="num">${outage.ended_at ? html`<${Time} at=${outage.ended_at} />` : strings.device.lasts}</td>
          <td class="num c-2">${duration(outage.listened_seconds)}</td>
        </tr>`)}</tbody></table>`}
    <${Pager} items=${items} ids=${(item) => item.device_id}
      first=${path('/devices', asked)}
      next=${next && path('/devices', { ...asked, cursor: next })}
      atFirst=${!query.has('cursor')} />`;
}

// The search of the head: what is typed there filters this list, and is in its address.
export function search(text, query, replace) {
  const asked = TOGETHER.some((name) => query.has(name)) ? {} : filters(query);
  go(path('/devices', { ...asked, q: text }), { replace, keepScroll: true });
}
