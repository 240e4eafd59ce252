//! The way between an instance and its database, which can be cut, and on which its process can be
//! stopped or killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

use heartbeatd::store::{Interference, Interfering, Outcome, Point};
use tokio::sync::watch;

/// The state of a process and of its way to the database.
pub struct Wire {
    dead: AtomicBool,
    away: AtomicBool,
    /// The number of transactions and reads after which the process is stopped; below 0 it is
    /// not.
    stops_after: AtomicI64,
    stopped: watch::Sender<bool>,
    /// The percentage of COMMITs whose answer is lost.
    loses: AtomicU8,
    committed: AtomicI64,
}

impl Wire {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            dead: AtomicBool::new(false),
            away: AtomicBool::new(false),
            stops_after: AtomicI64::new(-1),
            stopped: watch::Sender::new(false),
            loses: AtomicU8::new(0),
            committed: AtomicI64::new(0),
        })
    }

    /// True if the database does not answer.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst) || self.dead.load(Ordering::SeqCst)
    }

    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Stops the process before its next transaction or read but so many.
    pub fn stop_after(&self, steps: i64) {
        self.stops_after.store(steps, Ordering::SeqCst);
    }

    /// Stops the process before its next transaction or read, and says so at once.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub fn go_on(&self) {
        self.stops_after.store(-1, Ordering::SeqCst);
        self.stopped.send_replace(false);
    }

    /// Kills the process. It begins nothing any more, and what it has begun fails.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.stopped.send_replace(false);
    }

    pub fn lose_answers(&self, percent: u8) {
        self.loses.store(percent, Ordering::SeqCst);
    }

    /// Waits while the process is stopped, and for ever once it is dead.
    pub async fn runs(&self) {
        let mut stopped = self.stopped.subscribe();
        stopped.wait_for(|stopped| !stopped).await.expect("this has the sender");
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the process is stopped.
    pub async fn stops(&self) {
        let mut stopped = self.stopped.subscribe();
        stopped.wait_for(|stopped| *stopped).await.expect("this has the sender");
    }

    /// Counts a step, after which the process may be stopped.
    fn step(&self) {
        if self.stops_after.load(Ordering::SeqCst) >= 0
            && self.stops_after.fetch_sub(1, Ordering::SeqCst) == 0
        {
            self.stop();
        }
    }

    fn commit(&self) -> Outcome {
        let committed = self.committed.fetch_add(1, Ordering::SeqCst);
        let percent = i64::from(self.loses.load(Ordering::SeqCst));
        if (committed * 37) % 100 < percent { Outcome::CommitThenFail } else { Outcome::GoOn }
    }
}

/// Lets a wire act on the steps of a store.
pub struct Gate(pub Arc<Wire>);

impl Interference for Gate {
    fn at(&self, point: Point) -> Interfering {
        let wire = Arc::clone(&self.0);
        Box::pin(async move {
            if matches!(point, Point::Begin(_) | Point::Read(_)) {
                wire.step();
                // Not within a transaction, because another one's would wait in real time.
                wire.runs().await;
            }
            match point {
                Point::End(_) | Point::AfterCommit(_) => Outcome::GoOn,
                _ if wire.is_away() => Outcome::Fail,
                Point::Commit(_) => wire.commit(),
                _ => Outcome::GoOn,
            }
        })
    }
}
