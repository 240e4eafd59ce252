//! Evidence: why a device is offline, or why it is not.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, Serializer};

use super::text;
use crate::Config;
use crate::domain::{
    Coverage, Evidence, Gap, GapCause, Heard, Interval, Judge, Listener, Past, Status, Transition,
    Verdict,
};
use crate::store::{Device, DeviceStore, StoreError};

/// The maximum number of gaps that an explanation lists. It lists the newest.
const LISTED_GAPS: usize = 20;

/// The length of a gap of an unknown cause from which on it is told. A shorter one does not change
/// the tenth of a second to which the others are told.
const SHOWN: TimeDelta = TimeDelta::milliseconds(50);

/// The evidence for a device's status.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EvidenceView {
    verdict: &'static str,
    /// The time of the last heartbeat, with which the silence began.
    silent_since: DateTime<Utc>,
    /// For an offline device the time of the check that found it, otherwise now.
    until: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    timeout_seconds: TimeDelta,
    /// The listened part of the silence.
    #[serde(serialize_with = "as_seconds")]
    listened_seconds: TimeDelta,
    /// The rest of the silence, oldest first; empty if it is not known any more.
    gaps: Vec<GapView>,
    /// The instances that have listened; left out if there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<ListenerView>,
}

/// A time that does not count as silence.
#[derive(Clone, Debug, Serialize)]
struct GapView {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// Null if it is not known, as of the newest time, which was not proven yet.
    cause: Option<&'static str>,
    /// The instances whose gap it is; left out if there is only one, or it is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instances: Vec<String>,
}

/// One of several instances that have listened.
#[derive(Clone, Debug, Serialize)]
struct ListenerView {
    instance: String,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    #[serde(serialize_with = "as_seconds")]
    listened_seconds: TimeDelta,
}

impl From<Evidence> for EvidenceView {
    fn from(evidence: Evidence) -> Self {
        Self {
            verdict: match evidence.verdict {
                Verdict::NotSilent => "not_silent",
                Verdict::Silent => "silent",
                Verdict::Offline => "offline",
            },
            silent_since: evidence.silent_since,
            until: evidence.until,
            timeout_seconds: evidence.timeout,
            listened_seconds: evidence.listened,
            gaps: evidence.gaps.iter().map(|gap| GapView::new(gap, &evidence.listeners)).collect(),
            listeners: evidence.listeners.iter().map(ListenerView::from).collect(),
        }
    }
}

impl GapView {
    fn new(gap: &Gap, listeners: &[Listener]) -> Self {
        Self {
            from: gap.interval.from,
            until: gap.interval.until,
            cause: gap.cause.map(GapCause::as_str),
            instances: Listener::whose(listeners, gap),
        }
    }
}

impl From<&Listener> for ListenerView {
    fn from(listener: &Listener) -> Self {
        let Interval { from, until } = listener.whole();
        let instance = listener.instance.clone();
        Self { instance, from, until, listened_seconds: listener.listened() }
    }
}

fn as_seconds<S: Serializer>(time: &TimeDelta, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.num_milliseconds() as f64 / 1000.0)
}

/// The settings of the service on which evidence depends.
#[derive(Clone, Debug)]
pub(crate) struct EvidenceSettings {
    /// The instance that listens now, by its `mqtt.client_id`.
    instance: String,
    /// The default timeout.
    timeout: Duration,
    /// The time between two confirmations that the service is listening.
    confirm_interval: Duration,
    /// The time by which a confirmation proves less.
    settle: Duration,
}

impl EvidenceSettings {
    /// The instance that listens now.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The time between two confirmations that the service is listening.
    pub(crate) fn confirm_interval(&self) -> Duration {
        self.confirm_interval
    }

    /// The default timeout.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl From<&Config> for EvidenceSettings {
    fn from(config: &Config) -> Self {
        Self {
            instance: config.mqtt.client_id.clone(),
            timeout: config.heartbeat.timeout.get(),
            confirm_interval: config.mqtt.confirm_interval(),
            settle: config.mqtt.settle(),
        }
    }
}

/// Reads and weighs the evidence for a device's status as of `now`. `None` if the device was
/// never heard.
///
/// # Errors
///
/// If the database fails.
pub(crate) async fn gather_evidence(
    settings: &EvidenceSettings,
    store: &DeviceStore,
    device: &Device,
    now: DateTime<Utc>,
) -> Result<Option<Evidence>, StoreError> {
    if device.last_seen_at.is_none() {
        return Ok(None);
    }
    let newest = store.history(Some(&device.id), None, 1).await?;
    weigh_silence(settings, store, device, newest.first(), now).await
}

/// Weighs the evidence as of `now`, when `newest` is the device's newest transition.
///
/// # Errors
///
/// If the database fails.
pub(crate) async fn weigh_silence(
    settings: &EvidenceSettings,
    store: &DeviceStore,
    device: &Device,
    newest: Option<&Transition>,
    now: DateTime<Utc>,
) -> Result<Option<Evidence>, StoreError> {
    let Some(last_seen_at) = device.last_seen_at else { return Ok(None) };
    // The instance that took it offline, or else the one that listens now.
    let instance = newest.and_then(|newest| newest.instance.as_ref());
    let instance = instance.unwrap_or(&settings.instance);
    let silence = Evidence::silence(device.status, last_seen_at, newest, now);
    let window = (silence.from, silence.until);
    let stays = store.stays(window.0, window.1).await?;
    let judge = Judge::named(instance, &stays);
    let coverage = Coverage::of_stays(settings.confirm_interval, &stays, judge);
    let timeout = device.timeout().unwrap_or(settings.timeout);
    let seen = device.last_seen_at;
    let evidence = Evidence::weigh(device.status, seen, timeout, newest, &coverage, now);
    Ok(evidence.map(|evidence| evidence.listened_by(&stays, judge)))
}

/// Reads what all instances have listened to together in a stretch of time, as `instance` judges
/// it.
///
/// # Errors
///
/// If the database fails.
pub(crate) async fn read_coverage(
    store: &DeviceStore,
    instance: &str,
    confirm_interval: Duration,
    (from, until): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Coverage, StoreError> {
    let stays = store.stays(from, until).await?;
    Ok(Coverage::of_stays(confirm_interval, &stays, Judge::named(instance, &stays)))
}

/// The evidence for a device's status in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// The sentence that says why the device is offline, or why it is not.
    pub(crate) sentence: String,
    /// The parts of the silence that do not count, oldest first.
    pub(crate) not_counted: Vec<String>,
    /// The listening of each instance, if there are several.
    pub(crate) listeners: Vec<String>,
}

impl Explanation {
    /// Puts the evidence for `status` into words.
    pub(crate) fn of(
        status: Status,
        evidence: Option<&Evidence>,
        settings: &EvidenceSettings,
    ) -> Self {
        let Some(evidence) = evidence else {
            let sentence = format!("{status}: never heard, so it cannot fall silent");
            return Self { sentence, not_counted: Vec::new(), listeners: Vec::new() };
        };
        Self {
            sentence: format!("{status}: {}", reason(evidence, fresh(settings))),
            not_counted: not_counted(evidence, settings),
            listeners: listened_by(Some(evidence)),
        }
    }

    /// Puts the evidence for a status of the past into words.
    pub(crate) fn as_of(
        at: DateTime<Utc>,
        Past { status, heard }: Past,
        evidence: Option<&Evidence>,
        settings: &EvidenceSettings,
    ) -> Self {
        let reason = match (evidence, heard) {
            (Some(evidence), _) => reason_then(evidence, fresh(settings)),
            (None, Heard::Never) => "never heard until then".to_owned(),
            (None, _) => "the time of its last heartbeat until then is not kept".to_owned(),
        };
        let not_counted = evidence.map(|evidence| not_counted(evidence, settings));
        Self {
            sentence: format!("{status} at {}: {reason}", text::time(Some(at))),
            not_counted: not_counted.unwrap_or_default(),
            listeners: listened_by(evidence),
        }
    }
}

/// The evidence of the past as one sentence, without the status.
fn reason_then(evidence: &Evidence, fresh: TimeDelta) -> String {
    let silence = text::duration(evidence.until - evidence.silent_since);
    let listened = text::duration(evidence.listened);
    let timeout = crate::duration::exact(evidence.timeout.to_std().unwrap_or_default());
    match evidence.verdict {
        Verdict::Offline => reason(evidence, fresh),
        Verdict::Silent => format!(
            "{listened} of its {silence} of silence had been listened to, more than its timeout \
             of {timeout}; the next check took it offline"
        ),
        Verdict::NotSilent => format!(
            "heard {silence} before, {listened} of which had been listened to, not more than its \
             timeout of {timeout}"
        ),
    }
}

/// The length of the newest time that is not proven before the next echo.
fn fresh(settings: &EvidenceSettings) -> TimeDelta {
    let longest = settings.confirm_interval.saturating_mul(3).saturating_add(settings.settle);
    TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX)
}

/// The evidence as one sentence, without the status. Of a silence that is not longer than `fresh`,
/// it does not say how much was listened to: that the next echo has not come yet is no doubt.
fn reason(evidence: &Evidence, fresh: TimeDelta) -> String {
    let silence = text::duration(evidence.until - evidence.silent_since);
    let listened = text::duration(evidence.listened);
    let timeout = crate::duration::exact(evidence.timeout.to_std().unwrap_or_default());
    let until = text::time(Some(evidence.until));
    match evidence.verdict {
        // Found by a version that kept nothing else.
        Verdict::Offline if evidence.listened <= evidence.timeout => {
            format!("found silent by the check at {until}; the evidence for it was not kept")
        }
        Verdict::Offline => format!(
            "{listened} of its {silence} of silence until the check at {until} were listened to, \
             more than its timeout of {timeout}"
        ),
        Verdict::Silent => format!(
            "{listened} of its {silence} of silence were listened to, more than its timeout of \
             {timeout}: the next check takes it offline"
        ),
        Verdict::NotSilent if evidence.until - evidence.silent_since <= fresh => format!(
            "heard {silence} ago; it goes offline once more than {timeout} of silence have been \
             listened to"
        ),
        Verdict::NotSilent => format!(
            "heard {silence} ago, {listened} of which were listened to; it goes offline once that \
             exceeds {timeout}"
        ),
    }
}

/// The parts of the silence that do not count. With what was listened to they make up the silence,
/// if that is told.
fn not_counted(evidence: &Evidence, settings: &EvidenceSettings) -> Vec<String> {
    let fresh = fresh(settings);
    let silence = evidence.until - evidence.silent_since;
    if gaps_are_forgotten(evidence, fresh) {
        let rest = text::duration(silence - evidence.listened);
        return vec![format!("the other {rest}; the gaps are not kept any more")];
    }
    let all = evidence.verdict != Verdict::NotSilent || silence > fresh;
    let is_told = |gap: &&Gap| {
        gap.cause.is_some()
            || all && gap.interval.length() >= SHOWN
            || gap.interval.length() > fresh
    };
    let gaps: Vec<_> = evidence.gaps.iter().filter(is_told).collect();
    let (older, newest) = gaps.split_at(gaps.len().saturating_sub(LISTED_GAPS));
    let together: TimeDelta = older.iter().map(|gap| gap.interval.length()).sum();
    let older_told = (!older.is_empty()).then(|| {
        format!("{} older gaps of {} together, and", older.len(), text::duration(together))
    });
    let told = newest.iter().map(|gap| part_in_words(evidence, gap, fresh));
    older_told.into_iter().chain(told).collect()
}

/// A part of a silence that does not count, as a sentence without its full stop.
fn part_in_words(evidence: &Evidence, gap: &Gap, fresh: TimeDelta) -> String {
    let is_offline = evidence.verdict == Verdict::Offline;
    let is_awaited = gap.cause.is_none()
        && gap.interval.from >= evidence.known_until
        && (is_offline || gap.interval.length() <= fresh);
    if !is_awaited {
        return gap_of(&evidence.listeners, gap);
    }
    let at_the_check = if is_offline { " at the check" } else { "" };
    let by = of(&gap.unproven_by);
    format!("{}: not proven yet{at_the_check}{by}", stretch_in_words(&gap.interval))
}

/// The listening of each of several instances, in words.
fn listened_by(evidence: Option<&Evidence>) -> Vec<String> {
    evidence.into_iter().flat_map(|evidence| &evidence.listeners).map(listener_in_words).collect()
}

fn listener_in_words(listener: &Listener) -> String {
    let Interval { from, until } = listener.whole();
    let (from, until) = (text::time(Some(from)), text::time(Some(until)));
    let listened = text::duration(listener.listened());
    format!("{listened} by {} from {from} to {until}", listener.instance)
}

/// A gap as a sentence without its full stop, with the instance whose gap it is, if there are
/// several.
pub(crate) fn gap_of(listeners: &[Listener], gap: &Gap) -> String {
    let whose = Listener::whose(listeners, gap);
    // Of a gap of a share group its own words name the members.
    let told = whose.is_empty() || !gap.unproven_by.is_empty();
    let of = if told { String::new() } else { format!(" ({})", whose.join(", ")) };
    format!("{}{of}", gap_in_words(gap))
}

/// True for an offline device of whose silence only the sum that was listened to is left. A
/// device without any evidence has no gaps either, but its sentence says so. At the end of each
/// silence there may be `fresh` time that was not proven yet, which is not a gap.
fn gaps_are_forgotten(evidence: &Evidence, fresh: TimeDelta) -> bool {
    evidence.verdict == Verdict::Offline
        && evidence.gaps.is_empty()
        && evidence.listened > evidence.timeout
        && evidence.listened + fresh < evidence.until - evidence.silent_since
}

/// A gap as a sentence without its full stop.
pub(crate) fn gap_in_words(Gap { interval, cause, unproven_by }: &Gap) -> String {
    let cause = cause.map_or_else(
        || "nothing proves that the service was listening".to_owned(),
        |cause| cause.to_string(),
    );
    format!("{}: {cause}{}", stretch_in_words(interval), of(unproven_by))
}

fn stretch_in_words(interval: &Interval) -> String {
    let (from, until) = (text::time(Some(interval.from)), text::time(Some(interval.until)));
    format!("{} from {from} to {until}", text::duration(interval.length()))
}

/// The members of a group whose gap it is, in parentheses.
fn of(members: &[Arc<str>]) -> String {
    if members.is_empty() { String::new() } else { format!(" ({})", members.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Stay;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_435_200 + seconds, 0).expect("small")
    }

    fn gap(from: i64, until: i64, cause: Option<GapCause>) -> Gap {
        Gap::new(Interval { from: at(from), until: at(until) }, cause)
    }

    /// A device that was silent for 300 s, of which 120 s were listened to.
    fn evidence(verdict: Verdict, timeout: i64, gaps: Vec<Gap>) -> Evidence {
        Evidence {
            verdict,
            silent_since: at(0),
            until: at(300),
            timeout: TimeDelta::seconds(timeout),
            listened: TimeDelta::seconds(120),
            gaps,
            known_until: at(270),
            listeners: Vec::new(),
        }
    }

    fn explain(status: Status, evidence: Option<&Evidence>) -> Explanation {
        let settings = EvidenceSettings {
            instance: "heartbeatd".to_owned(),
            timeout: Duration::from_secs(180),
            confirm_interval: Duration::from_secs(4),
            settle: Duration::from_secs(3),
        };
        Explanation::of(status, evidence, &settings)
    }

    #[test]
    fn each_verdict_has_its_sentence() {
        for (status, verdict, timeout, expected) in [
            (
                Status::Error,
                Verdict::NotSilent,
                180,
                "error: heard 5 min ago, 2 min of which were listened to; it goes offline once that \
                 exceeds 3 min",
            ),
            (
                Status::Online,
                Verdict::Silent,
                60,
                "online: 2 min of its 5 min of silence were listened to, more than its timeout of 1 min: \
                 the next check takes it offline",
            ),
            (
                Status::Offline,
                Verdict::Offline,
                60,
                "offline: 2 min of its 5 min of silence until the check at 2026-11-23T12:05:00Z were \
                 listened to, more than its timeout of 1 min",
            ),
            (
                Status::Offline,
                Verdict::Offline,
                120,
                "offline: found silent by the check at 2026-11-23T12:05:00Z; the evidence for it \
                 was not kept",
            ),
        ] {
            let evidence = evidence(verdict, timeout, Vec::new());
            assert_eq!(explain(status, Some(&evidence)).sentence, expected);
        }
        // The next echo has not come yet, so nothing can have been listened to.
        for (seconds, expected) in [
            (
                15,
                "online: heard 15 s ago; it goes offline once more than 3 min of silence have been \
                 listened to",
            ),
            (
                16,
                "online: heard 16 s ago, 0 s of which were listened to; it goes offline once that \
                 exceeds 3 min",
            ),
        ] {
            let evidence = Evidence {
                until: at(seconds),
                listened: TimeDelta::zero(),
                ..evidence(Verdict::NotSilent, 180, Vec::new())
            };
            assert_eq!(explain(Status::Online, Some(&evidence)).sentence, expected);
        }
        let never_heard = explain(Status::Provisioning, None);
        assert_eq!(never_heard.sentence, "provisioning: never heard, so it cannot fall silent");
        assert!(never_heard.not_counted.is_empty());
    }

    /// 120 s, 165 s and 15 s are 300 s.
    #[test]
    fn the_gaps_and_the_newest_seconds_that_no_echo_has_proven_yet_are_told() {
        let told = |status, verdict, length: i64| {
            let restart = gap(120, 300 - length, Some(GapCause::NotRunning));
            let newest = gap(300 - length, 300, None);
            let evidence = Evidence {
                known_until: at(300 - length),
                ..evidence(verdict, 60, vec![restart, newest])
            };
            let [first, second] = &explain(status, Some(&evidence)).not_counted[..] else {
                panic!("both are told")
            };
            assert!(first.ends_with("the service was not running or not connected yet"), "{first}");
            second.clone()
        };
        let expected = "15 s from 2026-11-23T12:04:45Z to 2026-11-23T12:05:00Z: not proven yet";
        assert_eq!(told(Status::Online, Verdict::Silent, 15), expected);
        let at_the_check = format!("{expected} at the check");
        assert_eq!(told(Status::Offline, Verdict::Offline, 15), at_the_check);
        let expected = "16 s from 2026-11-23T12:04:44Z to 2026-11-23T12:05:00Z: nothing proves that \
                        the service was listening";
        assert_eq!(told(Status::Online, Verdict::Silent, 16), expected);
    }

    #[test]
    fn of_a_silence_of_seconds_the_time_that_no_echo_has_proven_yet_is_not_told() {
        let fresh = Evidence {
            until: at(15),
            known_until: at(10),
            listened: TimeDelta::seconds(10),
            ..evidence(Verdict::NotSilent, 180, vec![gap(10, 15, None)])
        };
        assert!(explain(Status::Online, Some(&fresh)).not_counted.is_empty());
    }

    #[test]
    fn what_is_not_proven_yet_names_the_members_that_are_late() {
        let late = Gap { unproven_by: vec!["hall-2".into()], ..gap(290, 300, None) };
        let told = explain(Status::Online, Some(&evidence(Verdict::NotSilent, 180, vec![late])));
        assert!(told.not_counted[0].ends_with("not proven yet (hall-2)"), "{told:?}");
    }

    #[test]
    fn a_gap_of_a_group_names_the_members_that_have_not_proven_it() {
        let names = ["hall-2", "hall-3"].map(Arc::from).to_vec();
        let stuck = Gap { unproven_by: names, ..gap(0, 60, Some(GapCause::NoEcho)) };
        let words = gap_in_words(&stuck);
        assert!(words.ends_with(": no echo came back in time (hall-2, hall-3)"), "{words}");
    }

    #[test]
    fn of_several_instances_each_is_named_with_what_it_has_listened_to_and_missed() {
        let stay = |listener: i64, instance: &str, (from, until): (i64, i64)| Stay {
            listener,
            instance: instance.to_owned(),
            clock: crate::domain::ClockOffset::default(),
            share_group: None,
            timeline: String::new(),
            subscription: None,
            joined_at: at(from),
            ended_by_itself: false,
            left_at: Some(at(until)),
            listened: vec![crate::domain::Listened {
                interval: Interval { from: at(from), until: at(until) },
                after: Some(GapCause::Stopped),
            }],
        };
        let stays = [stay(1, "hall-b", (-10, 50)), stay(2, "hall-a", (230, 300))];
        let judge = Judge::named("hall-a", &stays);
        let coverage = Coverage::of_stays(Duration::from_secs(5), &stays, judge);
        let gaps = coverage.gaps(at(0), at(300));
        let told = Evidence { known_until: at(300), ..evidence(Verdict::NotSilent, 180, gaps) };
        let told = told.listened_by(&stays, judge);
        let told = explain(Status::Online, Some(&told));
        let expected = [
            "49 s by hall-b from 2026-11-23T12:00:00Z to 2026-11-23T12:00:49Z",
            "1 min 10 s by hall-a from 2026-11-23T12:03:50Z to 2026-11-23T12:05:00Z",
        ];
        assert_eq!(told.listeners, expected);
        let gap = "3 min from 2026-11-23T12:00:49Z to 2026-11-23T12:03:50Z: the process was \
                   stopped (hall-a)";
        assert_eq!(told.not_counted, [gap]);
        let one = evidence(Verdict::NotSilent, 180, Vec::new()).listened_by(&stays[..1], judge);
        assert!(explain(Status::Online, Some(&one)).listeners.is_empty());
    }

    #[test]
    fn of_many_gaps_the_older_ones_are_counted() {
        let gaps = (0..30).map(|n| gap(6 * n, 6 * n + 1, Some(GapCause::NoEcho))).collect();
        let told = explain(Status::Online, Some(&evidence(Verdict::NotSilent, 180, gaps)));
        assert_eq!(told.not_counted.len(), 1 + LISTED_GAPS);
        assert_eq!(told.not_counted[0], "10 older gaps of 10 s together, and");
        assert!(told.not_counted[1].contains("from 2026-11-23T12:01:00Z"));
    }

    #[test]
    fn gaps_that_are_not_kept_any_more_are_said_to_be() {
        let told = explain(Status::Offline, Some(&evidence(Verdict::Offline, 60, Vec::new())));
        assert_eq!(told.not_counted, ["the other 3 min; the gaps are not kept any more"]);
        let imported = evidence(Verdict::Offline, 180, Vec::new());
        assert!(explain(Status::Offline, Some(&imported)).not_counted.is_empty());
    }

    #[test]
    fn the_newest_seconds_of_an_offline_device_are_not_a_forgotten_gap() {
        for (unproven, told) in [(15, 0), (16, 1)] {
            let silence = evidence(Verdict::Offline, 60, Vec::new());
            let listened = silence.until - silence.silent_since - TimeDelta::seconds(unproven);
            let evidence = Evidence { listened, ..silence };
            let not_counted = explain(Status::Offline, Some(&evidence)).not_counted;
            assert_eq!(not_counted.len(), told, "{unproven} s: {not_counted:?}");
        }
    }
}
