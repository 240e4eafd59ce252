// The page: what stands around every view. Each view asks for its own data; the state of the
// service is in live.js.
import { effect, html, render, useEffect, useErrorBoundary, useRef, useSignal } from './html.js';
import { get, loginAsked, loginWanted, who } from './api.js';
import { duration, isUtc, zone } from './format.js';
import { keysShown, startKeys } from './keys.js';
import { start, summary } from './live.js';
import { href, route, startRouting, WrongAddress } from './route.js';
import { strings } from './strings.js';
import { Banner, title } from './banner.js';
import { Foreign, Heading, Time } from './parts.js';
import { Device } from './views/device.js';
import { Devices, search } from './views/devices.js';
import { Fleet } from './views/fleet.js';
import { Listening } from './views/listening.js';
import { logOut, Login } from './views/login.js';

const TYPING_MS = 160;

function Head() {
  const { view } = route.value;
  const link = (name, href, on) => html`
    <a href=${href} aria-current=${on ? 'page' : undefined}>${strings.nav[name]}</a>`;
  return html`
    <header class="top">
      <a class="skip" href="#content">${strings.nav.skip}</a>
      <div class="inner">
        <a class="brand" href="/">${strings.name}</a>
        <nav class="views" aria-label=${strings.name}>
          ${link('fleet', '/', view === 'fleet')}
          ${link('devices', '/devices', view === 'devices' || view === 'device')}
          ${link('listening', '/listening', view === 'listening')}
        </nav>
        <${Search} />
      </div>
    </header>`;
}

function Search() {
  const { view, query } = route.value;
  const asked = view === 'devices' ? query.get('q') ?? '' : '';
  const text = useSignal(asked);
  const timer = useRef(null);
  // What this field has asked for itself: the address follows it, and not the other way about, or
  // what was typed meanwhile would be lost.
  const own = useRef(null);
  useEffect(() => {
    if (asked !== own.current) text.value = asked;
    own.current = null;
  }, [asked, view]);

  const now = (replace) => {
    clearTimeout(timer.current);
    own.current = text.value.trim();
    search(own.current, view === 'devices' ? query : new URLSearchParams(), replace);
  };
  const typed = (event) => {
    text.value = event.target.value;
    clearTimeout(timer.current);
    if (view === 'devices') timer.current = setTimeout(() => now(true), TYPING_MS);
  };
  const submit = (event) => {
    event.preventDefault();
    now(view === 'devices');
    document.activeElement?.blur();
  };
  return html`
    <form class="search" role="search" onSubmit=${submit}>
      <input id="search" type="search" value=${text.value} onInput=${typed}
        placeholder=${strings.search.placeholder} aria-label=${strings.search.label}
        title=${strings.search.hint} autocomplete="off" autocapitalize="off" spellcheck="false"
        maxlength="128" />
      <kbd aria-hidden="true">/</kbd>
    </form>`;
}

function View() {
  const { view, id, query } = route.value;
  switch (view) {
    case 'fleet': return html`<${Fleet} query=${query} />`;
    case 'devices': return html`<${Devices} query=${query} />`;
    case 'device': return html`<${Device} key=${id} id=${id} query=${query} />`;
    case 'listening': return html`<${Listening} query=${query} />`;
    default: return html`<div class="empty"><${Heading} focusKey="missing">${strings.missing.title}</${Heading}>
      <p><a href="/">${strings.missing.action}</a></p></div>`;
  }
}

// A view, or why there is none. Whatever a view throws ends only that view, until the address
// changes.
function Guarded() {
  const failedAt = useRef(null);
  const [error] = useErrorBoundary(() => { failedAt.current = href.peek(); });
  if (failedAt.current !== href.value) failedAt.current = null;
  return failedAt.current ? html`<${Failed} error=${error} />` : html`<${View} />`;
}

function Failed({ error }) {
  const { failed, missing, device } = strings;
  const isWrong = error instanceof WrongAddress;
  useEffect(() => { if (!isWrong) console.error(error); }, [error]);
  const list = route.value.view.startsWith('device');
  return html`
    <div class="empty failed"><${Heading} focusKey=${error}>${isWrong ? failed.address : failed.view}</${Heading}>
      <p role="alert"><${Foreign} text=${error?.message ?? String(error)} /></p>
      <p><a href=${list ? '/devices' : '/'}>${list ? device.back : missing.action}</a>
        ${!isWrong && html` <button type="button" class="link" onClick=${() => location.reload()}>${failed.again}</button>`}</p>
    </div>`;
}

function Foot() {
  const of = summary.value;
  const { foot } = strings;
  return html`
    <footer>
      ${of && html`<span>${foot.version(of.version)}${of.instance === strings.name ? '' : ` · ${of.instance}`}</span>
        <span>${foot.started} <${Time} at=${of.started_at} /></span>
        <span>${foot.timeout} ${duration(of.timeout_seconds)}</span>
        <span>${foot.check} ${duration(of.check_interval_seconds)}</span>`}
      <span>${isUtc ? foot.utc : foot.zone(zone)}</span>
      <span><button type="button" class="link" onClick=${() => { keysShown.value = true; }}>${strings.keys.open} <kbd>?</kbd></button></span>
      ${who.value && html`<span>${who.value.name
        ? html`<button type="button" class="link" onClick=${logOut}>${strings.login.out}</button>`
        : html`<button type="button" class="link" data-login
            onClick=${() => { loginAsked.value = true; }}>${strings.login.action}</button>`}</span>`}
    </footer>`;
}

function Keys() {
  const dialog = useRef(null);
  useEffect(() => {
    if (keysShown.value) dialog.current.showModal();
    else if (dialog.current.open) dialog.current.close();
  }, [keysShown.value]);
  const { keys } = strings;
  const hide = () => { keysShown.value = false; };
  return html`
    <dialog ref=${dialog} onClose=${hide} aria-labelledby="keys-title"
      onClick=${(event) => event.target === dialog.current && hide()}>
      <h2 id="keys-title">${keys.title}</h2>
      <dl>${keys.list.map(([key, what]) => html`<div><dt>${key.split('  ').map((one) =>
        html`<kbd>${one}</kbd> `)}</dt><dd>${what}</dd></div>`)}</dl>
      <button type="button" onClick=${hide}>${keys.close}</button>
    </dialog>`;
}

function Page() {
  if (loginWanted.value || loginAsked.value) return html`<main id="content"><${Login} /></main>`;
  const first = route.value.view === 'fleet';
  return html`
    <${Head} />
    <main id="content">
      <${Banner} first=${first} />
      <div class="view"><${Guarded} /></div>
    </main>
    <${Foot} /><${Keys} />`;
}

startRouting();
startKeys();
start();
effect(() => { document.title = title(); });
get('/whoami').then((answer) => { who.value = answer; }, () => {});
const root = document.querySelector('#app');
root.textContent = '';
render(html`<${Page} />`, root);
