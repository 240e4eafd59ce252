//! The rows that several instances write, held against what devices published: each mark at the
//! moment at which it is committed, and all rows in the end.
//!
//! A mark is *unsound* if the rows claim that somebody was listening, in a group that all were, when
//! the device published, and its heartbeat was not known; if the last heartbeat that was known is
//! not older than the timeout; or if that one has a date at which nobody had received it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heartbeatd::domain::{ClockOffset, Coverage, Judge, Status, Stay, Transition};
use heartbeatd::store::{DeviceStore, Interference, Interfering, OpenMode, Outcome, Point};
use tokio::sync::{mpsc, oneshot};

use super::claims::Claim;
use super::clocks_apart::{self, now, shown};
use super::intake::{name, number_of};
use super::schedule::{Fleet, Times};
use super::wire::{Gate, Wire};

/// The findings of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub marks: usize,
    /// The unsound marks, in words.
    pub unsound: Vec<String>,
    /// The living devices that were ever marked.
    pub live_marked: usize,
    /// The dead devices that were found more than once.
    pub twice: usize,
    /// The instances whose stays were ended by others.
    pub fences: usize,
    /// The other faults, in words.
    pub wrong: Vec<String>,
}

/// The stays at the last marking that each instance has committed.
type Noted = Rc<RefCell<BTreeMap<usize, Vec<Stay>>>>;

/// The task whose transactions mark devices.
const MARKING: &str = "mark devices offline";

/// Somebody who is about to commit a marking, and waits until the stays are noted.
type Asked = (usize, oneshot::Sender<()>);

/// Has the stays noted when an instance commits a marking.
struct Witness {
    number: usize,
    gate: Gate,
    notary: mpsc::UnboundedSender<Asked>,
    has_marked: Arc<AtomicBool>,
}

impl Interference for Witness {
    fn at(&self, point: Point) -> Interfering {
        let marks = point == Point::Commit(MARKING);
        if point == Point::End(MARKING) {
            self.has_marked.store(true, Ordering::SeqCst);
        }
        let deciding = self.gate.at(point);
        let (number, notary) = (self.number, self.notary.clone());
        Box::pin(async move {
            let outcome = deciding.await;
            if marks && outcome != Outcome::Fail {
                // Nobody else writes until this transaction ends, so this is what it goes by.
                let (tell, noted) = oneshot::channel();
                notary.send((number, tell)).expect("it lasts as long as the schedule");
                noted.await.expect("it answers");
            }
            outcome
        })
    }
}

/// Begins to note the stays whenever somebody asks, who waits for it.
fn notary(store: DeviceStore, noted: Noted) -> mpsc::UnboundedSender<Asked> {
    let (ask, mut asked) = mpsc::unbounded_channel::<Asked>();
    actix_rt::spawn(async move {
        while let Some((number, tell)) = asked.recv().await {
            let stays = all_stays(&store).await;
            noted.borrow_mut().insert(number, stays);
            tell.send(()).expect("somebody waits");
        }
    });
    ask
}

async fn all_stays(store: &DeviceStore) -> Vec<Stay> {
    store.stays(DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC).await.expect("it reads")
}

/// Observes the database that all instances have.
pub struct Observer {
    what: String,
    times: Times,
    /// The number of devices that die, which are the first.
    dying: usize,
    store: DeviceStore,
    notary: mpsc::UnboundedSender<Asked>,
    noted: Noted,
    /// True if there may be marks that were not looked at.
    has_marked: Arc<AtomicBool>,
    published: Vec<Vec<i64>>,
    /// The latest date that a heartbeat of a device may have by the clock of whoever has received
    /// it, if that is known.
    latest: BTreeMap<usize, DateTime<Utc>>,
    /// The newest transition that was looked at.
    known: i64,
    marks: BTreeMap<usize, Vec<i64>>,
    failed_over: bool,
    events: String,
    tally: Tally,
}

impl Observer {
    /// Observes a schedule, which is named in what it says.
    pub async fn new(what: &str, times: Times, fleet: &Fleet, url: &str) -> Self {
        let store = DeviceStore::open(url, OpenMode::Existing).await.expect("it opens");
        let noted = Noted::default();
        Self {
            what: what.to_owned(),
            times,
            dying: fleet.dying(),
            notary: notary(store.clone(), Rc::clone(&noted)),
            store,
            noted,
            has_marked: Arc::default(),
            published: vec![Vec::new(); fleet.devices()],
            latest: BTreeMap::new(),
            known: 0,
            marks: BTreeMap::new(),
            failed_over: false,
            events: String::new(),
            tally: Tally::default(),
        }
    }

    /// The way of an instance to the database, on which its marks are observed.
    pub fn on(&self, wire: &Arc<Wire>, number: usize) -> Arc<dyn Interference> {
        let (gate, notary) = (Gate(Arc::clone(wire)), self.notary.clone());
        Arc::new(Witness { number, gate, notary, has_marked: Arc::clone(&self.has_marked) })
    }

    /// Notes an event of the schedule.
    pub fn note(&mut self, event: Arguments) {
        writeln!(self.events, "{:6} {event}", now()).expect("memory");
    }

    /// Notes that the broker has accepted a heartbeat.
    pub fn published(&mut self, device: usize) {
        self.published[device].push(now());
    }

    /// Notes that an instance has received a heartbeat, which may have no later date than this by
    /// its clock.
    pub fn received(&mut self, device: usize, latest: DateTime<Utc>) {
        let known = self.latest.entry(device).or_insert(latest);
        *known = latest.max(*known);
    }

    /// Notes that the database has failed over. The numbers of the transitions that were lost are
    /// given again.
    pub async fn failed_over(&mut self) {
        self.failed_over = true;
        let newest = self.transitions().await;
        self.known = newest.first().map_or(0, |transition| transition.sequence);
    }

    async fn transitions(&self) -> Vec<Transition> {
        self.store.history(None, None, 100).await.expect("it reads")
    }

    /// Looks at the marks that were committed since the last time.
    pub async fn look_for_marks(&mut self) {
        if !self.has_marked.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut new = self.transitions().await;
        new.retain(|transition| transition.sequence > self.known);
        for transition in new.into_iter().rev() {
            self.known = self.known.max(transition.sequence);
            let marker = transition.instance.as_deref().unwrap_or_default();
            self.note(format_args!("{} is {} by {marker}", transition.device_id, transition.to));
            if transition.to == Status::Offline {
                let marker = instance_number(marker);
                let noted = Rc::clone(&self.noted);
                self.is_marked(&transition, marker, &noted.borrow()[&marker]);
            }
        }
    }

    fn is_marked(&mut self, transition: &Transition, marker: usize, stays: &[Stay]) {
        let device = number_of(transition.device_id.as_str());
        let seen = transition.last_seen_at.expect("it was heard");
        self.tally.marks += 1;
        self.marks.entry(device).or_default().push(now());
        let listened = self.listened(stays, marker);
        let listened = listened.intervals();
        let claim = Claim {
            listened: &listened,
            timeout: TimeDelta::milliseconds(self.times.timeout),
            way: TimeDelta::milliseconds(self.times.way),
            apart: clocks_apart::apart(),
        };
        let published = || self.published[device].iter().rev().map(|at| shown(marker, *at));
        let here = shown(marker, now());
        let what = if let Some(at) = claim.contradicted_by(published(), seen, here) {
            format!("published at {at}, which counts")
        } else if let Some(at) = claim.is_too_early(published(), seen, here) {
            format!("published at {at}, which is known and young")
        } else if self.latest.get(&device).is_some_and(|latest| seen > *latest) {
            format!("can be dated at {} at the latest", self.latest[&device])
        } else {
            return;
        };
        let (of, events, id) = (&self.what, &self.events, &transition.device_id);
        self.tally.unsound.push(format!(
            "{of}: {id} {what}, and is marked at {here} by {marker} as seen at {seen}\n{events}"
        ));
    }

    /// The time that the instances have listened to together, by the clock of one of them.
    fn listened(&self, stays: &[Stay], judge: usize) -> Coverage {
        let clock = ClockOffset { offset: clocks_apart::offset(judge), spread: TimeDelta::zero() };
        let judge = Judge { instance: &instance_name(judge), clock, subscription: None };
        let interval = Duration::from_millis(self.times.echo_interval.unsigned_abs());
        Coverage::of_stays(interval, stays, judge)
    }

    /// Looks for times that nobody has listened to, by the clock of any of so many instances.
    pub async fn look_for_holes(&mut self, within: Range<i64>, instances: usize) {
        let stays = all_stays(&self.store).await;
        for judge in 0..instances {
            let [from, until] = [within.start, within.end].map(|end| shown(judge, end));
            for gap in self.listened(&stays, judge).gaps(from, until) {
                let [from, until] = [gap.interval.from, gap.interval.until]
                    .map(|end| (end - shown(judge, 0)).num_milliseconds());
                self.is_wrong(format_args!("nobody has heard {from} to {until}, for {judge}"));
            }
        }
    }

    /// Looks at the rows, now that the schedule is over, and returns what it has shown.
    pub async fn look_at_the_end(mut self) -> Tally {
        let devices = self.store.devices(None, None, 1_000).await.expect("it reads");
        for device in devices {
            let number = number_of(device.id.as_str());
            let is_dead = number < self.dying;
            if (device.status == Status::Offline) != is_dead {
                let state = if is_dead { "is dead and not found" } else { "lives and is offline" };
                self.is_wrong(format_args!("{} {state}", device.id));
            }
            let latest = self.latest.get(&number).copied();
            if let (Some(seen), Some(latest)) = (device.last_seen_at, latest)
                && seen > latest
            {
                self.is_wrong(format_args!("{} is dated at {seen}, not {latest}", device.id));
            }
        }
        for (device, marks) in self.marks.clone() {
            self.tally.live_marked += usize::from(device >= self.dying);
            if device < self.dying && marks.len() > 1 {
                self.tally.twice += 1;
                if !self.failed_over {
                    self.is_wrong(format_args!("{} was found at {marks:?}", name(device)));
                }
            }
        }
        let listeners = self.store.listeners().await.expect("it reads");
        if listeners.iter().filter(|listener| listener.is_active).count() != 1 {
            self.is_wrong(format_args!("nobody is active"));
        }
        let fenced = listeners.iter().filter(|l| l.left_how.as_deref() == Some("fenced"));
        self.tally.fences = fenced.count();
        self.tally
    }

    fn is_wrong(&mut self, what: Arguments) {
        self.tally.wrong.push(format!("{}: {what}\n{}", self.what, self.events));
    }
}

/// The name of an instance.
pub fn instance_name(number: usize) -> String {
    format!("hall-{number}")
}

/// The number of an instance.
pub fn instance_number(name: &str) -> usize {
    name.strip_prefix("hall-").and_then(|number| number.parse().ok()).expect(name)
}
