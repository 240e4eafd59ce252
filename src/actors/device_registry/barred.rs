//! Instances on one database that are configured differently.
//!
//! One that listens to something else than another one does not take part: it hears and keeps what
//! it hears, and proves nothing, so that it takes over from nobody. It goes on trying to join. What
//! may be an oversight, and makes no proof untrue, is told once of each other instance.

use chrono::TimeDelta;
use log::{info, warn};

use super::DeviceRegistry;
use super::standby::TARGET;
use crate::domain::standby::{Peer, Sight};
use crate::domain::{Configured, Difference};
use crate::duration;
use crate::logging::outage::{Mention, Outage};
use crate::store::Clash;

/// The number of instances of which it is remembered what was told. There are few at a time, but
/// their names may change for ever.
const MAX_TOLD: usize = 100;

impl DeviceRegistry {
    /// Notes that this instance does not take part, and says why: at first, and as long as it lasts.
    pub(super) fn is_barred(&mut self, clash: &Clash) {
        let now = (self.part.clock)();
        // What counts has to be heard by an instance that takes part.
        self.coverage.begin_at(now.wall);
        let (why, instance) = (clash.to_string(), clash.instance.as_str());
        match Outage::note(&mut self.part.barred, now.monotonic, why.clone()) {
            Mention::Begins => warn!(target: TARGET, instance; "{why}"),
            Mention::GoesOn(lasts) => {
                warn!(target: TARGET, instance, seconds = lasts.as_secs(); "{why}");
            }
            Mention::Nothing => (),
        }
        self.shared.metrics.set_barred(true);
        self.shared.board.change(|facts| facts.barred(Some(why)));
    }

    /// Notes that this instance takes part, as it has joined.
    pub(super) fn takes_part(&mut self) {
        let Some(barred) = self.part.barred.take() else { return };
        let seconds = barred.lasts((self.part.clock)().monotonic).as_secs();
        info!(target: TARGET, seconds; "no other instance listens to something else any more; taking part");
        self.shared.metrics.set_barred(false);
        self.shared.board.change(|facts| facts.barred(None));
    }

    /// Says of each other instance how its configuration differs, where that may be meant: once, and
    /// again if it has changed since.
    pub(super) fn compare_configurations(&mut self, sight: &Sight) {
        let told = &mut self.part.told_differences;
        if told.len() > MAX_TOLD {
            told.clear();
        }
        for other in sight.others() {
            let differences = differences_from(&self.shared.settings.configured, other);
            let is_new = told.get(&other.instance) != Some(&differences);
            if is_new && !differences.is_empty() {
                let instance = other.instance.as_str();
                warn!(
                    target: TARGET, instance;
                    "another instance on the database is configured differently: {differences}; \
                     is that meant?"
                );
            }
            if is_new {
                told.insert(other.instance.clone(), differences);
            }
        }
    }
}

/// The differences from another instance that do not keep one out, in words. Empty if there are
/// none.
fn differences_from(here: &Configured, other: &Peer) -> String {
    let Some(there) = &other.configured else { return String::new() };
    let told = differences(here, there).into_iter();
    let told = told
        .map(|Difference { key, here, there }| format!("{key} is {here} here and {there} there"));
    told.collect::<Vec<_>>().join(", and ")
}

/// The differences that do not keep an instance out.
fn differences(here: &Configured, there: &Configured) -> Vec<Difference> {
    let of_times = |key, here: TimeDelta, there: TimeDelta| {
        let shown = |time: TimeDelta| duration::format(time.to_std().unwrap_or_default());
        (here != there).then(|| Difference { key, here: shown(here), there: shown(there) })
    };
    [
        here.subscription.may_differ_from(&there.subscription),
        of_times("heartbeat.timeout", here.timeout, there.timeout),
        of_times("heartbeat.check_interval", here.check_interval, there.check_interval),
    ]
    .into_iter()
    .flatten()
    .collect()
}
