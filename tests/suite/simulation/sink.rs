//! The alert sink, which replies when the world says so.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::*;
use futures::channel::oneshot;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline, DevicesRecovered};
use heartbeatd::domain::Recovery;

/// A delivery that the sink has not replied to.
pub struct Delivery {
    /// The sequence numbers of what is delivered.
    pub sequences: Vec<i64>,
    /// The recoveries, if it is these.
    pub recoveries: Option<Vec<Recovery>>,
    pub reply: oneshot::Sender<Result<(), AlertError>>,
}

pub type Deliveries = Rc<RefCell<Vec<Delivery>>>;

pub struct Sink(pub Deliveries);

impl Sink {
    fn take(
        &mut self,
        sequences: Vec<i64>,
        recoveries: Option<Vec<Recovery>>,
    ) -> ResponseFuture<Result<(), AlertError>> {
        let (reply, replied) = oneshot::channel();
        self.0.borrow_mut().push(Delivery { sequences, recoveries, reply });
        Box::pin(async {
            match replied.await {
                Ok(reply) => reply,
                // The process is dead.
                Err(_canceled) => std::future::pending().await,
            }
        })
    }
}

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        self.take(offline.transitions.iter().map(|t| t.sequence).collect(), None)
    }
}

impl Handler<DevicesRecovered> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, recovered: DevicesRecovered, _: &mut Context<Self>) -> Self::Result {
        let sequences = recovered.recoveries.iter().map(|r| r.key.sequence).collect();
        self.take(sequences, Some(recovered.recoveries))
    }
}
