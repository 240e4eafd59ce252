// One stream of summaries for all tabs of a browser. A browser opens six connections to a
// host at most, and the service has a limit of streams, so one tab (the leader) listens and
// tells the others over a BroadcastChannel. Without that, each tab listens for itself; without
// a stream (a proxy that holds it back, too many streams), the leader asks once in a while.
// A service that says goodbye, or that a question after a broken stream does not reach, is lost
// at once, and all tabs are told. Only a network that is silent is found out by waiting.
import { API, get, loginWanted, Problem } from './api.js';

const ELECTION_MS = 250;
const LEADER_GONE_MS = 4_000;
const QUIET_MS = 3_000;
const REOPEN_MS = [1_000, 3_000, 8_000, 15_000];

// No connection, or a proxy that has none. The service itself always has a summary.
const isAway = (status) => status === 0 || status >= 500;

// Calls `onSummary` with each summary, and `onLost` when the service has stopped or cannot be
// reached. Each summary says that it is back.
export function listen(onSummary, onLost) {
  const me = Math.random().toString(36).slice(2);
  const channel = 'BroadcastChannel' in window ? new BroadcastChannel('heartbeatd') : null;
  let leading = false;
  let leaderHeard = 0;
  let summaryHeard = 0;
  let latest = null;
  let source = null;
  let failures = 0;
  let reopening = null;
  let asking = false;
  let election = null;
  let stopped = null; // when the service started that said goodbye

  const tell = (message) => channel?.postMessage({ ...message, from: me });

  function heard(summary) {
    if (summary.started_at === stopped) return; // it only finishes what it has begun
    latest = summary;
    summaryHeard = Date.now();
    onSummary(summary);
    if (leading) tell({ kind: 'summary', summary });
  }
  function lost(why) {
    onLost(why);
    if (leading) tell({ kind: 'lost', why });
  }

  // The stream.
  function open() {
    clearTimeout(reopening);
    source?.close();
    source = new EventSource(`${API}/events/stream?summary=1s`);
    source.addEventListener('summary', (event) => {
      failures = 0;
      heard(JSON.parse(event.data));
    });
    source.addEventListener('bye', () => {
      stopped = latest?.started_at ?? null;
      lost('stopped');
    });
    source.onerror = () => {
      ask(); // at once, whether or not the browser opens it again
      if (source?.readyState !== EventSource.CLOSED) return; // it reconnects by itself
      reopening = setTimeout(open, REOPEN_MS[Math.min(failures, REOPEN_MS.length - 1)]);
      failures += 1;
    };
  }
  function close() {
    clearTimeout(reopening);
    source?.close();
    source = null;
  }

  async function ask() {
    if (asking) return;
    asking = true;
    try {
      heard(await get('/summary', AbortSignal.timeout(5_000)));
    } catch (problem) {
      // An answer that does not come is no answer yet: live.js notices the silence.
      if (problem instanceof Problem && isAway(problem.status)) lost('unreachable');
    }
    asking = false;
  }

  // The leader.
  function lead() {
    clearTimeout(election);
    election = null;
    if (leading) return;
    leading = true;
    tell({ kind: 'leader' });
    open();
  }
  function follow() {
    leading = false;
    close();
  }
  function elect() {
    if (leading || election) return;
    if (!channel) { lead(); return; }
    tell({ kind: 'claim' });
    election = setTimeout(lead, ELECTION_MS + Math.random() * ELECTION_MS);
  }

  channel?.addEventListener('message', ({ data }) => {
    if (data.kind === 'bye') { leaderHeard = 0; elect(); return; }
    if (data.kind === 'claim') {
      if (leading && document.hidden && Date.now() - summaryHeard > LEADER_GONE_MS) {
        // A hidden tab is given little time, so one that hears nothing makes way.
        follow();
      } else if (leading) {
        tell({ kind: 'leader' });
        if (latest) tell({ kind: 'summary', summary: latest });
      } else if (election && data.from < me) {
        clearTimeout(election);
        election = null;
        leaderHeard = Date.now();
      }
      return;
    }
    // From a leader.
    if (data.kind === 'lost' && !leading) {
      if (data.why === 'stopped') stopped = latest?.started_at ?? null;
      onLost(data.why);
    }
    leaderHeard = Date.now();
    clearTimeout(election);
    election = null;
    if (leading) {
      if (data.from < me) follow();
      else tell({ kind: 'leader' });
    }
    if (data.kind === 'summary' && !leading) {
      latest = data.summary;
      summaryHeard = Date.now();
      onSummary(data.summary);
    }
  });

  const watch = setInterval(() => {
    if (loginWanted.peek()) { if (leading) follow(); return; }
    if (leading) {
      tell({ kind: 'leader' });
      if (Date.now() - summaryHeard > QUIET_MS) ask();
    } else if (Date.now() - leaderHeard > LEADER_GONE_MS) {
      elect();
    }
  }, 1_000);

  addEventListener('pagehide', () => {
    if (leading) { follow(); tell({ kind: 'bye' }); }
  });
  addEventListener('pageshow', (event) => event.persisted && elect());

  ask(); // the first picture does not wait for an election
  elect();
  return { leading: () => leading, stop: () => { clearInterval(watch); follow(); channel?.close(); } };
}
