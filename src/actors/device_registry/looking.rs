//! A look at the other instances on the database, and what follows from it there: joining, taking
//! over, or nothing. The rules are in `domain::standby`.

use chrono::{DateTime, Utc};

use super::group::Judging;
use super::{Found, Shared};
use crate::clock::Clock;
use crate::domain::standby::{ClockMeter, Duty, Kept, Peer, Sight, Stuck, Vigil};
use crate::domain::{Coverage, Reading};
use crate::store::{Beat, Clash, DeviceStore, StoreError};

/// One look at the other instances, and what follows from it. It runs beside the mailbox, and has
/// its turn as a flush has.
pub(super) struct Looking {
    pub(super) shared: Shared,
    pub(super) vigil: Vigil,
    pub(super) meter: ClockMeter,
    pub(super) clock: Clock,
    pub(super) listener: Option<i64>,
    pub(super) lost: Option<i64>,
    /// True if this instance is the active one.
    pub(super) leads: bool,
    /// For a member of a group: by which clock its coverage is judged, and since when.
    pub(super) judging: Option<(Judging, DateTime<Utc>)>,
    /// True if it proves at this time that it hears everything.
    pub(super) proves: bool,
    pub(super) proven_until: Option<DateTime<Utc>>,
    /// The heartbeats and proofs that it keeps as a standby.
    pub(super) kept: Option<Kept>,
    pub(super) gone: Vec<Peer>,
    pub(super) now: Reading,
}

/// The result of a look at a group.
pub(super) struct Together {
    /// The members that have to be taken out of it.
    pub(super) stuck: Vec<Stuck>,
    /// The time that all have listened to.
    pub(super) coverage: Coverage,
}

/// The result of a look.
pub(super) enum Looked {
    /// Another instance writes.
    StandsBy(Sight),
    /// This one goes on writing.
    Writes(Sight),
    /// This one writes from now on.
    TookOver(Sight, Box<Found>),
    /// This process must end.
    Ends(Sight),
    /// This one does not take part.
    Barred(Box<Clash>),
    Failed(StoreError),
}

impl Looking {
    pub(super) async fn run(mut self) -> (Self, Looked, Option<Together>) {
        let working = self.shared.progress.begin("look at the other instances");
        let looked = self.look().await.unwrap_or_else(|error| match error {
            StoreError::Clash(clash) => Looked::Barred(clash),
            error => Looked::Failed(error),
        });
        let together = self.look_at_the_group(&looked).await;
        drop(working);
        match &looked {
            Looked::Failed(_) | Looked::Barred(_) => self.vigil.missed(),
            Looked::TookOver(..) => self.vigil.took_over(self.now.monotonic),
            _ => (),
        }
        (self, looked, together)
    }

    async fn look_at_the_group(&self, looked: &Looked) -> Option<Together> {
        let (judging, since) = self.judging.as_ref()?;
        let (Looked::StandsBy(sight) | Looked::Writes(sight) | Looked::TookOver(sight, _)) = looked
        else {
            return None;
        };
        let stuck = self.vigil.stuck(sight, self.proves, self.now.monotonic);
        // A database that fails is told by the next look.
        let coverage = judging.read(self.store(), *since).await.ok()?;
        Some(Together { stuck, coverage })
    }

    fn store(&self) -> &DeviceStore {
        &self.shared.store
    }

    async fn look(&mut self) -> Result<Looked, StoreError> {
        // The broker may still be giving heartbeats to a member of a group.
        if let Some(lost) = self.lost.filter(|_| self.judging.is_none()) {
            _ = self.store().leave(lost, "forgotten", self.now.wall).await?;
            self.lost = None;
        }
        let mut sight = self.beat().await?;
        let mut duty = self.vigil.look(&sight, self.proves, self.now.monotonic);
        if duty == Duty::Join && !self.leads {
            if self.judging.is_some() && self.listener.is_some() {
                return Err(StoreError::Forgotten);
            }
            self.listener = None;
            sight = self.beat().await?;
            duty = self.vigil.look(&sight, self.proves, self.now.monotonic);
        }
        Ok(match duty {
            Duty::StandBy if self.has_to_fill_a_gap(&sight) => {
                let active = sight.active().cloned();
                self.take_over(sight, active).await?
            }
            Duty::StandBy | Duty::Join => Looked::StandsBy(sight),
            Duty::End => Looked::Ends(sight),
            Duty::Write if self.leads => Looked::Writes(sight),
            Duty::Write => self.write_by_right(sight).await?,
            Duty::TakeOver(from) => self.take_over(sight, from).await?,
        })
    }

    /// True if this standby has heard what the active one has not, and may write it.
    fn has_to_fill_a_gap(&self, sight: &Sight) -> bool {
        let is_left = |kept| sight.has_a_gap_within(kept, self.now.wall);
        self.proves
            && self.kept.as_ref().is_some_and(is_left)
            && self.vigil.is_calm(self.now.monotonic)
    }

    async fn beat(&mut self) -> Result<Sight, StoreError> {
        let listener = match self.listener {
            Some(listener) => listener,
            None => {
                self.meter.begins();
                let joined = self.store().join(&self.shared.settings.member()).await?;
                *self.listener.insert(joined)
            }
        };
        let proven_until = self.proven_until.filter(|_| !self.leads);
        let beat = Beat { listener, proven_until, gone: std::mem::take(&mut self.gone) };
        let store = self.store().clone();
        store.beat(&beat, &mut self.meter, self.clock).await
    }

    async fn take_over(&mut self, sight: Sight, from: Option<Peer>) -> Result<Looked, StoreError> {
        let taken = self.store().take_over(&sight, from.as_ref(), self.now.wall).await?;
        if taken.is_none() {
            return Ok(Looked::StandsBy(sight));
        }
        self.write_by_right(sight).await
    }

    /// Writes from now on, by a right that this instance has taken.
    async fn write_by_right(&mut self, sight: Sight) -> Result<Looked, StoreError> {
        let Some(taken) = self.store().taken(sight.me).await? else {
            return Ok(Looked::StandsBy(sight));
        };
        let found =
            Found::of(self.store(), &self.shared.settings, sight.me, self.meter.clock()).await?;
        self.store().hold(sight.me, taken);
        Ok(Looked::TookOver(sight, Box::new(found)))
    }
}
