// Templates without a build step: htm over Preact. What stands in a ${…} becomes text or an
// attribute, never markup, so what devices report cannot change the page.
import { h } from './vendor/preact.js';
import htm from './vendor/htm.js';

export { Fragment, render } from './vendor/preact.js';
export { useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState } from './vendor/preact-hooks.js';
export { batch, computed, effect, signal, useComputed, useSignal } from './vendor/signals.js';
export const html = htm.bind(h);
