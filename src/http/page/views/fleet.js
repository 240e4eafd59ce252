// The first screen: is it bad, is it one thing or many, since when.
import { html, useEffect, useRef, useSignal } from '../html.js';
import { AGES_MS, get, path, useAnswer } from '../api.js';
import { count, justAfter } from '../format.js';
import { beginning, echoes, knowsBeginning, now, proven, summary } from '../live.js';
import { takesOnly } from '../route.js';
import { strings } from '../strings.js';
import { Ago, DeviceLink, For, Shape, Shapes, shapesOf, Time, Trouble } from '../parts.js';
import { begins, Share, Timeline } from '../bar.js';

const SMALL_FLEET = 50;
const CHANGES = 9;
const SINGLES = 8;
const AT_ONCE = 100;
// Nine lines are shown, of which each may be many changes of one moment.
const CHANGES_AT_ONCE = 40;
const STEPS = 4;
const DAY = 86_400_000;

export function Fleet({ query }) {
  takesOnly(query, []);
  const of = summary.value;
  if (!of) return null;
  return html`
    <${Counts} of=${of} />
    ${of.total === 0 && html`<${Empty} />`}
    ${of.total > 0 && of.total <= SMALL_FLEET && html`
      <div class="columns wide-first"><${Each} /><${Changes} /></div>`}
    ${of.total > SMALL_FLEET && html`
      <div class="columns"><${Out} of=${of} /><${Changes} /></div>${knowsBeginning.value && html`<${History} />`}`}`;
}

const Empty = () => html`
  <section class="empty"><p>${strings.fleet.empty}</p>
    <p class="quiet">${strings.fleet.emptyHint}</p><p><code>${strings.fleet.emptyCommand}</code></p>
  </section>`;

function Counts({ of }) {
  const { devices } = of;
  const cells = [
    ['online', devices.online, { status: 'online' }],
    ['offline', devices.offline, { status: 'offline' }],
    ['error', devices.error, { status: 'error' }],
    ['late', of.late, { late: 'true' }],
    ['provisioning', devices.provisioning, { status: 'provisioning' }],
  ];
  return html`
    <nav class="counts" aria-label=${strings.fleet.counts}>
      ${cells.map(([status, n, query]) => html`
        <a class=${`count ${status} ${n ? '' : 'zero'}`} href=${path('/devices', query)}>
          <${Shape} of=${status} /><span class="n">${count(n)}</span>
          <span class="what">${strings.status[status]}</span>
        </a>`)}
    </nav>`;
}

// The newest of a list with `until`, without the bursts in it, of which each may be larger than
// any page: they are stepped over in time.
// `lines` makes lines of the items of a page, and `before` says where to go on after an item.
async function newest(ask, lines, before, wanted, signal) {
  const found = [];
  let until = null;
  for (let asked = 0; asked < STEPS; asked += 1) {
    let page;
    try {
      page = await get(ask(until), signal);
    } catch (problem) {
      if (until && problem.status === 400) break;
      throw problem;
    }
    found.push(...lines(page.items, !page.next));
    if (!page.next || found.length >= wanted) break;
    until = before(page.items.at(-1));
  }
  return found.slice(0, wanted);
}

// Who is offline, the newest first. Those that fell together are one line.
function Out({ of }) {
  const within = ({ silent_since: at, found_at: found }) => of.bursts.find((burst) => {
    const since = Date.parse(at ?? found);
    return Date.parse(burst.since) <= since && since <= Date.parse(burst.until);
  });
  const answer = useAnswer(`singles#${of.bursts.map(({ since, until }) => since + until)}`, {
    load: (signal) => newest(
      (until) => path('/outages', { open: 'true', limit: AT_ONCE, until }),
      (items) => items.filter((outage) => !within(outage)),
      (outage) => within(outage)?.found_at ?? outage.found_at, SINGLES, signal,
    ),
  });
  const lines = [
    ...of.bursts.map((burst) => ({ at: burst.found_at, burst })),
    ...(answer.data ?? []).map((outage) => ({ at: outage.found_at, outage })),
  ].sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  const offline = of.devices.offline;
  return html`
    <section aria-labelledby="out">
      <h2 id="out">${strings.fleet.out}</h2>
      <${Trouble} answer=${answer} />
      ${offline === 0
        ? html`<p class="quiet">${proven.value ? strings.fleet.none : strings.fleet.noneKnown}</p>`
        : html`<ul class="lines">
            ${lines.map((line) => (line.burst
              ? html`<${Burst} key=${line.at} of=${line.burst} />`
              : html`<${Outage} key=${line.outage.sequence} of=${line.outage} />`))}
          </ul>
          ${(lines.length > 0 || answer.data || answer.problem) && html`
            <p class="more"><a href="/devices?status=offline">${strings.fleet.all(count(offline))}</a></p>`}`}
    </section>`;
}

const Burst = ({ of }) => html`
  <li class="burst"><${Shape} of="offline" />
    <a data-row href=${path('/devices', {
      silent_from: of.since, silent_until: justAfter(of.until),
      from: of.found_at, until: justAfter(of.found_until),
    })}>${strings.fleet.burst(count(of.devices))}</a>
    <span class="when"><${For} since=${of.since} /></span>
  </li>`;

const Outage = ({ of }) => html`
  <li><${Shape} of="offline" /><${DeviceLink} id=${of.device_id} row />
    <span class="when"><${For} since=${of.silent_since ?? of.found_at} /></span></li>`;

// Changes of one moment to one status are one line, however many.
function grouped(items, all) {
  const groups = [];
  for (const item of items) {
    const last = groups.at(-1);
    if (last?.at === item.at && last.to === item.to) last.n += 1;
    else groups.push({ ...item, n: 1 });
  }
  if (groups.length > 0 && !all) groups.at(-1).more = true;
  return groups;
}

function Changes() {
  const answer = useAnswer('changes', {
    rest: 2_000,
    load: (signal) => newest(
      (until) => path('/transitions', { limit: CHANGES_AT_ONCE, until }), grouped, (change) => change.at, CHANGES, signal,
    ),
  });
  const groups = answer.data;
  return html`
    <section aria-labelledby="changes">
      <h2 id="changes">${strings.fleet.changes}</h2>
      <${Trouble} answer=${answer} />
      ${groups?.length === 0 && html`<p class="quiet">${strings.fleet.noChanges}</p>`}
      <ul class="lines changes">
        ${groups?.map((change) => html`
          <li key=${change.sequence}><${Shape} of=${change.to} /><${Who} of=${change} />
            <span class="to">${strings.status[change.to]}</span>
            <span class="when"><${Ago} at=${change.at} /></span></li>`)}
      </ul>
    </section>`;
}

function Who({ of }) {
  if (of.n === 1) return html`<${DeviceLink} id=${of.device_id} row />`;
  // The list ends within a burst that one check found; the summary has counted it.
  const burst = of.more && of.to === 'offline' && summary.value.bursts.find((burst) =>
    burst.found_at === of.at && burst.found_until === of.at);
  const n = burst ? count(burst.devices) : `${count(of.n)}${of.more ? '+' : ''}`;
  const said = strings.fleet.many(n);
  return of.to === 'offline'
    ? html`<a data-row href=${path('/devices', { found_at: of.at })}>${said}</a>`
    : html`<span>${said}</span>`;
}

// Samples are kept with each check, at most one in ten seconds. A part of the chart without one
// would be drawn as not known.
const BUCKETS = 96;
function History() {
  const every = Math.max(10, summary.value.check_interval_seconds) * 1000;
  const answer = useAnswer('/fleet', {
    onChange: false,
    fresh: () => {
      const from = beginning(DAY, now.peek());
      const buckets = Math.floor((now.peek() - from) / (2 * every));
      return path('/fleet', {
        from: new Date(from).toISOString(), buckets: Math.min(BUCKETS, Math.max(1, buckets)),
      });
    },
  });
  const place = useRef(null);
  const chart = useRef(null);
  const { data } = answer;
  useEffect(() => {
    if (!data || !place.current) return;
    // The only view with a chart, so only here its library is loaded.
    import('../chart.js').then(({ draw }) => {
      if (!place.current) return;
      chart.current ??= draw(place.current);
      chart.current.show(data);
    });
  }, [data]);
  useEffect(() => () => chart.current?.destroy(), []);
  return html`
    <section class="history" aria-labelledby="history">
      <h2 id="history"><${Since} at=${data && begins(data)} end=${data && Date.parse(data.to)}
        whole=${strings.fleet.chart} since=${strings.fleet.since} /></h2>
      <${Trouble} answer=${answer} />
      <div class="chart" ref=${place} role="img" aria-label=${strings.fleet.chartOf}></div>
    </section>`;
}

// A small fleet: each device as a line with its day.
const ORDER = ['offline', 'error', 'late', 'provisioning', 'online'];
const rank = (device) => ORDER.indexOf(shapesOf(device)[0]);

// A stretch of time that may begin with the first start.
const Since = ({ at, end, whole, since }) =>
  (at && end - at < DAY - DRAWN_MS ? html`${since}<${Time} at=${new Date(at).toISOString()} />` : whole);

// All bars have the same stretch of time, so that what happened at once stands in one line. It
// ends with what is proven and written, for the last moments would be hatched as not known.
const DRAWN_MS = 60_000;
const WRITTEN_MS = 1_500;
function useFrame() {
  const frame = useSignal(null);
  const end = echoes.value && summary.value.as_of
    ? Math.min(now.value, Date.parse(summary.value.as_of)) - WRITTEN_MS : now.value;
  const from = beginning(DAY, end);
  const every = Math.min(DRAWN_MS, Math.max(5_000, (end - from) / 100));
  const old = frame.peek();
  if (!old || Math.abs(end - old.end) >= every || Math.abs(from - old.from) > every) {
    frame.value = { from, end };
  }
  return frame.peek();
}

function Each() {
  const frame = useFrame();
  const answer = useAnswer(path('/devices', { limit: SMALL_FLEET }), { every: AGES_MS, rest: 2_000 });
  const items = [...(answer.data?.items ?? [])].sort((a, b) => rank(a) - rank(b));
  return html`
    <section aria-labelledby="each">
      <h2 id="each"><${Since} at=${frame.from} end=${frame.end}
        whole=${strings.fleet.each} since=${strings.fleet.eachSince} /></h2>
      <p class="quiet share-means">${strings.fleet.share}</p>
      <${Trouble} answer=${answer} />
      <ul class="lines each">${items.map((device) => html`
        <${Line} key=${device.id} device=${device} frame=${frame} />`)}</ul>
    </section>`;
}

function Line({ device, frame }) {
  const answer = useAnswer(path(`/devices/${encodeURIComponent(device.id)}/timeline`, {
    from: new Date(frame.from).toISOString(), to: new Date(frame.end).toISOString(),
  }), { onChange: false, every: 3_600_000 });
  const [shape] = shapesOf(device);
  return html`
    <li class=${shape}><span class="shapes"><${Shapes} of=${device} /></span>
      <${DeviceLink} id=${device.id} row />
      <span class="to">${shape === 'online' ? '' : strings.status[shape]}</span>
      <span class="day">${answer.data
        ? html`<${Timeline} timeline=${answer.data} name=${device.id} />`
        : html`<div class="bar"></div>`}</span>
      <span class="share">${answer.data && html`<${Share} timeline=${answer.data} />`}</span>
      <span class="when">${device.last_seen_at
        ? html`<${Ago} at=${device.last_seen_at} />` : strings.devices.never}</span>
    </li>`;
}
