//! A way for tests to act between any two steps of the store: to do something else there,
//! to let a step fail, or to leave its outcome unknown.

use std::pin::Pin;

use sea_orm::DbErr;

use super::DeviceStore;

/// A step of the store at which a test may interfere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// A transaction with this task is about to begin.
    Begin(&'static str),
    /// This SQL is about to be executed.
    Statement(String),
    /// The transaction with this task is about to be committed.
    Commit(&'static str),
    /// The transaction with this task was committed, but the caller does not know it yet.
    AfterCommit(&'static str),
    /// A read with this task is about to happen, outside a transaction.
    Read(&'static str),
    /// A task that began with `Begin` or `Read` has ended, successfully or not, and the
    /// database has nothing left to do for it. Its outcome cannot be changed any more.
    End(&'static str),
}

/// The fate of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The step is done.
    #[default]
    GoOn,
    /// The step fails and is not done.
    Fail,
    /// The step is done, but the caller is told that the connection was lost. At a
    /// [`Point::Commit`] this leaves the outcome of the transaction unknown.
    CommitThenFail,
    /// The step is not done, and fails as if the database had not answered in time. The
    /// store does not wait for that time; the test does.
    Hang,
}

/// The future that [`Interference::at`] returns.
pub type Interfering = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A test that acts between the steps of a [`DeviceStore`].
///
/// The store's futures can be sent to other threads, so these must be `Send` too. A
/// simulation on one thread sends each point through a channel, together with a oneshot
/// sender for the outcome, and awaits the outcome.
pub trait Interference: Send + Sync {
    /// Decides about a step, which waits for it.
    fn at(&self, point: Point) -> Interfering;
}

impl DeviceStore {
    /// Lets `interference` act between any two steps of this store and its clones.
    #[doc(hidden)]
    #[must_use]
    pub fn interfere(self, interference: std::sync::Arc<dyn Interference>) -> Self {
        Self { interference: Some(interference), ..self }
    }

    /// Tells a test that the task has ended.
    pub(super) async fn ended(&self, action: &'static str) {
        if let Some(interference) = &self.interference {
            let _too_late_to_change = interference.at(Point::End(action)).await;
        }
    }

    /// Lets a test interfere before a step. Costs nothing without one.
    pub(super) async fn pass(&self, point: impl FnOnce() -> Point) -> Result<Fate, DbErr> {
        let Some(interference) = &self.interference else { return Ok(Fate::Told) };
        match interference.at(point()).await {
            Outcome::GoOn => Ok(Fate::Told),
            Outcome::Fail => Err(interfered()),
            Outcome::CommitThenFail => Ok(Fate::Untold),
            Outcome::Hang => Err(DbErr::Custom("no answer, as a test demands".to_owned())),
        }
    }
}

/// The result of a step as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// The caller is told the result.
    Told,
    /// The caller is told that the step failed.
    Untold,
}

impl Fate {
    /// The result that the caller is told.
    pub(super) fn tell<T>(self, done: T) -> Result<T, DbErr> {
        match self {
            Self::Told => Ok(done),
            Self::Untold => Err(interfered()),
        }
    }
}

fn interfered() -> DbErr {
    DbErr::Custom("a test has interfered".to_owned())
}
