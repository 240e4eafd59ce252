//! The outbox of alerts and recoveries, as the courier reads it and strikes off what is done.

use std::sync::Arc;

use actix::prelude::*;
use chrono::{DateTime, Utc};

use super::{DeviceRegistry, Shared};
use crate::domain::delivery::Attempt;
use crate::domain::{IdempotencyKey, Transition};
use crate::store::{DeviceStore, StoreError};

/// Reads the head of the outbox.
#[derive(Debug, Message)]
#[rtype(result = "Result<Outbox, StoreError>")]
pub struct ReadOutbox {
    /// The maximum number of transitions to read.
    pub limit: u64,
}

/// The head of the outbox.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// The oldest transitions that the sink has not taken, in order: offline ones, and those
    /// that end an outage.
    pub transitions: Vec<Transition>,
    /// The delivery that began last, perhaps in an earlier process.
    pub last: Option<Attempt>,
}

/// Reads the oldest transition that may be delivered before this one, which is the head of the
/// outbox.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Transition>, StoreError>")]
pub struct ReadBesideHead(pub Transition);

/// Reads the recoveries that may be delivered before this alert, which is the head of the outbox
/// and is refused.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Transition>, StoreError>")]
pub struct ReadRecoveriesPastHead {
    /// The alert.
    pub head: Transition,
    /// The maximum number of recoveries to read.
    pub limit: u64,
}

/// Notes that this delivery is about to begin.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct BeginDelivery(pub Attempt);

/// Acknowledges that the sink took these transitions.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct Acknowledge {
    /// Their keys.
    pub keys: Vec<IdempotencyKey>,
    /// The number of alerts among them; the others are recoveries.
    pub alerts: u64,
    /// The time of the acknowledgement.
    pub at: DateTime<Utc>,
}

/// Gives up this transition, because the sink will never take it.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct GiveUp {
    /// Its key.
    pub key: IdempotencyKey,
    /// The time at which it is given up.
    pub at: DateTime<Utc>,
    /// The reason that the sink gave last.
    pub why: String,
}

impl Handler<ReadOutbox> for DeviceRegistry {
    type Result = ResponseFuture<Result<Outbox, StoreError>>;

    fn handle(&mut self, ReadOutbox { limit }: ReadOutbox, _: &mut Context<Self>) -> Self::Result {
        if !self.part.leads {
            // Another instance delivers.
            return Box::pin(std::future::ready(Ok(Outbox::default())));
        }
        let shared = self.shared.clone();
        Box::pin(async move {
            let store = &shared.store;
            let transitions = store.undelivered(limit).await?;
            if (transitions.len() as u64) < limit {
                shared.undelivered_are(&transitions);
            }
            let last = if transitions.is_empty() { None } else { store.last_delivery().await? };
            Ok(Outbox { transitions, last })
        })
    }
}

impl Handler<ReadBesideHead> for DeviceRegistry {
    type Result = ResponseFuture<Result<Option<Transition>, StoreError>>;

    fn handle(
        &mut self,
        ReadBesideHead(head): ReadBesideHead,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let store = self.shared.store.clone();
        Box::pin(async move { store.undelivered_beside(&head).await })
    }
}

impl Handler<ReadRecoveriesPastHead> for DeviceRegistry {
    type Result = ResponseFuture<Result<Vec<Transition>, StoreError>>;

    fn handle(
        &mut self,
        ReadRecoveriesPastHead { head, limit }: ReadRecoveriesPastHead,
        _: &mut Context<Self>,
    ) -> Self::Result {
        let store = self.shared.store.clone();
        Box::pin(async move { store.recoveries_past(&head, limit).await })
    }
}

impl Handler<BeginDelivery> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(
        &mut self,
        BeginDelivery(attempt): BeginDelivery,
        _: &mut Context<Self>,
    ) -> Self::Result {
        self.in_turn(async move |store| store.begin_delivery(&attempt).await)
    }
}

impl Handler<Acknowledge> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: Acknowledge, _: &mut Context<Self>) -> Self::Result {
        let Acknowledge { keys, alerts, at } = message;
        let shared = self.shared.clone();
        self.in_turn(async move |store| {
            store.acknowledge(&keys, at).await?;
            let left = shared.board.change(|facts| facts.delivered(alerts));
            shared.metrics.set_undelivered(left);
            Ok(())
        })
    }
}

impl Handler<GiveUp> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: GiveUp, _: &mut Context<Self>) -> Self::Result {
        let GiveUp { key, at, why } = message;
        self.in_turn(async move |store| store.give_up(key, at, &why).await)
    }
}

impl Shared {
    /// Tells of the outbox, which has these transitions and no others.
    fn undelivered_are(&self, transitions: &[Transition]) {
        let mut alerts = transitions.iter().filter(|transition| transition.ends.is_none());
        let oldest = alerts.next();
        let count = alerts.count() as u64 + u64::from(oldest.is_some());
        self.board.change(|facts| facts.undelivered(count, oldest.map(|alert| alert.at)));
        self.metrics.set_undelivered(count);
    }
}

impl DeviceRegistry {
    /// Writes to the database when no other writer has its turn.
    fn in_turn<T: 'static>(
        &self,
        write: impl AsyncFnOnce(DeviceStore) -> Result<T, StoreError> + 'static,
    ) -> ResponseFuture<Result<T, StoreError>> {
        let (store, turn) = (self.shared.store.clone(), Arc::clone(&self.shared.turn));
        Box::pin(async move {
            let _turn = turn.lock_owned().await;
            write(store).await
        })
    }
}
