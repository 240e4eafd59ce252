//! Standing by while another instance writes, taking over from it, and being taken over from.
//!
//! A standby listens and proves like the active instance, and keeps in memory what that one has
//! not proven in the database. It checks nothing, delivers nothing and writes nothing but its
//! own row of table `listener`. The rules are in `domain::standby`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::fut::{LocalBoxActorFuture, ready};
use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use log::{info, warn};

use super::group::Group;
use super::looking::{Looked, Looking, Together};
use super::{DeviceRegistry, Found, Settings};
use crate::clock::Clock;
use crate::domain::standby::{ClockMeter, Kept, Sight, Vigil};
use crate::domain::{Coverage, Gap, GapCause, Interval, Reading, Saved};
use crate::duration::human;
use crate::logging::outage::Outage;
use crate::store::StoreError;

pub(super) const TARGET: &str = "standby";

/// The number of intervals between two proofs for which a service proves that it hears
/// everything.
const PROVING: i32 = 3;

/// The width of the clocks above which a standby's proofs are worth nothing.
const MAX_WIDTH: TimeDelta = TimeDelta::seconds(5);

/// Looks at the other instances, besides the schedule. Replies when what follows is done.
#[doc(hidden)]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAround {
    /// The reading of the clocks.
    pub now: Reading,
}

/// Ends the stay of this instance, which has written everything and does not listen any more.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Leave;

/// The part of an instance: to write, or to stand by.
pub(super) struct Part {
    /// True while it may write what it receives: the active instance, and each member of a group.
    pub(super) writes: bool,
    /// True while it is the active one, which checks and delivers.
    pub(super) leads: bool,
    /// For an instance that shares the heartbeats with others.
    pub(super) group: Option<Group>,
    /// The listener that it is; `None` before it has joined.
    pub(super) listener: Option<i64>,
    /// The stay that was lost with the right to write, until it is ended.
    lost: Option<i64>,
    pub(super) vigil: Vigil,
    pub(super) meter: ClockMeter,
    pub(super) clock: Clock,
    sight: Sight,
    /// The active listener by whose proofs something was forgotten last.
    forgot_beside: Option<i64>,
    /// The time at which everything was thrown away. What was published before it may still
    /// arrive, late, until an echo that was sent after it has come back.
    stale_since: Option<DateTime<Utc>>,
    /// The time since which another instance writes.
    standing_by_since: Option<Instant>,
    pub(super) clocks_differ: bool,
    /// True once it has ended its stay for good. It neither writes nor looks at the others then.
    has_left: bool,
    /// The time for which it does not take part, because another instance listens to something else.
    pub(super) barred: Option<Outage>,
    /// The differences of each other instance's configuration that were told last.
    pub(super) told_differences: BTreeMap<String, String>,
}

impl Part {
    /// The part of an instance that writes as `listener`, or of one that has not joined.
    pub(super) fn new(listener: Option<i64>, settings: &Settings, clock: Clock) -> Self {
        Self {
            writes: listener.is_some(),
            leads: listener.is_some(),
            group: None,
            listener,
            lost: None,
            vigil: Vigil::new(settings.incarnation, settings.look_interval)
                .proving_after(settings.proving_after()),
            meter: ClockMeter::default(),
            clock,
            sight: Sight::default(),
            forgot_beside: None,
            stale_since: None,
            standing_by_since: None,
            clocks_differ: false,
            has_left: false,
            barred: None,
            told_differences: BTreeMap::new(),
        }
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }
}

impl DeviceRegistry {
    /// Looks at the other instances again and again, if there can be any.
    pub(super) fn schedule_look(&self, after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |registry, ctx| {
            let looking = registry.look((registry.part.clock)());
            ctx.spawn(looking.map(|(), registry, ctx| {
                registry.schedule_look(registry.shared.settings.look_interval, ctx);
            }));
        });
    }

    /// Looks at the other instances when the turn comes, and does what follows.
    fn look(&self, now: Reading) -> impl ActorFuture<Self, Output = ()> + use<> {
        let turn = std::sync::Arc::clone(&self.shared.turn);
        async move { turn.lock_owned().await }.into_actor(self).then(move |turn, registry, _| {
            if registry.part.has_left {
                return Box::pin(ready(())) as LocalBoxActorFuture<_, _>;
            }
            let looking = registry.looking(now);
            Box::pin(looking.run().into_actor(registry).map(
                move |(looking, looked, together), registry, ctx| {
                    registry.looked(looking, looked, ctx);
                    if let Some(Together { stuck, coverage }) = together {
                        registry.sees_the_group(coverage, now.wall);
                        registry.mind_the_stuck(stuck, ctx);
                    }
                    drop(turn);
                },
            ))
        })
    }

    fn looking(&self, now: Reading) -> Looking {
        let part = &self.part;
        let proven_until = self.coverage.proven_until();
        let gone =
            if part.leads { part.vigil.gone(&part.sight, now.monotonic) } else { Vec::new() };
        let shown = TimeDelta::from_std(self.shared.settings.timeout).unwrap_or(TimeDelta::MAX) * 4;
        let since = now.wall.checked_sub_signed(shown).unwrap_or(DateTime::<Utc>::MIN_UTC);
        Looking {
            shared: self.shared.clone(),
            vigil: part.vigil.clone(),
            meter: part.meter,
            clock: part.clock,
            listener: part.listener,
            lost: part.lost,
            leads: part.leads,
            judging: self.judging().map(|judging| (judging, since)),
            proves: proven_until.is_some_and(|until| self.is_recent(until, now.wall)),
            proven_until,
            kept: self.kept(now.wall),
            gone,
            now,
        }
    }

    /// True if a proof until an instant is so new that the next one is not late.
    fn is_recent(&self, until: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let interval = TimeDelta::from_std(self.shared.settings.confirm_interval);
        // What an echo proves is earlier by `settle`.
        let settle = TimeDelta::from_std(self.shared.settings.settle).unwrap_or(TimeDelta::MAX);
        now - until <= interval.unwrap_or(TimeDelta::MAX) * PROVING + settle
    }

    fn looked(&mut self, looking: Looking, looked: Looked, ctx: &mut Context<Self>) {
        let Looking { vigil, meter, listener, lost, now, .. } = looking;
        self.part.vigil = vigil;
        self.part.meter = meter;
        (self.part.listener, self.part.lost) = (listener, lost);
        match looked {
            Looked::StandsBy(sight) => self.stands_by(sight, now),
            Looked::Writes(sight) => self.sees(sight, now),
            Looked::TookOver(sight, found) => self.takes_over(sight, *found, now),
            Looked::Ends(sight) => {
                let name = sight.own().map(|own| own.instance.clone()).unwrap_or_default();
                self.shared.store.end_for_name(&name);
            }
            Looked::Barred(clash) => {
                self.database.is_back();
                self.is_barred(&clash);
            }
            Looked::Failed(error) if self.lost_right(&error, ctx) => (),
            Looked::Failed(error) => self.database.failed(&error, self.buffer.len()),
        }
        self.show_health();
    }

    /// Takes in what a look has shown of the others.
    fn sees(&mut self, sight: Sight, now: Reading) {
        let width = self.part.vigil.width(&sight, now.monotonic);
        self.coverage.set_beside_width(width);
        let others =
            || sight.peers.iter().filter(|peer| !peer.has_left && Some(peer.id) != sight.active);
        let members = others().filter(|peer| peer.is_member()).count() as u64;
        let standbys = others().count() as u64 - members;
        let active = sight.active().is_some_and(|active| !active.has_left);
        let offset = self.part.meter.clock().offset.num_milliseconds() as f64 / 1000.0;
        let metrics = &self.shared.metrics;
        metrics.set_listeners([u64::from(active), standbys, members]);
        metrics.set_active(self.part.leads);
        metrics.set_clock_offset(offset);
        self.takes_part();
        self.compare_configurations(&sight);
        self.part.sight = sight;
        self.mind_the_clocks(width, now);
    }

    /// Says when the clocks of the instances differ by too much. While they do, a standby's
    /// proofs are worth nothing.
    fn mind_the_clocks(&mut self, width: TimeDelta, now: Reading) {
        let differ = width > MAX_WIDTH;
        let seconds = width.num_milliseconds() as f64 / 1000.0;
        if differ && !self.part.clocks_differ {
            warn!(
                target: TARGET, seconds;
                "the clocks of the instances may differ by {}; does each machine keep its time? \
                 Until they agree, a standby proves nothing",
                human(width.to_std().unwrap_or_default())
            );
        } else if !differ && self.part.clocks_differ {
            info!(target: TARGET, seconds; "the clocks of the instances agree again");
        }
        self.part.clocks_differ = differ;
        if differ && !self.part.leads {
            self.coverage.interrupt(now.wall, GapCause::ClockStep);
        }
    }

    /// Another instance writes.
    fn stands_by(&mut self, sight: Sight, now: Reading) {
        self.database.wrote(0);
        if self.is_in_a_group() {
            self.part.leads = false;
            self.part.writes = true;
            return self.sees(sight, now);
        }
        self.forget_what_is_vouched_for(&sight, now.wall);
        if self.part.standing_by_since.is_none() {
            self.part.standing_by_since = Some(now.monotonic);
            let active = sight.active().map_or("", |active| &active.instance);
            info!(target: TARGET, active; "standing by");
        }
        let active = sight.active().map(|active| active.instance.clone());
        self.shared.board.change(|facts| facts.stands_by_for(Some(active.unwrap_or_default())));
        self.sees(sight, now);
    }

    /// Forgets what the active one is certain to have written, unless that has a gap which this one
    /// has heard.
    fn forget_what_is_vouched_for(&mut self, sight: &Sight, now: DateTime<Utc>) {
        if self.kept(now).is_some_and(|kept| sight.has_a_gap_within(&kept, now)) {
            return;
        }
        if let Some(until) = sight.vouched_for(now) {
            self.coverage.begin_at(until);
            self.buffer.forget_before(until);
            self.part.forgot_beside = sight.active;
        }
    }

    /// The part that this one keeps as a standby. `None` if it writes, or has never forgotten anything.
    fn kept(&self, now: DateTime<Utc>) -> Option<Kept> {
        let (beside, since) = (self.part.forgot_beside?, self.coverage.begins_at()?);
        let too_little = TimeDelta::from_std(self.part.vigil.patience()).ok()?;
        let newest = self.coverage.proven_until().filter(|until| self.is_recent(*until, now));
        // The next proof is on its way.
        let proving = newest.map(|from| Interval { from, until: now.max(from) });
        let heard = self.coverage.intervals().iter().copied().chain(proving).collect();
        Some(Kept { beside, since, heard, too_little })
    }

    /// This instance writes from now on, and goes on from what it has found.
    fn takes_over(&mut self, sight: Sight, found: Found, now: Reading) {
        let Found { counts, outages, coverage: saved, .. } = found;
        (self.part.writes, self.part.leads) = (true, true);
        if self.part.stale_since.is_some() {
            self.buffer.forget_before(DateTime::<Utc>::MAX_UTC);
        }
        self.buffer.are_registered(counts.values().sum());
        self.shared.metrics.set_devices(&counts);
        self.shared.metrics.set_pending(self.buffer.len());
        self.shared.board.change(|facts| {
            facts.counts(counts);
            facts.outages(outages);
            facts.stands_by_for(None);
        });
        if !self.is_in_a_group() {
            self.goes_on_from(saved, &sight, now);
        }
        // Another clock may have written what is in the future of this one.
        self.shared.clock.lock().clamp_again();
        self.tell_of_the_take_over(&sight, now);
        self.part.standing_by_since = None;
        self.sees(sight, now);
        self.shared.board.wake();
        // Whatever waits for the sink is for this instance to deliver.
        self.shared.board.has_recoveries();
        self.database.wrote(0);
    }

    /// Goes on from what the other one has proven, as far as that is saved.
    fn goes_on_from(&mut self, saved: Coverage, sight: &Sight, now: Reading) {
        // The other one may have proven more since the last look, and what it has written is newer.
        self.forget_what_is_vouched_for(sight, now.wall);
        self.part.forgot_beside = None;
        let memory = std::mem::replace(&mut self.coverage, saved.clone());
        let (coverage, gaps) = memory.after(saved.clone());
        self.coverage = coverage;
        self.saved = Saved::new(saved);
        for Gap { interval, cause, .. } in gaps {
            self.note_gap(interval, cause.unwrap_or(GapCause::NotRunning));
        }
    }

    fn tell_of_the_take_over(&self, sight: &Sight, now: Reading) {
        let since = self.part.standing_by_since;
        let seconds = since.map(|since| now.monotonic.saturating_duration_since(since).as_secs());
        let from = sight.active().filter(|active| active.id != sight.me);
        match from {
            Some(from) if from.instance != self.shared.settings.instance => {
                self.shared.metrics.took_over();
                let (from, left) = (from.instance.as_str(), from.has_left);
                info!(target: TARGET, from, left, seconds; "took over");
            }
            _ => info!(target: TARGET, seconds; "active"),
        }
    }

    /// Stands by from now on if the error says that the right to write is lost. Returns true if
    /// it does.
    pub(super) fn lost_right(&mut self, error: &StoreError, ctx: &mut Context<Self>) -> bool {
        let store = &self.shared.store;
        match error {
            // It is lost already: a check's flush has told it, and then the check does.
            StoreError::TakenOver { .. } if !self.part.leads => return true,
            _ if error.ends_the_stay() && !self.part.writes => return true,
            StoreError::TakenOver { .. } if self.part.group.is_some() => {
                warn!(target: TARGET, "another instance checks and delivers from now on");
                store.stand_by();
                self.leads_no_more();
                return true;
            }
            StoreError::TakenOver { .. } if store.stands_by() => {
                warn!(target: TARGET, "another instance has taken over; standing by");
                self.part.vigil.was_fenced((self.part.clock)().monotonic);
            }
            _ if error.ends_the_stay() => {
                let heartbeats = self.buffer.len();
                warn!(target: TARGET, heartbeats; "{error}");
                self.part.lost = self.part.listener;
                if self.part.group.is_some() {
                    let now = (self.part.clock)().monotonic;
                    match error {
                        StoreError::TakenOut | StoreError::Removed => {
                            self.part.vigil.was_fenced(now)
                        }
                        _ => self.part.vigil.was_forgotten(now),
                    }
                    self.is_out_of_the_group();
                    self.shared.store.is_out_of_the_group();
                }
                let store = &self.shared.store;
                if !store.stands_by() {
                    ctx.notify(LookAround { now: (self.part.clock)() });
                }
            }
            StoreError::StandingBy => return true,
            _ => return false,
        }
        self.writes_no_more();
        self.database.is_back();
        if !self.is_in_a_group() {
            self.shared.board.change(|facts| facts.stands_by_for(Some(String::new())));
        }
        true
    }

    /// Notes that this instance is not the listener any more that it was, and has nothing to write.
    pub(super) fn writes_no_more(&mut self) {
        self.shared.store.stand_by();
        self.leads_no_more();
        self.part.writes = false;
        self.part.listener = None;
        self.part.standing_by_since = None;
        self.journal.forget();
        self.forget_everything();
    }

    /// Ends the stay in turn. A flush or a look that is still due does nothing after it: the closed
    /// row would look as if the database had forgotten it.
    fn leave(&mut self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let now = (self.part.clock)().wall;
        let (listener, at) = match &self.part.group {
            None => (self.part.listener, now),
            Some(group) => match (&group.stay, group.unsubscribed_at) {
                (None, _) => (self.part.listener, now),
                (Some(_), Some(at)) => (self.part.listener, at),
                // The broker may still be giving it heartbeats. The others end its session.
                (Some(_), None) => (None, now),
            },
        };
        (self.part.has_left, self.part.writes) = (true, false);
        let store = self.shared.store.clone();
        async move {
            match listener {
                Some(listener) => store.leave(listener, "left", at).await.map(drop),
                None => Ok(()),
            }
        }
    }

    /// Notes that this instance is not the active one any more.
    fn leads_no_more(&mut self) {
        self.part.leads = false;
        self.shared.metrics.set_active(false);
    }

    /// Throws away what is not written, as a crash would, and vouches for nothing before.
    fn forget_everything(&mut self) {
        let now = (self.part.clock)().wall;
        self.buffer.forget_before(DateTime::<Utc>::MAX_UTC);
        self.coverage = Coverage::new(self.shared.settings.confirm_interval);
        self.coverage.begin_at(now);
        self.part.forgot_beside = None;
        self.saved = Saved::new(Coverage::new(self.shared.settings.confirm_interval));
        self.part.stale_since = Some(now);
        self.shared.metrics.set_pending(self.buffer.len());
    }

    /// Forgets what has come since everything was thrown away, which may have been late.
    pub(super) fn forget_what_is_stale(&mut self) {
        if self.part.stale_since.take().is_some() {
            self.buffer.forget_before(DateTime::<Utc>::MAX_UTC);
            self.shared.metrics.set_pending(self.buffer.len());
        }
    }

    /// Notes that everything published before `until` has arrived. What has come since
    /// everything was thrown away may have been late.
    pub(super) fn all_arrived(&mut self, until: DateTime<Utc>) {
        if self.part.stale_since.is_none_or(|since| until <= since) {
            return;
        }
        self.forget_what_is_stale();
        let now = (self.part.clock)().wall;
        if self.part.writes {
            // As after a crash, which throws away as much.
            self.coverage.interrupt(now, GapCause::NotRunning);
        } else {
            self.coverage.begin_at(now);
        }
    }
}

impl Handler<LookAround> for DeviceRegistry {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, LookAround { now }: LookAround, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.look(now))
    }
}

impl Handler<Leave> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<(), StoreError>>;

    fn handle(&mut self, _: Leave, _: &mut Context<Self>) -> Self::Result {
        let turn = std::sync::Arc::clone(&self.shared.turn);
        let turn = async move { turn.lock_owned().await }.into_actor(self);
        Box::pin(turn.then(|turn, registry, _| {
            registry.leave().into_actor(registry).map(|left, _, _| {
                drop(turn);
                left
            })
        }))
    }
}
