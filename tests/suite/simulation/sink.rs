//! The alert sink, which replies when the world says so.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::*;
use futures::channel::oneshot;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::domain::Transition;

/// A delivery that the sink has not replied to.
pub struct Delivery {
    pub transitions: Vec<Transition>,
    pub reply: oneshot::Sender<Result<(), AlertError>>,
}

pub type Deliveries = Rc<RefCell<Vec<Delivery>>>;

pub struct Sink(pub Deliveries);

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Sink {
    type Result = ResponseFuture<Result<(), AlertError>>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        let (reply, replied) = oneshot::channel();
        self.0.borrow_mut().push(Delivery { transitions: offline.transitions, reply });
        Box::pin(async {
            match replied.await {
                Ok(reply) => reply,
                // The process is dead.
                Err(_canceled) => std::future::pending().await,
            }
        })
    }
}
