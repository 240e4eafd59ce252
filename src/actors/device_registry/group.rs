//! Membership of a group, whose members share the heartbeats of one subscription.
//!
//! Each member writes what it has received. A silence counts only where all members have listened,
//! which a check reads from the database. The active one checks and delivers; correctness
//! does not rest on who that is. A member that was taken out of the group is as one that crashed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::fut::ready;
use actix::prelude::*;
use chrono::{DateTime, Utc};
use log::{info, warn};

use super::standby::TARGET;
use super::{DeviceRegistry, lines};
use crate::domain::standby::{Out, Peer, Stuck};
use crate::domain::{
    ClockOffset, Coverage, GapCause, GroupMark, Happening, Judge, Saved, Subscription,
};
use crate::duration::human;
use crate::logging::outage::{Mention, Outage};
use crate::mqtt::EndSession;
use crate::store::{DeviceStore, JoinedGroup, StoreError};

/// Begins the stay of this instance in its group, now that it is connected and before it
/// subscribes. Replies with the mark of the database, which is a part of the group's name at the
/// broker.
#[derive(Debug, Message)]
#[rtype(result = "Result<GroupMark, JoinError>")]
pub struct JoinGroup {
    /// The number of the connection.
    pub connection: u64,
    /// A time by which the broker has let go of earlier connections of this name.
    pub connected_at: DateTime<Utc>,
    /// The one to tell when the stay is over.
    pub ended: Recipient<StayEnded>,
}

/// The reason for not joining a group.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing that this instance proves would count.
    #[error("the clocks of the instances differ by too much")]
    ClocksDiffer,
    /// Whatever this instance proves would be taken for the time of the database's clock.
    #[error("the database takes too long to tell its time, by which the own clock is measured")]
    ClockUnknown,
    /// It was taken out of the group, and stays out for a while.
    #[error("taken out of the group {times} times in quick succession; it joins again in {}", human(*.left))]
    TakenOut {
        /// The number of times.
        times: u32,
        /// The time that is left.
        left: Duration,
    },
}

/// Says that a stay in the group is over, so that the connection has to be made anew.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StayEnded {
    /// The number of the connection.
    pub connection: u64,
    /// The time for which this instance stays out of the group.
    pub pause: Duration,
}

/// Ends the stay at an instant from which on the broker gives this instance nothing any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EndStay {
    /// The instant.
    pub at: DateTime<Utc>,
    /// True if the broker has refused the subscription.
    pub refused: bool,
}

/// The membership of an instance.
pub(super) struct Group {
    sessions: Arc<dyn EndSession>,
    /// The stay in the group, if there is one at the moment.
    pub(super) stay: Option<Stay>,
    /// The instant at which the broker gave this instance nothing any more.
    pub(super) unsubscribed_at: Option<DateTime<Utc>>,
    /// The members that are being taken out of the group.
    fencing: BTreeSet<i64>,
    /// The members that have stopped and could not be taken out of it.
    unfenced: BTreeMap<i64, Option<Outage>>,
    /// The members that have stopped and must not be taken out by this one.
    left_in: BTreeSet<i64>,
    /// The end of the time whose gaps are known.
    known_until: Option<DateTime<Utc>>,
}

/// A stay in the group.
pub(super) struct Stay {
    connection: u64,
    ended: Recipient<StayEnded>,
}

impl Group {
    pub(super) fn new(sessions: Arc<dyn EndSession>) -> Self {
        Self {
            sessions,
            stay: None,
            unsubscribed_at: None,
            fencing: BTreeSet::new(),
            unfenced: BTreeMap::new(),
            left_in: BTreeSet::new(),
            known_until: None,
        }
    }
}

/// The clock by which is judged what all members have listened to together.
#[derive(Clone, Debug)]
pub(super) struct Judging {
    instance: String,
    clock: ClockOffset,
    subscription: Subscription,
    echo_interval: Duration,
}

impl Judging {
    /// Reads what all members have listened to together since an instant, as it is saved.
    pub(super) async fn read(
        &self,
        store: &DeviceStore,
        since: DateTime<Utc>,
    ) -> Result<Coverage, StoreError> {
        let stays = store.stays(since, DateTime::<Utc>::MAX_UTC).await?;
        let subscription = Some(&self.subscription);
        let judge = Judge { instance: &self.instance, clock: self.clock, subscription };
        Ok(Coverage::of_stays(self.echo_interval, &stays, judge))
    }
}

impl DeviceRegistry {
    /// True if this instance is or may become a member of a group.
    pub(super) fn is_in_a_group(&self) -> bool {
        self.part.group.is_some()
    }

    /// True if what it proves counts: without a group always, and otherwise while it is
    /// subscribed as a member.
    pub(super) fn may_prove(&self) -> bool {
        self.part.group.as_ref().is_none_or(|group| group.stay.is_some())
    }

    /// The clock of this instance, to judge by what a group has listened to. `None` without a
    /// group.
    pub(super) fn judging(&self) -> Option<Judging> {
        self.is_in_a_group().then(|| Judging {
            instance: self.shared.settings.instance.clone(),
            clock: self.part.meter.clock(),
            subscription: self.shared.settings.configured.subscription.clone(),
            echo_interval: self.shared.settings.confirm_interval,
        })
    }

    fn join(
        &mut self,
        JoinGroup { connection, connected_at, ended }: JoinGroup,
    ) -> ResponseActFuture<Self, Result<GroupMark, JoinError>> {
        if self.part.clocks_differ {
            return Box::pin(ready(Err(JoinError::ClocksDiffer)));
        }
        let turn = Arc::clone(&self.shared.turn);
        let taking_turn = async move { turn.lock_owned().await }.into_actor(self);
        // What the last stay has proven belongs to that one.
        let flushing = taking_turn.then(|turn, registry, _| {
            registry.flush_in_turn().map(move |flushed, _, _| (turn, flushed))
        });
        let joining = flushing.then(move |(turn, flushed), registry, _| {
            let store = registry.shared.store.clone();
            let member = registry.shared.settings.member();
            let (mut meter, clock) = (registry.part.meter, registry.part.clock);
            let out = registry.part.vigil.stays_out_until_after(clock().monotonic);
            let joining = async move {
                // Whoever was taken out of the group has nothing more to write.
                if let Err(error) = flushed
                    && !error.ends_the_stay()
                {
                    return Err(error.into());
                }
                if let Some(Out { times, left }) = out {
                    return Err(JoinError::TakenOut { times, left });
                }
                if !meter.is_measured() {
                    store.measure_clock(&mut meter, clock).await?;
                }
                if !meter.is_measured() {
                    return Err(JoinError::ClockUnknown);
                }
                Ok((store.join_group(&member, connected_at).await?, meter))
            };
            joining.into_actor(registry).map(move |joined, _, _| (turn, joined))
        });
        Box::pin(joining.map(move |(turn, joined), registry, _| {
            if let Err(JoinError::Store(StoreError::Clash(clash))) = &joined {
                registry.is_barred(clash);
            }
            let (joined, meter) = joined?;
            registry.part.meter = meter;
            let joined = registry.joined(joined, connected_at, Stay { connection, ended });
            drop(turn);
            joined
        }))
    }

    fn joined(
        &mut self,
        joined: Option<JoinedGroup>,
        at: DateTime<Utc>,
        stay: Stay,
    ) -> Result<GroupMark, JoinError> {
        let (Some(joined), Some(group)) = (joined, &mut self.part.group) else {
            return Ok(GroupMark::default());
        };
        group.stay = Some(stay);
        group.unsubscribed_at = None;
        self.takes_part();
        self.part.listener = Some(joined.listener);
        self.part.writes = true;
        self.part.vigil.joined((self.part.clock)().monotonic);
        // What came by an earlier connection is here by now, and belongs to a stay that has ended.
        self.forget_what_is_stale();
        self.coverage = Coverage::new(self.shared.settings.confirm_interval);
        self.coverage.begin_at(at);
        self.saved = Saved::new(self.coverage.clone());
        let (listener, mark) = (joined.listener, joined.mark.to_string());
        info!(target: TARGET, listener, mark; "joined the group");
        Ok(joined.mark)
    }

    /// Ends the stay of an instance whose subscription the broker has refused. It has been given
    /// nothing that anybody could vouch for.
    fn leave_refused(&self, at: DateTime<Utc>) -> ResponseActFuture<Self, ()> {
        // A look or a flush that has begun is of the member that it was.
        let turn = Arc::clone(&self.shared.turn);
        let taking_turn = async move { turn.lock_owned().await }.into_actor(self);
        let leaving = taking_turn.then(move |turn, registry, _| {
            let (store, listener) = (registry.shared.store.clone(), registry.part.listener);
            store.is_out_of_the_group();
            registry.writes_no_more();
            let leaving = async move {
                match listener {
                    Some(listener) => store.leave(listener, "refused", at).await.map(drop),
                    None => Ok(()),
                }
            };
            leaving.into_actor(registry).map(move |left, _, _| (turn, left))
        });
        Box::pin(leaving.map(|(_turn, left), registry, _| {
            if let Err(error) = left {
                registry.database.failed(&error, registry.buffer.len());
            }
        }))
    }

    /// Throws everything away that is not written, because this instance was taken out of the
    /// group, or the database has lost what was confirmed.
    pub(super) fn is_out_of_the_group(&mut self) {
        let Some(group) = &mut self.part.group else { return };
        if let Some(Stay { connection, ended }) = group.stay.take() {
            let pause = self.part.vigil.stays_out();
            ended.do_send(StayEnded { connection, pause });
        }
    }

    /// Takes members out of the group that have stopped, and warns of those that this instance must
    /// not take out.
    pub(super) fn mind_the_stuck(&mut self, stuck: Vec<Stuck>, ctx: &mut Context<Self>) {
        if let Some(group) = &mut self.part.group {
            let is_stuck = |id: &i64| stuck.iter().any(|stuck| stuck.peer.id == *id);
            group.unfenced.retain(|id, _| is_stuck(id));
        }
        let fences = self.shared.settings.fences;
        let (stuck, left_in): (Vec<_>, Vec<_>) =
            stuck.into_iter().partition(|stuck| fences || !stuck.has_session);
        self.warn_of_those_left_in(left_in);
        for stuck in stuck {
            self.fence(stuck, ctx);
        }
    }

    /// Says once of each member that it has stopped.
    fn warn_of_those_left_in(&mut self, left_in: Vec<Stuck>) {
        let Some(group) = &mut self.part.group else { return };
        let known = std::mem::take(&mut group.left_in);
        for Stuck { peer: Peer { id, instance, .. }, .. } in left_in {
            if !known.contains(&id) {
                warn!(
                    target: TARGET, listener = id, instance;
                    "a member has stopped, so no silence counts and no device goes offline until \
                     it goes on; mqtt.fence is \"none\", so once it is gone for good, end its stay \
                     with: heartbeatd group remove {id}"
                );
            }
            group.left_in.insert(id);
        }
    }

    /// Takes a member out of the group, unless that is under way.
    fn fence(&mut self, Stuck { peer, has_session }: Stuck, ctx: &mut Context<Self>) {
        let Some(group) = &mut self.part.group else { return };
        if !group.fencing.insert(peer.id) {
            return;
        }
        let sessions = has_session.then(|| Arc::clone(&group.sessions));
        let (store, me) = (self.shared.store.clone(), self.shared.settings.instance.clone());
        let (clock, settle) = (self.part.clock, self.shared.settings.settle);
        let fenced = peer.clone();
        let fencing = async move {
            if let Some(sessions) = sessions {
                sessions.end_session(&peer.instance).await.map_err(FenceError::Broker)?;
            }
            // The broker may still deliver what it had accepted before.
            Ok(store.fence(&peer, &me, clock().wall + settle).await?)
        };
        ctx.spawn(fencing.into_actor(self).map(move |ended, registry, _| {
            registry.fenced(&fenced, ended);
        }));
    }

    fn fenced(&mut self, peer: &Peer, ended: Result<bool, FenceError>) {
        let Some(group) = &mut self.part.group else { return };
        group.fencing.remove(&peer.id);
        let error = match ended {
            Ok(true) => return self.took_out(peer),
            // It has moved since, or another member was faster.
            Ok(false) => return,
            Err(error) => error,
        };
        let (listener, instance) = (peer.id, peer.instance.as_str());
        let (now, why) = ((self.part.clock)().monotonic, error.to_string());
        let unfenced = group.unfenced.entry(peer.id).or_default();
        if let Mention::Begins | Mention::GoesOn(_) = Outage::note(unfenced, now, why) {
            warn!(
                target: TARGET, listener, instance;
                "a member has stopped and cannot be taken out of the group, so no silence \
                 counts: {error}"
            );
        }
    }

    /// Says that a member was taken out of the group.
    fn took_out(&self, peer: &Peer) {
        let (listener, instance) = (peer.id, peer.instance.as_str());
        self.shared.metrics.fenced();
        warn!(
            target: TARGET, listener, instance;
            "took a member out of the group, because it had stopped; what it had received and not \
             written is lost, and that time does not count"
        );
    }

    /// Takes in what all members have listened to together, for people and for the metrics.
    pub(super) fn sees_the_group(&mut self, coverage: Coverage, now: DateTime<Utc>) {
        let Some(group) = &mut self.part.group else { return };
        let until = coverage.intervals().last().map(|last| last.until);
        let known = std::mem::replace(&mut group.known_until, until);
        if let (Some(known), Some(until)) = (known, group.known_until)
            && known < until
        {
            for gap in coverage.gaps(known, until) {
                let seconds = gap.interval.length().num_milliseconds() as f64 / 1000.0;
                self.shared.metrics.group_blind(seconds);
                if self.part.leads {
                    let (from, at) = (gap.interval.from, gap.interval.until);
                    let cause = gap.cause.unwrap_or(GapCause::NoEcho);
                    let instances: Vec<_> =
                        gap.unproven_by.iter().map(ToString::to_string).collect();
                    lines::gap(gap.interval, cause, &instances, seconds);
                    self.journal.note(at, Happening::Gap { from, cause, instances });
                }
            }
        }
        let age = group.known_until.map_or(0, |until| (now - until).num_milliseconds());
        self.shared.metrics.set_group_proven(age as f64 / 1000.0);
        let proven = group.known_until;
        let missing = coverage.missing_for(self.shared.settings.timeout);
        let vouching = Arc::new(coverage);
        self.shared.board.change(|facts| {
            facts.proven(proven, missing);
            facts.coverage(vouching);
        });
    }
}

/// The reason why a member could not be taken out of the group.
#[derive(Debug, thiserror::Error)]
enum FenceError {
    #[error(
        "its session at the broker could not be ended by connecting as it does: {0}; for a broker that \
         binds client identifiers to users or certificates set mqtt.fence = \"none\""
    )]
    Broker(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Handler<JoinGroup> for DeviceRegistry {
    type Result = ResponseActFuture<Self, Result<GroupMark, JoinError>>;

    fn handle(&mut self, message: JoinGroup, _: &mut Context<Self>) -> Self::Result {
        self.join(message)
    }
}

impl Handler<EndStay> for DeviceRegistry {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, EndStay { at, refused }: EndStay, _: &mut Context<Self>) -> Self::Result {
        let Some(group) = &mut self.part.group else { return Box::pin(ready(())) };
        group.unsubscribed_at = Some(at);
        if refused && group.stay.take().is_some() {
            self.leave_refused(at)
        } else {
            Box::pin(ready(()))
        }
    }
}
