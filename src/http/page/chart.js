// The chart of the fleet: who was offline or in error, and when nobody can know.
import uPlot from './vendor/uplot.js';
import { count, instant, timeOfDay, timeOfMinute } from './format.js';
import { begins } from './bar.js';
import { strings } from './strings.js';
import { html, render } from './html.js';
import { Shape } from './parts.js';

const HEIGHT = 200;
const SHORTEST = 10; // seconds, of a chart of a service that has just begun
const color = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Stripes at 45 degrees, the same as those of the bars.
function hatch(context, ratio) {
  const size = 7 * ratio;
  const tile = document.createElement('canvas');
  tile.width = size;
  tile.height = size;
  const pen = tile.getContext('2d');
  pen.strokeStyle = color('--hatch');
  pen.lineWidth = 1.3 * ratio;
  for (const shift of [-size, 0, size]) {
    pen.beginPath();
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
    pen.stroke();
  }
  return context.createPattern(tile, 'repeat');
}

function drawGaps(plot, gaps) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.fillStyle = hatch(ctx, ratio);
  for (const [from, to] of gaps) {
    const left = Math.max(bbox.left, plot.valToPos(from, 'x', true));
    const right = Math.min(bbox.left + bbox.width, plot.valToPos(to, 'x', true));
    if (right < bbox.left || left > bbox.left + bbox.width) continue;
    ctx.fillRect(left, bbox.top, Math.max(2 * ratio, right - left), bbox.height);
  }
  ctx.restore();
}

// The gaps, and the buckets without a sample, in seconds. What lies before the first start is
// neither.
export function blind(fleet) {
  const gaps = fleet.gaps.map((gap) => [Date.parse(gap.from) / 1000, Date.parse(gap.to) / 1000]);
  const start = Date.parse(fleet.from) / 1000;
  const first = begins(fleet) / 1000;
  const known = Date.parse(fleet.known_from) / 1000;
  if (known > first) gaps.push([first, known]); // too many gaps to list
  fleet.buckets.forEach((bucket, n) => {
    const from = Math.max(first, start + n * fleet.bucket_seconds);
    const to = start + (n + 1) * fleet.bucket_seconds;
    if (!bucket && from < to) gaps.push([from, to]);
  });
  gaps.sort((a, b) => a[0] - b[0]);
  const merged = [];
  for (const gap of gaps) {
    const last = merged.at(-1);
    if (last && gap[0] <= last[1]) last[1] = Math.max(last[1], gap[1]);
    else merged.push([...gap]);
  }
  return merged;
}

function Legend({ at, values, hatched }) {
  const item = (status, n) => html`<span class="key"><${Shape} of=${status} />${
    n === null ? '' : html`<b>${count(n)}</b> `}${strings.status[status]}</span>`;
  return html`<p class="legend">
    ${item('offline', values.offline)}${item('error', values.error)}
    ${hatched && html`<span class="key"><i class="swatch unknown"></i>${strings.fleet.notListening}</span>`}
    <span class="at">${at ? instant(at * 1000) : ''}</span></p>`;
}

export function draw(place) {
  const legend = document.createElement('div');
  const canvas = document.createElement('div');
  place.append(legend, canvas);
  let plot = null;
  let fleet = null;
  let gaps = [];

  function readout(index) {
    const bucket = index === null || index === undefined ? null : fleet.buckets[Math.min(index, fleet.buckets.length - 1)];
    const at = index === null || index === undefined ? null : plot.data[0][index];
    render(html`<${Legend} at=${at} hatched=${gaps.length > 0}
      values=${{ offline: bucket?.offline ?? null, error: bucket?.error ?? null }} />`, legend);
  }

  function options() {
    const axis = {
      stroke: color('--quiet'), font: `12px ${color('--sans')}`, grid: { stroke: color('--line'), width: 1 },
      ticks: { show: false },
    };
    const line = (status, extra) => ({
      stroke: color(`--${status}`), width: 1.5, points: { show: false }, spanGaps: false,
      paths: uPlot.paths.stepped({ align: 1 }), ...extra,
    });
    return {
      width: place.clientWidth, height: HEIGHT, padding: [10, 22, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { y: { range: (_, __, max) => [0, Math.max(5, max * 1.08)] } },
      axes: [
        { ...axis, grid: { show: false }, space: 64, size: 28,
          values: (_, ticks, __, ___, step) =>
            ticks.map((at) => (step < 60 ? timeOfMinute : timeOfDay)(at * 1000)) },
        { ...axis, size: (self, values) => 14 + 7 * Math.max(1, ...(values ?? []).map((v) => v.length)),
          space: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500].flatMap((n) => [n, n * 1000, n * 1_000_000]).sort((a, b) => a - b),
          values: (_, ticks) => ticks.map(count) },
      ],
      series: [
        {},
        line('offline', { fill: color('--offline-soft') }),
        line('error', { dash: [5, 3] }),
      ],
      hooks: {
        drawAxes: [(self) => drawGaps(self, gaps)],
        setCursor: [(self) => readout(self.cursor.idx)],
      },
    };
  }

  function show(next) {
    fleet = next;
    gaps = blind(fleet);
    const start = Date.parse(fleet.from) / 1000;
    const end = Date.parse(fleet.to) / 1000;
    // A step reaches to the next point, so the last one is there twice.
    const values = (status) => {
      const all = fleet.buckets.map((bucket) => bucket?.[status] ?? null);
      return [...all, all.at(-1)];
    };
    const at = fleet.buckets.map((_, n) => start + n * fleet.bucket_seconds);
    const data = [[...at, end], values('offline'), values('error')];
    plot?.destroy();
    plot = new uPlot(options(), data, canvas);
    plot.setScale('x', { min: Math.min(begins(fleet) / 1000, end - SHORTEST), max: end });
    readout(null);
  }

  const again = () => fleet && show(fleet);
  const scheme = matchMedia('(prefers-color-scheme: dark)');
  scheme.addEventListener('change', again);
  const looks = new MutationObserver(again); // unproven: other colours
  looks.observe(document.documentElement, { attributeFilter: ['data-proven'] });
  const size = new ResizeObserver(() =>
    plot && plot.width !== place.clientWidth && plot.setSize({ width: place.clientWidth, height: HEIGHT }));
  size.observe(place);
  return {
    show,
    destroy() {
      scheme.removeEventListener('change', again);
      looks.disconnect();
      size.disconnect();
      plot?.destroy();
      render(null, legend);
    },
  };
}
