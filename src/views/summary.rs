//! The summary: if the service may be believed, and how the fleet is.
//!
//! One sentence says so everywhere: on the page and in its title, in `heartbeatd status`, and
//! in `systemctl status`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::evidence::EvidenceSettings;
use super::text::{self, To};
use super::{as_millis, as_optional_millis, as_text};
use crate::Config;
use crate::board::Snapshot;
use crate::domain::{ServiceState, Status};

/// The maximum number of bursts that a summary lists.
const LISTED_BURSTS: usize = 10;

/// The number of devices with each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) provisioning: u64,
    pub(crate) online: u64,
    pub(crate) offline: u64,
    pub(crate) error: u64,
}

impl Counts {
    /// The number of all devices.
    pub(crate) fn total(self) -> u64 {
        self.provisioning + self.online + self.offline + self.error
    }
}

/// Devices that fell silent together and are still offline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Burst {
    /// The time of the first check that found one of them.
    #[serde(serialize_with = "as_millis")]
    pub(crate) found_at: DateTime<Utc>,
    /// The time of the last check that found one of them.
    #[serde(serialize_with = "as_millis")]
    pub(crate) found_until: DateTime<Utc>,
    /// The number of them that are still offline.
    pub(crate) devices: u64,
    /// The time at which the first of them fell silent.
    #[serde(serialize_with = "as_millis")]
    pub(crate) since: DateTime<Utc>,
    /// The time at which the last of them fell silent.
    #[serde(serialize_with = "as_millis")]
    pub(crate) until: DateTime<Utc>,
}

/// The health of the broker or of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) ok: bool,
    /// The error, if it is not ok.
    pub(crate) error: Option<String>,
}

/// A clock that was set lately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClockStepView {
    #[serde(serialize_with = "as_millis")]
    pub(crate) at: DateTime<Utc>,
    /// Negative if it was set back.
    pub(crate) by_seconds: f64,
}

/// The facts of the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    #[serde(serialize_with = "as_text", deserialize_with = "state_named")]
    pub(crate) state: ServiceState,
    /// The reason for the state, as a sentence for people.
    pub(crate) detail: Option<String>,
    /// The time at which the state began.
    #[serde(serialize_with = "as_millis")]
    pub(crate) since: DateTime<Utc>,
    /// The newest proof of listening; null if there was none yet.
    #[serde(serialize_with = "as_optional_millis")]
    pub(crate) as_of: Option<DateTime<Utc>>,
    #[serde(serialize_with = "as_millis")]
    pub(crate) now: DateTime<Utc>,
    #[serde(serialize_with = "as_millis")]
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) version: String,
    /// The instance, by its `mqtt.client_id`.
    pub(crate) instance: String,
    pub(crate) devices: Counts,
    pub(crate) total: u64,
    /// Null while it is not known.
    pub(crate) late: Option<u64>,
    pub(crate) heartbeats_per_second: f64,
    /// The heartbeats that wait to be written: the newest of each device that has sent some.
    pub(crate) pending_heartbeats: u64,
    pub(crate) undelivered_alerts: u64,
    /// The time at which the device of the oldest of them went offline.
    #[serde(serialize_with = "as_optional_millis")]
    pub(crate) undelivered_since: Option<DateTime<Utc>>,
    /// Newest first.
    pub(crate) bursts: Vec<Burst>,
    pub(crate) timeout_seconds: f64,
    pub(crate) check_interval_seconds: f64,
    /// The time until a silent device can be found; null unless the state is `warming`.
    pub(crate) ready_in_seconds: Option<f64>,
    pub(crate) broker: Health,
    pub(crate) database: Health,
    /// True if the file of the database is gone: only a restart helps, and the heartbeats that
    /// wait are lost.
    pub(crate) restart_needed: bool,
    pub(crate) clock_step: Option<ClockStepView>,
    /// The time for which no device has been heard although echoes come back.
    pub(crate) fleet_silent_seconds: Option<f64>,
}

/// The service that a summary is about: what does not change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct About {
    settings: EvidenceSettings,
    check_interval: Duration,
    started_at: DateTime<Utc>,
}

impl About {
    /// A service with `config` that was started at `started_at`.
    pub(crate) fn new(config: &Config, started_at: DateTime<Utc>) -> Self {
        let check_interval = config.heartbeat.check_interval.get();
        Self { settings: config.into(), check_interval, started_at }
    }
}

impl Summary {
    /// The summary of everything that is known at `now`.
    pub(crate) fn of(snapshot: Snapshot, about: &About, now: DateTime<Utc>) -> Self {
        let count = |status| snapshot.counts.get(&status).copied().unwrap_or_default();
        let devices = Counts {
            provisioning: count(Status::Provisioning),
            online: count(Status::Online),
            offline: count(Status::Offline),
            error: count(Status::Error),
        };
        let state = snapshot.told.state;
        let ready_in = snapshot.ready_in.filter(|_| state == ServiceState::Warming);
        let bursts = snapshot.bursts.iter().take(LISTED_BURSTS).map(|burst| Burst {
            found_at: burst.found_at,
            found_until: burst.found_until,
            devices: burst.devices,
            since: burst.silent_since,
            until: burst.silent_until,
        });
        Self {
            state,
            detail: snapshot.told.detail,
            since: snapshot.told.since,
            as_of: snapshot.as_of,
            now,
            started_at: about.started_at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: about.settings.instance().to_owned(),
            devices,
            total: devices.total(),
            late: snapshot.late,
            heartbeats_per_second: (snapshot.heartbeats_per_second * 10.0).round() / 10.0,
            pending_heartbeats: snapshot.pending_heartbeats as u64,
            undelivered_alerts: snapshot.undelivered_alerts,
            undelivered_since: snapshot.undelivered_since,
            bursts: bursts.collect(),
            timeout_seconds: about.settings.timeout().as_secs_f64(),
            check_interval_seconds: about.check_interval.as_secs_f64(),
            ready_in_seconds: ready_in.map(|time| time.as_secs_f64()),
            broker: match snapshot.broker {
                Ok(()) => Health { ok: true, error: None },
                Err(error) => Health { ok: false, error },
            },
            database: Health { ok: snapshot.database.is_ok(), error: snapshot.database.err() },
            restart_needed: snapshot.needs_restart,
            clock_step: snapshot.clock_step.map(|step| ClockStepView {
                at: step.at,
                by_seconds: step.by.num_milliseconds() as f64 / 1000.0,
            }),
            fleet_silent_seconds: snapshot.fleet_silent.map(|silence| silence.lasts.as_secs_f64()),
        }
    }
}

/// The summary as it is shown: its sentence, and the facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SummaryView {
    pub(crate) sentence: String,
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

impl From<Summary> for SummaryView {
    fn from(summary: Summary) -> Self {
        Self { sentence: sentence(&summary), summary }
    }
}

/// The sentence that answers: may I believe it, is it bad, is it one thing or many.
pub(crate) fn sentence(summary: &Summary) -> String {
    let said = if is_current(summary.state) { "" } else { "Last known: " };
    let mut parts = vec![state_in_words(summary)];
    match summary.total {
        0 => parts.push("No device is registered.".to_owned()),
        total => {
            let (online, total) = (text::number(summary.devices.online), text::number(total));
            parts.push(format!("{said}{online} of {total} online."));
        }
    }
    parts.extend(offline_in_words(summary));
    if summary.devices.error > 0 {
        parts.push(format!("{} error.", text::number(summary.devices.error)));
    }
    parts.join(" ")
}

/// True if the counts are of now, and not only what was known last.
fn is_current(state: ServiceState) -> bool {
    matches!(state, ServiceState::Listening | ServiceState::FleetSilent | ServiceState::Standby)
}

fn state_named<'de, D: Deserializer<'de>>(from: D) -> Result<ServiceState, D::Error> {
    let name = String::deserialize(from)?;
    ServiceState::named(&name).ok_or_else(|| D::Error::custom(format!("no such state: {name:?}")))
}

fn state_in_words(summary: &Summary) -> String {
    let now = summary.now;
    let lasts = match now - summary.since {
        moment if moment < TimeDelta::seconds(1) => "less than 1 s".to_owned(),
        lasts => text::duration(lasts),
    };
    match summary.state {
        ServiceState::Listening => "Listening.".to_owned(),
        ServiceState::Unproven => {
            let proven = summary.as_of.unwrap_or(summary.since);
            format!("Not proven since {}.", text::time_of_day(proven, now, To::Second))
        }
        ServiceState::Disconnected => format!("The broker has been unreachable for {lasts}."),
        ServiceState::Warming => warming_in_words(summary),
        ServiceState::Database if summary.restart_needed => {
            let lost = match summary.pending_heartbeats {
                0 => "no heartbeat waits".to_owned(),
                1 => "the newest heartbeat of 1 device waits and will be lost".to_owned(),
                several => format!(
                    "the newest heartbeats of {} devices wait and will be lost",
                    text::number(several)
                ),
            };
            format!("The database file is gone: restart the service; {lost}.")
        }
        ServiceState::Database => {
            let waiting = match summary.pending_heartbeats {
                0 => "no heartbeat waits".to_owned(),
                1 => "the newest heartbeat of 1 device waits, it is not lost".to_owned(),
                several => format!(
                    "the newest heartbeats of {} devices wait, none of them is lost",
                    text::number(several)
                ),
            };
            format!("The database has been away for {lasts}; {waiting}.")
        }
        ServiceState::Shedding => "Messages are being discarded.".to_owned(),
        ServiceState::Standby => "Standing by.".to_owned(),
        ServiceState::Barred => "Taking no part.".to_owned(),
        ServiceState::FleetSilent => {
            let silent = summary.fleet_silent_seconds.map_or(lasts, in_words);
            format!("Nobody has been heard for {silent}, yet echoes return.")
        }
    }
}

fn warming_in_words(summary: &Summary) -> String {
    // Longer than a service takes to connect after its start.
    const START: TimeDelta = TimeDelta::minutes(1);
    let began = if summary.since - summary.started_at <= START { "started" } else { "connected" };
    match summary.ready_in_seconds {
        Some(seconds) => {
            // Whole seconds, and not earlier than it can.
            let seconds = in_words(seconds.ceil());
            format!("Just {began}: a silent device can be found in {seconds}.")
        }
        None => format!("Just {began}: a silent device cannot be found yet."),
    }
}

/// The offline devices, and the burst that tells if they are one thing or many.
fn offline_in_words(summary: &Summary) -> Option<String> {
    let offline = summary.devices.offline;
    if offline == 0 {
        return None;
    }
    let count = text::number(offline);
    Some(match burst_to_tell(summary) {
        Some(burst) => {
            // Counted at another moment than the statuses.
            let of_them = match burst.devices {
                all if all >= offline => "all".to_owned(),
                some => text::number(some),
            };
            let since = text::time_of_day(burst.since, summary.now, To::Minute);
            format!("{count} offline, {of_them} of them since {since}.")
        }
        None => format!("{count} offline."),
    })
}

/// The largest burst of the last 24 hours, or else the largest of all; of two that are as
/// large, the newer one.
fn burst_to_tell(summary: &Summary) -> Option<&Burst> {
    let is_recent = |burst: &Burst| summary.now - burst.found_at < TimeDelta::hours(24);
    let worth = |burst: &&Burst| (is_recent(burst), burst.devices, burst.found_at);
    summary.bursts.iter().max_by_key(worth)
}

fn in_words(seconds: f64) -> String {
    // A cast saturates, and what is not a number is zero.
    text::duration(TimeDelta::milliseconds((seconds * 1000.0) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 14:08:22 UTC.
    const NOW: i64 = 1_795_442_902;

    fn ago(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(NOW - seconds, 0).expect("small")
    }

    fn summary(state: ServiceState) -> Summary {
        let devices = Counts { provisioning: 2, online: 1846, offline: 143, error: 9 };
        let well = Health { ok: true, error: None };
        Summary {
            state,
            detail: None,
            since: ago(180),
            as_of: Some(ago(371)),
            now: ago(0),
            started_at: ago(7 * 24 * 3600),
            version: "0.1.0".to_owned(),
            instance: "heartbeatd".to_owned(),
            devices,
            total: devices.total(),
            late: Some(4),
            heartbeats_per_second: 33.2,
            pending_heartbeats: 12_000,
            undelivered_alerts: 0,
            undelivered_since: None,
            bursts: vec![burst(139, 382)],
            timeout_seconds: 180.0,
            check_interval_seconds: 60.0,
            ready_in_seconds: None,
            broker: well.clone(),
            database: well,
            restart_needed: false,
            clock_step: None,
            fleet_silent_seconds: None,
        }
    }

    /// Devices that fell silent some seconds ago and were found a minute later.
    fn burst(devices: u64, seconds: i64) -> Burst {
        let (found, since) = (ago(seconds - 60), ago(seconds));
        Burst { found_at: found, found_until: found, devices, since, until: since }
    }

    #[test]
    fn each_state_has_its_sentence() {
        let counts = "1,846 of 2,000 online. 143 offline, 139 of them since 14:02. 9 error.";
        for state in ServiceState::ALL {
            let (begins, said) = match state {
                ServiceState::Listening => ("Listening.", ""),
                ServiceState::Unproven => ("Not proven since 14:02:11.", "Last known: "),
                ServiceState::Disconnected => {
                    ("The broker has been unreachable for 3 min.", "Last known: ")
                }
                ServiceState::Warming => {
                    ("Just connected: a silent device cannot be found yet.", "Last known: ")
                }
                ServiceState::Database => (
                    "The database has been away for 3 min; the newest heartbeats of 12,000 devices \
                     wait, none of them is lost.",
                    "Last known: ",
                ),
                ServiceState::Shedding => ("Messages are being discarded.", "Last known: "),
                ServiceState::Standby => ("Standing by.", ""),
                ServiceState::Barred => ("Taking no part.", "Last known: "),
                ServiceState::FleetSilent => {
                    ("Nobody has been heard for 3 min, yet echoes return.", "")
                }
            };
            assert_eq!(sentence(&summary(state)), format!("{begins} {said}{counts}"));
        }
    }

    /// The sentence of a summary in `state` that `change` has changed.
    fn told(state: ServiceState, change: impl FnOnce(&mut Summary)) -> String {
        let mut summary = summary(state);
        change(&mut summary);
        sentence(&summary)
    }

    #[test]
    fn a_service_that_was_just_started_says_when_it_can_find_a_silent_device() {
        let told = told(ServiceState::Warming, |summary| {
            summary.started_at = ago(200);
            summary.ready_in_seconds = Some(159.1);
        });
        assert!(told.starts_with("Just started: a silent device can be found in 2 min 40 s. L"));
    }

    #[test]
    fn a_service_that_never_proved_anything_names_the_time_at_which_the_state_began() {
        let told = told(ServiceState::Unproven, |summary| summary.as_of = None);
        assert!(told.starts_with("Not proven since 14:05:22. "), "{told}");
    }

    #[test]
    fn a_state_that_has_lasted_for_a_day_names_its_date() {
        let told = told(ServiceState::Unproven, |summary| summary.as_of = Some(ago(86_400)));
        assert!(told.starts_with("Not proven since 2026-11-22 14:08:22. "), "{told}");
    }

    #[test]
    fn a_state_that_has_just_begun_has_lasted_for_less_than_a_second() {
        let told = told(ServiceState::Database, |summary| {
            summary.since = summary.now - TimeDelta::milliseconds(9);
        });
        assert!(told.starts_with("The database has been away for less than 1 s; "), "{told}");
    }

    #[test]
    fn heartbeats_that_wait_for_the_database_are_counted() {
        for (pending, expected) in
            [(0, "; no heartbeat waits."), (1, "; the newest heartbeat of 1 device waits, ")]
        {
            let told = told(ServiceState::Database, |summary| summary.pending_heartbeats = pending);
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn heartbeats_that_wait_for_a_file_that_is_gone_are_lost() {
        for (pending, expected) in [
            (0, "no heartbeat waits."),
            (1, "the newest heartbeat of 1 device waits and will be lost."),
            (61, "the newest heartbeats of 61 devices wait and will be lost."),
        ] {
            let told = told(ServiceState::Database, |summary| {
                summary.restart_needed = true;
                summary.pending_heartbeats = pending;
            });
            let begins = format!("The database file is gone: restart the service; {expected}");
            assert!(told.starts_with(&begins), "{told}");
        }
    }

    #[test]
    fn the_silence_of_the_fleet_began_before_it_was_noticed() {
        let told =
            told(ServiceState::FleetSilent, |summary| summary.fleet_silent_seconds = Some(241.0));
        assert!(told.starts_with("Nobody has been heard for 4 min 1 s, yet "), "{told}");
    }

    #[test]
    fn parts_with_nothing_to_say_are_left_out() {
        for (counts, expected) in [
            (Counts::default(), "Listening. No device is registered."),
            (Counts { provisioning: 1, ..Counts::default() }, "Listening. 0 of 1 online."),
            (Counts { online: 24, ..Counts::default() }, "Listening. 24 of 24 online."),
            (Counts { offline: 1, ..Counts::default() }, "Listening. 0 of 1 online. 1 offline."),
            (
                Counts { online: 1, error: 1, ..Counts::default() },
                "Listening. 1 of 2 online. 1 error.",
            ),
        ] {
            let told = told(ServiceState::Listening, |summary| {
                (summary.devices, summary.total) = (counts, counts.total());
                summary.bursts.clear();
            });
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn the_burst_that_is_told_is_the_largest_recent_one_or_the_largest_of_all() {
        const DAY: i64 = 24 * 3600;
        let day_ago = "since 2026-11-22 14:07";
        for (bursts, expected) in [
            (vec![], "143 offline. "),
            (vec![burst(2, 82), burst(5, 382)], "143 offline, 5 of them since 14:02. "),
            (vec![burst(5, 382), burst(5, 3982)], "143 offline, 5 of them since 14:02. "),
            (
                vec![burst(2, DAY + 60), burst(3, 382), burst(100, DAY + 75)],
                "143 offline, 3 of them since 14:02. ",
            ),
            (
                vec![burst(2, DAY + 60), burst(3, DAY + 75)],
                &format!("143 offline, 3 of them {day_ago}. "),
            ),
            (vec![burst(143, 382)], "143 offline, all of them since 14:02. "),
            (vec![burst(144, 382)], "143 offline, all of them since 14:02. "),
        ] {
            let told = told(ServiceState::Listening, |summary| summary.bursts.clone_from(&bursts));
            assert!(told.contains(expected), "{bursts:?}: {told}");
        }
    }

    #[test]
    fn a_summary_is_json_with_its_sentence_first_and_times_in_milliseconds() {
        let view = SummaryView::from(summary(ServiceState::Listening));
        let json = serde_json::to_string(&view).expect("it is JSON");
        assert!(json.starts_with(r#"{"sentence":"Listening. 1,846 "#), "{json}");
        for part in [
            r#""state":"listening","detail":null,"since":"2026-11-23T14:05:22.000Z""#,
            r#""as_of":"2026-11-23T14:02:11.000Z","now":"2026-11-23T14:08:22.000Z""#,
            r#""devices":{"provisioning":2,"online":1846,"offline":143,"error":9},"total":2000"#,
        ] {
            assert!(json.contains(part), "{json}");
        }
        assert_eq!(serde_json::from_str::<SummaryView>(&json).expect("it is a summary"), view);
    }
}
