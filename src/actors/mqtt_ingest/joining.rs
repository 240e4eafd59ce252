//! Joining a group before the subscription, and leaving it after.
//!
//! The stay of a member begins in the database before it subscribes, and ends there once the broker
//! gives it nothing any more. In between the broker may give it heartbeats that nobody else gets.

use std::time::Duration;

use actix::fut::{LocalBoxActorFuture, ready};
use actix::prelude::*;
use chrono::{DateTime, Utc};
use log::{error, warn};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Listening, MqttIngest, SUBSCRIBE_AGAIN, TARGET};
use crate::actors::device_registry::{EndStay, JoinError, JoinGroup, StayEnded};
use crate::domain::GroupMark;
use crate::duration::human;
use crate::logging::outage::Outage;
use crate::mqtt::ClientError;

/// The pause before an instance that could not join tries again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// The longest pause after a refused subscription. Each refusal in a row doubles the pause, because
/// each attempt is a stay in the group, of which the time that it lasts does not count.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The time between two looks whether the other nodes are reached at which devices enter.
const REACHED_YET: Duration = Duration::from_millis(100);

/// The longest time that a member that leaves waits for its last echo.
const LAST_ECHO: Duration = Duration::from_secs(2);

/// The longest `mqtt.settle` that is waited for by a member that leaves. A stop takes 8 s at most.
const LONGEST_SETTLE: Duration = Duration::from_secs(5);

/// The least time between the end of a stay and the echo that proves what came before it.
const ROUNDED: Duration = Duration::from_millis(5);

/// The membership of an ingest.
#[derive(Default)]
pub(super) struct Joining {
    /// The mark of the group that it has joined.
    mark: GroupMark,
    /// The beginning of its stay.
    joined_at: Option<DateTime<Utc>>,
    /// The time in which it cannot join.
    failing: Option<Outage>,
    /// The instant that has to be proven before it leaves, and whom to tell.
    last: Option<(DateTime<Utc>, oneshot::Sender<()>)>,
    /// The number of refused subscriptions since the last one that was granted.
    refused: u32,
}

impl Joining {
    /// Notes that the subscription was refused. Returns the time until the next attempt.
    fn was_refused(&mut self) -> Duration {
        let pause = SUBSCRIBE_AGAIN.saturating_mul(1 << self.refused.min(10));
        self.refused = self.refused.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }
}

impl MqttIngest {
    /// The mark of the group, of a member.
    pub(super) fn group_mark(&self) -> GroupMark {
        self.joining.as_ref().map_or(GroupMark::default(), |joining| joining.mark)
    }

    /// Begins a stay in the group, and then subscribes. Waits for the connections through which it
    /// proves what it hears.
    pub(super) fn join(&mut self, ctx: &mut Context<Self>) {
        if !self.reaches_all_entries(ctx) {
            return self.join_after(REACHED_YET, ctx);
        }
        let (connection, connected_at) = (self.newest, (self.clock)().wall);
        if let Some(joining) = &mut self.joining {
            joining.joined_at = Some(connected_at);
        }
        let join = JoinGroup { connection, connected_at, ended: ctx.address().recipient() };
        let joining = self.registry.send(join).into_actor(self);
        ctx.spawn(joining.map(move |joined, ingest, ctx| {
            // A registry that is gone ends the process.
            if let Ok(joined) = joined
                && ingest.newest == connection
                && ingest.listening == Listening::Connected
            {
                ingest.joined(joined, ctx);
            }
        }));
    }

    /// Notes that the subscription has begun. Between its stay and that a member is given nothing.
    pub(super) fn begin_after_joining(&mut self) {
        let now = (self.clock)();
        if let Some(joining) = &mut self.joining {
            joining.refused = 0;
        }
        match self.joining.as_ref().and_then(|joining| joining.joined_at) {
            Some(joined_at) => self.echoes.begin_since(joined_at, now),
            None => self.echoes.begin(now),
        }
    }

    fn joined(&mut self, joined: Result<GroupMark, JoinError>, ctx: &mut Context<Self>) {
        let Some(joining) = &mut self.joining else { return };
        let now = (self.clock)().monotonic;
        match joined {
            Ok(mark) => {
                joining.mark = mark;
                joining.failing = None;
                self.subscribe(ctx);
            }
            Err(error) => {
                if joining.failing.is_none() {
                    warn!(target: TARGET, "cannot join the group, so nothing is subscribed to: {error}");
                }
                Outage::note(&mut joining.failing, now, error.to_string());
                self.join_after(JOIN_AGAIN, ctx);
            }
        }
    }

    /// Joins later, unless there is another connection by then.
    fn join_after(&self, pause: Duration, ctx: &mut Context<Self>) {
        let connection = self.newest;
        ctx.run_later(pause, move |ingest, ctx| {
            let is_newest = ingest.newest == connection;
            if is_newest && ingest.listening == Listening::Connected && !ingest.leaving {
                ingest.join(ctx);
            }
        });
    }

    /// Leaves the group because the broker has refused the subscription, so that it makes no hole
    /// in what the others hear. One that was never granted on this connection has brought nothing.
    /// One that was refused when it was repeated may still bring heartbeats until the broker has
    /// ended the session, which the next connection shows.
    pub(super) fn leave_refused(
        &mut self,
        refusal: &ClientError,
        never_granted: bool,
        ctx: &mut Context<Self>,
    ) {
        let pause = self.joining.as_mut().map_or(SUBSCRIBE_AGAIN, Joining::was_refused);
        error!(target: TARGET, "{refusal}; subscribing again in {}", human(pause));
        let leaving = self.leave();
        ctx.spawn(leaving.map(move |(), ingest, ctx| {
            if never_granted {
                let at = (ingest.clock)().wall;
                ingest.registry.do_send(EndStay { at, refused: true });
            }
            ingest.connect_after(pause, ctx);
        }));
    }

    fn connect_after(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(pause, Self::connect_again);
    }

    /// Ends the subscription, and proves that everything which came by it has arrived. The
    /// stay then ends without a hole.
    pub(super) fn leave_the_group(&self) -> LocalBoxActorFuture<Self, ()> {
        if self.joining.is_none() || self.listening != Listening::Subscribed {
            return Box::pin(ready(()));
        }
        let settle = self.echoes.settles_for();
        if settle > LONGEST_SETTLE {
            warn!(
                target: TARGET, seconds = settle.as_secs();
                "mqtt.settle is longer than a stop may wait for the last heartbeats ({}), so the \
                 other members take this one out of the group", human(LONGEST_SETTLE)
            );
            return Box::pin(ready(()));
        }
        let unsubscribing = self.connection.unsubscribe(self.group_mark()).into_actor(self);
        Box::pin(unsubscribing.then(|acknowledged, ingest, ctx| {
            if !acknowledged {
                // The others end its session.
                return ready(()).boxed_local();
            }
            ingest.prove_the_end(ctx)
        }))
    }

    fn prove_the_end(&mut self, ctx: &mut Context<Self>) -> LocalBoxActorFuture<Self, ()> {
        let at = (self.clock)().wall;
        self.registry.do_send(EndStay { at, refused: false });
        let (tell, told) = oneshot::channel();
        let Some(joining) = &mut self.joining else { return ready(()).boxed_local() };
        joining.last = Some((at, tell));
        // The end of the stay is rounded up to a millisecond.
        let settle = self.echoes.settles_for().max(ROUNDED);
        ctx.run_later(settle, |ingest, ctx| ingest.send_echo(ctx));
        let waiting = timeout(settle + LAST_ECHO, told);
        waiting.into_actor(self).map(|_proven_or_late, _, _| ()).boxed_local()
    }

    /// Notes that the registry knows of a proof.
    pub(super) fn has_proven(&mut self, until: Option<DateTime<Utc>>) {
        let Some(joining) = &mut self.joining else { return };
        let is_last = |(at, _): &mut (DateTime<Utc>, _)| until.is_some_and(|until| until >= *at);
        if let Some((_, tell)) = joining.last.take_if(is_last) {
            // Nobody waits any more if it took too long.
            let _ = tell.send(());
        }
    }
}

impl Handler<StayEnded> for MqttIngest {
    type Result = ();

    fn handle(&mut self, StayEnded { connection, pause }: StayEnded, ctx: &mut Context<Self>) {
        if connection != self.newest || self.leaving || self.listening == Listening::Disconnected {
            return;
        }
        warn!(
            target: TARGET, seconds = pause.as_secs();
            "not a member of the group any more; connecting again"
        );
        let leaving = self.leave();
        ctx.spawn(leaving.map(move |(), ingest, ctx| ingest.connect_after(pause, ctx)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_in_a_row_doubles_the_pause_up_to_five_minutes() {
        let mut joining = Joining::default();
        let pauses: Vec<_> = (0..8).map(|_| joining.was_refused().as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        joining.refused = u32::MAX;
        assert_eq!(joining.was_refused(), LONGEST_PAUSE);
    }
}
