//! Gives way before each step of the service's store.

use heartbeatd::store::{Interference, Interfering, Outcome, Point};
use tokio::sync::{mpsc, oneshot};

/// A step that waits to be let through.
pub struct Held {
    pub point: Point,
    answer: oneshot::Sender<Outcome>,
}

impl Held {
    pub fn let_through(self, outcome: Outcome) {
        // Whoever waited may be gone.
        let _gone = self.answer.send(outcome);
    }
}

/// Passes the steps on. All of them fail when nobody takes them any more: the process
/// is dead and does nothing.
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
    /// Nothing was being done before.
    pub fn is_beginning(&self) -> bool {
        matches!(self.point, Point::Begin(_) | Point::Read(_))
    }

    /// Nothing is being done after it.
    pub fn is_end(&self) -> bool {
        matches!(self.point, Point::End(_))
    }
}
