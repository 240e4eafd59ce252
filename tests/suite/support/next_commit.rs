//! Holds up a COMMIT.

use std::sync::Mutex;

use futures::channel::oneshot::{self, Receiver, Sender};
use heartbeatd::store::{Interference, Interfering, Outcome, Point};

/// Makes the next COMMIT of a store wait, when told to.
#[derive(Default)]
pub struct NextCommit(Mutex<Option<Receiver<()>>>);

impl NextCommit {
    /// Makes the next COMMIT wait until the sender is used, or for ever if it is only
    /// kept.
    pub fn waits(&self) -> Sender<()> {
        let (release, released) = oneshot::channel();
        *self.0.lock().expect("no thread panics") = Some(released);
        release
    }
}

impl Interference for NextCommit {
    fn at(&self, point: Point) -> Interfering {
        let is_commit = matches!(point, Point::Commit(_));
        let released = is_commit.then(|| self.0.lock().expect("no thread panics").take()).flatten();
        Box::pin(async {
            if let Some(released) = released {
                released.await.expect("it is released, or never");
            }
            Outcome::GoOn
        })
    }
}
