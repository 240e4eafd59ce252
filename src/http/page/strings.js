// Every text of the page. What the service says in words (its sentence, the evidence, causes)
// comes from the service, so that page, command line and API say the same.

const plural = (n, one, many) => (n === 1 ? one : many);

export const strings = {
  name: 'heartbeatd',
  asking: 'Asking the service…',

  nav: { fleet: 'Fleet', devices: 'Devices', listening: 'Listening', skip: 'Skip to the content' },

  search: {
    label: 'Search devices by the beginning of their id',
    placeholder: 'Find a device',
    hint: 'The beginning of an id. *17* finds it anywhere.',
  },

  status: {
    online: 'online',
    offline: 'offline',
    error: 'error',
    late: 'late',
    provisioning: 'never heard',
  },

  state: {
    asking: 'Asking',
    listening: 'Listening',
    unproven: 'Not proven',
    disconnected: 'Blind: the broker is unreachable',
    warming: 'Just started',
    database: 'The database is away',
    shedding: 'Messages are being discarded',
    standby: 'Standing by',
    barred: 'Taking no part',
    fleet_silent: 'Nobody is heard',
    stale: 'This page is cut off',
  },

  // What an operator may conclude, and what helps.
  advice: {
    unproven:
      'Its own messages do not come back from the broker, so silence proves nothing now. '
      + 'No device is declared offline meanwhile.',
    disconnected:
      'No device is declared offline meanwhile. It reconnects by itself.',
    warming:
      'Silence counts only while the service listens. No device is declared offline before.',
    database:
      'Heartbeats are received and wait in memory until the database takes them. Lists and '
      + 'histories are shown as they were, if it can still be read.',
    shedding:
      'While messages are thrown away, silence proves nothing. No device is declared offline '
      + 'because of it.',
    standby:
      'This instance listens, and takes over when the active instance stops. Lists and histories are those '
      + 'of the database, which the active instance writes.',
    barred:
      'What this instance hears does not count, and it takes over from nobody. It joins by itself '
      + 'once all instances listen to the same.',
    fleet_silent:
      'The connection works. Check what the devices may publish (the broker’s access rules), '
      + 'their network, and the broker’s queue limits.',
  },

  proven: 'proven until',
  lastProof: 'last proof',
  rate: (n) => `${n} ${plural(n, 'heartbeat', 'heartbeats')}/s`,
  asOf: 'as of',
  undelivered: (n, one) =>
    `${n} ${one ? 'alert has' : 'alerts have'} not been delivered yet.`,

  stale: {
    title: (duration) => `This page has heard nothing for ${duration}.`,
    why: {
      stopped: 'The service was stopped. What is shown is of',
      unreachable: 'The service cannot be reached. What is shown is of',
      silent: 'The service, or the way to it, is gone. What is shown is of',
    },
    known: (counts) => `Last known: ${counts}`,
    never: 'The service, or the way to it, does not answer. It is asked again every few seconds.',
    again: 'It asks again every few seconds.',
  },
  clock: {
    back: (duration) => `The clock was set back by ${duration}.`,
    forward: (duration) => `The clock was set forward by ${duration}.`,
    detail: 'Times before and after the step are not comparable. Timeouts are not affected.',
  },
  updated: {
    title: (version) => `The service is now ${version}.`,
    action: 'Load its page',
  },

  problem: {
    title: 'This could not be read.',
    unreachable: 'The service did not answer.',
    kept: 'What is shown is from before.',
    database: 'Not readable until the database answers.',
  },

  fleet: {
    counts: 'Devices by status',
    out: 'Offline',
    burst: (n) => `${n} devices fell silent together`,
    many: (n) => `${n} devices`,
    all: (n) => ({ 0: 'none offline', 1: 'the one that is offline' }[n] ?? `all ${n} offline`),
    none: 'No device is offline.',
    noneKnown: 'No device is known to be offline.',
    chart: 'The last 24 hours',
    since: 'Since the first start, ',
    chartOf: 'Devices offline and in error over the last 24 hours',
    notListening: 'not listening',
    changes: 'Last changes',
    noChanges: 'No device has changed its status yet.',
    each: 'Each device over the last 24 hours',
    eachSince: 'Each device since the first start, ',
    share: 'The percentage is the part of the known time in which it was heard.',
    empty: 'No device has been heard or registered yet.',
    emptyHint: 'A device appears with its first heartbeat, or by',
    emptyCommand: 'heartbeatd device add pump-17',
  },

  devices: {
    title: 'Devices',
    all: 'All',
    filters: 'Filter by status',
    columns: {
      id: 'Device',
      status: 'Status',
      seen: 'Last heard',
      timeout: 'Timeout',
      uptime: 'Uptime',
      memory: 'Free memory',
      skew: 'Clock',
      note: 'Reported',
    },
    never: 'never',
    none: 'No device matches.',
    clear: 'Clear the filters',
    together: {
      silent_from: 'that fell silent together from',
      found_at: 'found silent at',
      from: 'found silent from',
      silent_until: 'that fell silent before',
      until: 'found silent before',
    },
    partial: 'The search ran out of its time before it had seen every device.',
    goOn: 'Search on',
    first: 'First page',
    previous: 'Previous',
    next: 'Next',
    shown: (n) => `${n} shown`,
    to: 'to',
    unreadable: 'payload not readable',
  },

  device: {
    since: 'since',
    late: 'late',
    notCounted: 'Not counted',
    history: 'What was known',
    spans: { day: '24 h', week: '7 d', month: '30 d' },
    spanNames: { day: 'Last 24 hours', week: 'Last 7 days', month: 'Last 30 days' },
    up: 'up',
    offline: 'offline',
    error: 'error',
    unknown: 'not known',
    firstStart: 'The service was started for the first time at',
    heard: 'heard in',
    ofKnown: 'of the known time',
    nothingKnown: 'nothing is known about it in this time',
    outages: 'Outages',
    noOutages: 'No outage is recorded.',
    more: 'Older',
    outageColumns: {
      silent: 'Silent since',
      found: 'Found',
      ended: 'Ended',
      down: 'Down for',
      listened: 'Silence listened to',
    },
    lasts: 'still out',
    was: 'was',
    between: (least, most) => `${least} to ${most}`,
    atLeast: (duration) => `${duration} so far`,
    reported: 'What it reported',
    facts: {
      seen: 'Last heard',
      timeout: 'Timeout',
      uptime: 'Uptime',
      memory: 'Free memory',
      skew: 'Its clock',
      error: 'Error',
      payload: 'Unreadable payload',
      registered: 'Registered',
    },
    ownTimeout: 'its own',
    defaultTimeout: 'the default',
    none: 'none',
    notReported: 'not reported',
    never: 'never',
    changes: 'Changes',
    listenedBy: 'Listened by',
    bytes: 'bytes',
    back: 'All devices',
    asOf: 'As of',
    now: 'Now',
    notKept: 'not kept',
    evidenceThen: 'The evidence of then',
  },

  change: {
    title: 'Change',
    timeout: 'Timeout in seconds',
    hint: (standard) => `Without one, the default of ${standard} is in effect.`,
    wrong: 'A whole number of seconds is expected, such as 5400 for one and a half hours.',
    set: 'Set',
    done: 'It is set.',
    remove: 'Remove…',
    sure: 'Remove',
    means: 'Its history stays. If it sends again, it is registered again.',
    keep: 'Keep it',
    removeNow: 'Remove it',
    removed: 'It is removed; its history stays.',
    stillSending: 'It is still sending, so its next heartbeat registers it again.',
  },

  skew: {
    right: 'right',
    ahead: (duration) => `${duration} ahead`,
    behind: (duration) => `${duration} behind`,
  },

  listening: {
    title: 'Listening',
    lead: (listened, span) => `Listened for ${listened} of ${span}.`,
    share: 'listened to',
    of: (listened, span) => `${listened} of ${span}`,
    spans: { day: 'the last 24 hours', month: 'the last 30 days' },
    sinceFirst: (length) => `the ${length} since the first start`,
    gaps: 'Gaps',
    why:
      'Silence counts only while the service provably listens: its own messages return from '
      + 'the broker through the queue that the heartbeats take. What lies between two proofs '
      + 'that do not belong together is a gap. No device is declared offline for a silence '
      + 'that fell into one.',
    columns: { from: 'From', to: 'To', duration: 'Length', cause: 'Cause' },
    noGaps: 'No gap in this time.',
    more: (n) => `${n} older ones are not shown.`,
    tooMany: 'The listening was interrupted too often to show what lies before',
    lasts: 'lasts',
    listeners: 'Who listened',
    until: 'until',
    latency: 'An echo takes',
    p50: 'half of them',
    p99: '99 of 100',
    noEcho: 'No echo has returned yet.',
  },

  login: {
    title: 'A token is needed',
    lead: 'A token is made on the machine of the service:',
    command: (scope) => `heartbeatd token new NAME --scope ${scope}`,
    label: 'Token',
    action: 'Log in',
    wrong: 'This token is not known.',
    out: 'Log out',
    back: 'Go on without',
  },

  missing: { title: 'There is no such page.', action: 'To the fleet' },
  failed: {
    address: 'This address cannot be shown.',
    view: 'This view could not be shown.',
    again: 'Load the page again',
  },
  wrong: {
    time: (name, text) =>
      `${name}: a time such as 2026-11-26T14:08:22Z is expected (RFC 3339), not “${text}”.`,
    word: (name, words, text) => `${name}: ${words.join(', ')} is expected, not “${text}”.`,
    name: (name, names) => (names.length > 0
      ? `${name}: this address takes ${names.join(', ')}.`
      : `${name}: this address takes no parameters.`),
    empty: (name) => `${name}: a value is expected.`,
    twice: (name) => `${name}: it may be given only once.`,
    order: (from, until) => `${from}: a time before ${until} is expected.`,
  },

  keys: {
    title: 'Keys',
    close: 'Close',
    open: 'Keys',
    list: [
      ['/', 'search'],
      ['j  k', 'next, previous line'],
      ['Enter', 'open the line'],
      ['g f', 'fleet'],
      ['g d', 'devices'],
      ['g l', 'listening'],
      ['n  p', 'next, previous page of a list'],
      ['Esc', 'leave the search'],
      ['?', 'this list'],
    ],
  },

  foot: {
    version: (version) => `heartbeatd ${version}`,
    started: 'started',
    timeout: 'timeout',
    check: 'a check every',
    zone: (zone) => `times in ${zone}, UTC on hover`,
    utc: 'times in UTC',
  },

  units: { d: 'd', h: 'h', min: 'min', s: 's', ms: 'ms' },
  moreMarks: (n) => `${n} more ${plural(n, 'mark', 'marks')} on the same character`,
  now: 'now',
  ago: (duration) => `${duration} ago`,
};
