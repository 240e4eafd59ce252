//! The outbox of offline transitions, as the courier reads it and strikes off what is done.

use std::sync::Arc;

use actix::prelude::*;
use chrono::{DateTime, Utc};

use super::DeviceRegistry;
use crate::domain::Transition;
use crate::domain::delivery::Attempt;
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
    /// The oldest transitions that the alert sink has not taken, in order.
    pub transitions: Vec<Transition>,
    /// The delivery that began last, perhaps in an earlier process.
    pub last: Option<Attempt>,
}

/// Notes that this delivery is about to begin.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct BeginDelivery(pub Attempt);

/// Acknowledges that the alert sink took these transitions.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct AcknowledgeOffline {
    /// Their sequence numbers.
    pub sequences: Vec<i64>,
    /// The time of the acknowledgement.
    pub at: DateTime<Utc>,
}

/// Gives up this transition, because the alert sink will never take it.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub struct GiveUpOffline {
    /// Its sequence number.
    pub sequence: i64,
    /// The time at which it is given up.
    pub at: DateTime<Utc>,
    /// The reason that the sink gave last.
    pub why: String,
}

impl Handler<ReadOutbox> for DeviceRegistry {
    type Result = ResponseFuture<Result<Outbox, StoreError>>;

    fn handle(&mut self, ReadOutbox { limit }: ReadOutbox, _: &mut Context<Self>) -> Self::Result {
        let store = self.shared.store.clone();
        Box::pin(async move {
            let transitions = store.undelivered_offline(limit).await?;
            let last = if transitions.is_empty() { None } else { store.last_delivery().await? };
            Ok(Outbox { transitions, last })
        })
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

impl Handler<AcknowledgeOffline> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: AcknowledgeOffline, _: &mut Context<Self>) -> Self::Result {
        let AcknowledgeOffline { sequences, at } = message;
        self.in_turn(async move |store| store.acknowledge_offline(&sequences, at).await)
    }
}

impl Handler<GiveUpOffline> for DeviceRegistry {
    type Result = ResponseFuture<Result<(), StoreError>>;

    fn handle(&mut self, message: GiveUpOffline, _: &mut Context<Self>) -> Self::Result {
        let GiveUpOffline { sequence, at, why } = message;
        self.in_turn(async move |store| store.give_up_offline(sequence, at, &why).await)
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
