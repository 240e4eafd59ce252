// The keyboard: everything can be reached without a mouse.
import { signal } from './html.js';
import { go } from './route.js';

export const keysShown = signal(false);

const CHORD_MS = 1_200;
const PLACES = { f: '/', d: '/devices', l: '/listening' };
let chord = 0;

const rows = () => [...document.querySelectorAll('a[data-row]')];

function move(step) {
  const all = rows();
  if (all.length === 0) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step;
  const row = all[Math.min(all.length - 1, Math.max(0, next))];
  row.focus({ preventScroll: true });
  row.closest('tr, li')?.scrollIntoView({ block: 'nearest' });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.closest?.('input, textarea, select');
  if (event.key === 'Escape') {
    // A browser would empty the field of a search, and the list would stay what it was.
    if (typing?.id === 'search') event.preventDefault();
    typing?.blur();
    return;
  }
  // A dialog that is closing says so later, to which no key should be lost.
  if (typing || document.querySelector('dialog[open]')) return;

  const inChord = Date.now() - chord < CHORD_MS;
  chord = 0;
  if (inChord && PLACES[event.key]) { event.preventDefault(); go(PLACES[event.key]); return; }
  switch (event.key) {
    case '/': event.preventDefault(); document.querySelector('#search')?.select(); break;
    case 'g': chord = Date.now(); break;
    case 'j': move(1); break;
    case 'k': move(-1); break;
    case 'n': document.querySelector('[data-next]')?.click(); break;
    case 'p': document.querySelector('[data-previous]')?.click(); break;
    case '?': event.preventDefault(); keysShown.value = true; break;
    default:
  }
}

export const startKeys = () => document.addEventListener('keydown', onKey);
