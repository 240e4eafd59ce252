//! A way for tests to come between any two steps of the store: to let other things
//! happen there, to have a step fail, or to leave its outcome unknown.

use std::pin::Pin;

use sea_orm::DbErr;

use super::DeviceStore;

/// A step of the store, before which a test may interfere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// A transaction is about to begin, to do this.
    Begin(&'static str),
    /// This SQL is about to be executed.
    Statement(String),
    /// A transaction is about to be committed.
    Commit(&'static str),
    /// A transaction was committed, and the caller does not know it yet.
    AfterCommit(&'static str),
    /// Something is about to be read, outside a transaction.
    Read(&'static str),
    /// What began with `Begin` or `Read` has ended, well or not, and leaves the database
    /// nothing to do. Its outcome cannot be changed any more.
    End(&'static str),
}

/// The fate of the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    #[default]
    GoOn,
    /// It fails and is not done.
    Fail,
    /// It is done, and the caller is told that the connection was lost. Before a
    /// [`Point::Commit`] this leaves the outcome of the transaction unknown.
    CommitThenFail,
    /// It is not done, and fails as if the database had not answered in time. The
    /// caller does not wait for that: whoever interferes does.
    Hang,
}

/// The future that [`Interference::at`] returns.
pub type Interfering = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Whoever comes between the steps of a [`DeviceStore`].
///
/// Futures of the store can be sent to other threads, so this one must be, too. A
/// simulation on one thread sends each point through a channel, together with a oneshot
/// sender for the outcome, and awaits that.
pub trait Interference: Send + Sync {
    /// Is awaited before each step.
    fn at(&self, point: Point) -> Interfering;
}

impl DeviceStore {
    /// Lets `interference` come between any two steps of this store and its clones.
    #[doc(hidden)]
    #[must_use]
    pub fn interfere(self, interference: std::sync::Arc<dyn Interference>) -> Self {
        Self { interference: Some(interference), ..self }
    }

    /// Tells a test that the work on the database that was to do this has ended.
    pub(super) async fn ended(&self, action: &'static str) {
        if let Some(interference) = &self.interference {
            let _too_late_to_change = interference.at(Point::End(action)).await;
        }
    }

    /// Lets a test interfere before a step. Without one this costs nothing.
    pub(super) async fn pass(&self, point: impl FnOnce() -> Point) -> Result<Fate, DbErr> {
        let Some(interference) = &self.interference else { return Ok(Fate::Told) };
        match interference.at(point()).await {
            Outcome::GoOn => Ok(Fate::Told),
            Outcome::Fail => Err(interfered()),
            Outcome::CommitThenFail => Ok(Fate::Untold),
            Outcome::Hang => Err(DbErr::Custom("no answer, a test has seen to that".to_owned())),
        }
    }
}

/// The news of a step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// The caller learns of it.
    Told,
    /// The caller is told that it failed.
    Untold,
}

impl Fate {
    /// The result as the caller learns of it.
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
