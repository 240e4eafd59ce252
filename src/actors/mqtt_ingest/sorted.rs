//! Hands the content of an inbox over to the registry.

use actix::prelude::*;
use log::error;

use super::TARGET;
use crate::actors::device_registry::{ConfirmListening, RecordHeartbeats};
use crate::domain::{Heartbeat, Reading};

/// The content of an inbox that is for the registry.
pub(super) struct Sorted {
    pub(super) heartbeats: Vec<Heartbeat>,
    pub(super) confirmed: Option<ConfirmListening>,
    /// The reading of the clocks after all of it was received.
    pub(super) now: Reading,
}

impl Sorted {
    /// Sends the heartbeats first, because a confirmation says that they are with the
    /// registry. Returns their vector, which is empty then.
    pub(super) async fn hand_over<R>(self, registry: Addr<R>) -> Vec<Heartbeat>
    where
        R: Actor<Context = Context<R>> + Handler<RecordHeartbeats> + Handler<ConfirmListening>,
    {
        self.send_to(registry).await.unwrap_or_else(|error| {
            error!(target: TARGET, "the registry does not answer: {error}");
            Vec::new()
        })
    }

    async fn send_to<R>(self, registry: Addr<R>) -> Result<Vec<Heartbeat>, MailboxError>
    where
        R: Actor<Context = Context<R>> + Handler<RecordHeartbeats> + Handler<ConfirmListening>,
    {
        let Self { mut heartbeats, confirmed, now } = self;
        if !heartbeats.is_empty() {
            heartbeats = registry.send(RecordHeartbeats { heartbeats, now }).await?;
        }
        if let Some(confirmed) = confirmed {
            registry.send(confirmed).await?;
        }
        Ok(heartbeats)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use chrono::DateTime;

    use super::*;
    use crate::domain::GapCause;

    /// Notes what it is sent.
    #[derive(Default)]
    struct Notes(Vec<&'static str>);

    impl Actor for Notes {
        type Context = Context<Self>;
    }

    impl Handler<RecordHeartbeats> for Notes {
        type Result = MessageResult<RecordHeartbeats>;

        fn handle(&mut self, message: RecordHeartbeats, _: &mut Context<Self>) -> Self::Result {
            assert_eq!(message.heartbeats.len(), 1);
            self.0.push("heartbeats");
            MessageResult(Vec::new())
        }
    }

    impl Handler<ConfirmListening> for Notes {
        type Result = ();

        fn handle(&mut self, _: ConfirmListening, _: &mut Context<Self>) {
            self.0.push("confirmation");
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<&'static str>")]
    struct Read;

    impl Handler<Read> for Notes {
        type Result = Vec<&'static str>;

        fn handle(&mut self, _: Read, _: &mut Context<Self>) -> Self::Result {
            self.0.clone()
        }
    }

    #[actix_rt::test]
    async fn a_confirmation_comes_after_the_heartbeats_that_it_vouches_for() {
        let now = DateTime::UNIX_EPOCH;
        let device = "pump".parse().expect("an id");
        let heartbeat = Heartbeat::parse(device, b"", now);
        let confirmed =
            Some(ConfirmListening { since: now, until: now, after: GapCause::NotRunning });
        let registry = Notes::default().start();
        let now = Reading { wall: now, monotonic: Instant::now() };
        let sorted = Sorted { heartbeats: vec![heartbeat], confirmed, now };
        sorted.hand_over(registry.clone()).await;
        assert_eq!(registry.send(Read).await.expect("it lives"), ["heartbeats", "confirmation"]);
    }
}
