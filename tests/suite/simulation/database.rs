//! Pauses the service before each step of its store.

use heartbeatd::store::{Interference, Interfering, Outcome, Point};
use tokio::sync::{mpsc, oneshot};

/// A step that waits to be let through.
pub struct Held {
    pub point: Point,
    answer: oneshot::Sender<Outcome>,
}

impl Held {
    pub fn let_through(self, outcome: Outcome) {
        // The task that waited may be gone.
        let _gone = self.answer.send(outcome);
    }
}

/// Passes the steps on to the world. All of them fail once the world no longer takes
/// them, because a dead process does nothing.
pub struct Gate(mpsc::UnboundedSender<Held>);

impl Gate {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Held>) {
        let (pass, passed) = mpsc::unbounded_channel();
        (Self(pass), passed)
    }
}

impl Interference for Gate {
    fn at(&self, point: Point) -> Interfering {
        let (answer, answered) = oneshot::channel();
        let dead = self.0.send(Held { point, answer }).is_err();
        Box::pin(async move {
            if dead {
                return Outcome::Fail;
            }
            answered.await.unwrap_or(Outcome::Fail)
        })
    }
}

impl Held {
    /// True if it begins something new.
    pub fn is_beginning(&self) -> bool {
        matches!(self.point, Point::Begin(_) | Point::Read(_))
    }

    /// True if nothing follows it.
    pub fn is_end(&self) -> bool {
        matches!(self.point, Point::End(_))
    }
}
