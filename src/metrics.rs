//! The service's metrics, for Prometheus.

mod process;
mod text_format;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::domain::payload::{self, DroppedField};
use crate::domain::{EchoIgnored, NodeState, PayloadError, Rejection, Status, Transition};
use crate::store::OutboxSize;

/// The metrics of one [`App`](crate::App); shared by its actors.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    open_files: Gauge,
    max_files: Gauge,
    heartbeats: Counter,
    rejected: Family<Reason, Counter>,
    receiver_connections: Gauge,
    receiver_refused: Family<Reason, Counter>,
    event_streams: Gauge,
    refusals: Vec<&'static str>,
    payload_errors: Family<Reason, Counter>,
    fields_dropped: Family<Field, Counter>,
    devices: Family<StatusLabel, Gauge>,
    transitions: Family<FromTo, Counter>,
    pending: Gauge,
    listening: Gauge,
    proven_until: Gauge<f64, AtomicU64>,
    flush_duration: Histogram,
    check_duration: Histogram,
    detection_delay: Histogram,
    echo_latency: Histogram,
    last_echoes: Mutex<VecDeque<f64>>,
    blind_seconds: Counter<f64, AtomicU64>,
    unmatched: Counter,
    unreadable_rows: Counter,
    echoes_ignored: Family<Reason, Counter>,
    stalled: Gauge<f64, AtomicU64>,
    checks_failed: Counter,
    last_check: Gauge<f64, AtomicU64>,
    outbox: Gauge,
    outbox_age: Gauge<f64, AtomicU64>,
    delivered: Counter,
    deliveries_failed: Family<Reason, Counter>,
    given_up: Counter,
    recoveries_delivered: Counter,
    recoveries_given_up: Counter,
    entries: Family<State, Gauge>,
    listeners: Family<State, Gauge>,
    active: Gauge,
    takeovers: Counter,
    fences: Counter,
    group_blind: Counter<f64, AtomicU64>,
    group_proven: Gauge<f64, AtomicU64>,
    clock_offset: Gauge<f64, AtomicU64>,
    barred: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Field {
    field: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FromTo {
    from: &'static str,
    to: &'static str,
}

/// The number of echoes whose times are remembered.
const LAST_ECHOES: usize = 1000;

/// The labels of the build.
const BUILD: [(&str, &str); 1] = [("version", env!("CARGO_PKG_VERSION"))];

/// The reasons for which a delivery fails.
const DELIVERY_FAILURES: [&str; 3] = ["sink", "timeout", "outbox"];

/// The buckets from one millisecond, the time of a small flush, to half a minute.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The buckets from a second to an hour, because a detection waits for the next check.
const DELAY_SECONDS: [f64; 10] = [1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0];

/// Something that is counted until this is dropped: a client of the receiver, an event stream.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn by(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Creates all metrics, at zero.
    pub fn new() -> Self {
        let mut all = Registry::default();
        // The names that every Prometheus exporter uses for these two.
        let r = &mut all;
        let open_files = add(r, "process_open_fds", "Open file descriptors", Gauge::default());
        let max_files =
            add(r, "process_max_fds", "Maximum number of open file descriptors", Gauge::default());
        r.register_collector(Box::new(process::Process));
        let r = all.sub_registry_with_prefix("heartbeatd");
        r.register("build", "The version of the service", Info::new(BUILD));
        let metrics = Self {
            heartbeats: add(r, "heartbeats", "Heartbeats accepted", Counter::default()),
            rejected: add(
                r,
                "heartbeats_rejected",
                "Messages that are not evidence of life, by reason",
                Family::default(),
            ),
            receiver_connections: add(
                r,
                "receiver_connections",
                "Clients connected to the embedded broker, this service's own included",
                Gauge::default(),
            ),
            receiver_refused: add(
                r,
                "receiver_refused",
                "Connections and messages that the embedded broker refused, ended or read later, by reason",
                Family::default(),
            ),
            event_streams: add(
                r,
                "event_streams",
                "Event streams that are open, of http.max_streams",
                Gauge::default(),
            ),
            payload_errors: add(
                r,
                "payload_errors",
                "Heartbeats with an unreadable payload, which counts as empty, by reason",
                Family::default(),
            ),
            fields_dropped: add(
                r,
                "heartbeat_fields_dropped",
                "Fields of a wrong type in accepted heartbeats, by field",
                Family::default(),
            ),
            devices: add(
                r,
                "devices",
                "Registered devices by status, as of the last check and what this instance has changed since",
                Family::default(),
            ),
            transitions: add(r, "transitions", "Status changes", Family::default()),
            pending: add(
                r,
                "pending_heartbeats",
                "Heartbeats that are not yet in the database",
                Gauge::default(),
            ),
            listening: add(
                r,
                "listening",
                "1 while all heartbeats are received and echoes prove it, else 0",
                Gauge::default(),
            ),
            proven_until: add(
                r,
                "proven_timestamp_seconds",
                "Unix time up to which every heartbeat is proven to have been received",
                Gauge::default(),
            ),
            flush_duration: add(
                r,
                "flush_duration_seconds",
                "Time to write the pending heartbeats",
                Histogram::new(SECONDS),
            ),
            check_duration: add(
                r,
                "check_duration_seconds",
                "Time to find and mark the silent devices",
                Histogram::new(SECONDS),
            ),
            detection_delay: add(
                r,
                "offline_detection_delay_seconds",
                "Time from the end of a device's timeout until it is marked offline",
                Histogram::new(DELAY_SECONDS),
            ),
            echo_latency: add(
                r,
                "echo_latency_seconds",
                "Time from publishing an echo until it is taken out of the inbox",
                Histogram::new(SECONDS),
            ),
            last_echoes: Mutex::default(),
            blind_seconds: add(
                r,
                "blind_seconds",
                "Time in which the service was not listening, counted when it ends",
                Counter::default(),
            ),
            unreadable_rows: add(
                r,
                "unreadable_rows",
                "Unreadable rows of the database that were left out, counted at each check",
                Counter::default(),
            ),
            unmatched: add(
                r,
                "messages_unmatched",
                "Messages on topics that are not a device's",
                Counter::default(),
            ),
            echoes_ignored: add(
                r,
                "echoes_ignored",
                "Messages on the echo topic that prove nothing, by reason",
                Family::default(),
            ),
            stalled: add(
                r,
                "database_stalled_seconds",
                "Time for which the database has taken nothing; 0 unless that is a fault",
                Gauge::default(),
            ),
            checks_failed: add(
                r,
                "checks_failed",
                "Checks for silent devices that failed",
                Counter::default(),
            ),
            last_check: add(
                r,
                "last_check_timestamp_seconds",
                "Unix time of the last successful check",
                Gauge::default(),
            ),
            outbox: add(
                r,
                "outbox_alerts",
                "Alerts that wait for delivery, as of the last check or delivery",
                Gauge::default(),
            ),
            outbox_age: add(
                r,
                "outbox_age_seconds",
                "Age of the oldest alert that waits for delivery, as of the last check, and 0 once none waits",
                Gauge::default(),
            ),
            delivered: add(
                r,
                "alerts_delivered",
                "Alerts that the alert sink has accepted",
                Counter::default(),
            ),
            deliveries_failed: add(
                r,
                "deliveries_failed",
                "Deliveries that failed, or took longer than alerts.timeout, by reason",
                Family::default(),
            ),
            given_up: add(
                r,
                "alerts_given_up",
                "Alerts given up because the alert sink refused them while it accepted others",
                Counter::default(),
            ),
            recoveries_delivered: add(
                r,
                "recoveries_delivered",
                "Recoveries that the recovery sink has accepted",
                Counter::default(),
            ),
            recoveries_given_up: add(
                r,
                "recoveries_given_up",
                "Recoveries given up because the recovery sink refused them while the sinks accepted others",
                Counter::default(),
            ),
            entries: add(
                r,
                "entries",
                "Other nodes of mqtt.entry_urls, by whether echoes come back through them",
                Family::default(),
            ),
            listeners: add(
                r,
                "listeners",
                "Instances on the database that have not left, by state",
                Family::default(),
            ),
            active: add(
                r,
                "active",
                "1 while this instance checks and delivers, 0 while another one does",
                Gauge::default(),
            ),
            takeovers: add(
                r,
                "takeovers",
                "Times that this instance has taken over from another one",
                Counter::default(),
            ),
            fences: add(
                r,
                "fences",
                "Members that this instance took out of the group because they had stopped",
                Counter::default(),
            ),
            group_blind: add(
                r,
                "group_blind_seconds",
                "Seconds in which some member of the group had not listened, so that silence did not count",
                Counter::default(),
            ),
            group_proven: add(
                r,
                "group_proven_age_seconds",
                "Age of the newest proof of all members of the group, at the last look; 0 without a group",
                Gauge::default(),
            ),
            barred: add(
                r,
                "barred",
                "1 while this instance does not take part, because another one on the database listens to something else",
                Gauge::default(),
            ),
            clock_offset: add(
                r,
                "clock_offset_seconds",
                "This instance's clock minus the database's, as far as it was measured",
                Gauge::default(),
            ),
            open_files,
            max_files,
            refusals: Vec::new(),
            registry: Registry::default(),
        };
        metrics.begin_at_zero();
        Self { registry: all, ..metrics }
    }

    /// The same metrics, with a series for each of these reasons to refuse a client of the
    /// receiver.
    #[must_use]
    pub fn with_refusals(mut self, reasons: impl IntoIterator<Item = &'static str>) -> Self {
        self.refusals = reasons.into_iter().collect();
        for &reason in &self.refusals {
            let _at_zero = self.receiver_refused.get_or_create(&Reason { reason });
        }
        self
    }

    /// The number of connections and messages that the receiver has refused, for each reason.
    pub(crate) fn refused(&self) -> Vec<(&'static str, u64)> {
        let count =
            |&reason| (reason, self.receiver_refused.get_or_create(&Reason { reason }).get());
        self.refusals.iter().map(count).collect()
    }

    /// Sets the number of alerts that wait, after some were delivered.
    pub(crate) fn set_undelivered(&self, alerts: u64) {
        self.outbox.set(i64::try_from(alerts).unwrap_or(i64::MAX));
        if alerts == 0 {
            self.outbox_age.set(0.0);
        }
    }

    /// Creates every possible series. A rate over a series that appears with its first
    /// event misses that event, and an alarm on a series that does not exist cannot be
    /// tried out.
    fn begin_at_zero(&self) {
        for (family, reasons) in [
            (&self.rejected, &Rejection::REASONS[..]),
            (&self.payload_errors, &PayloadError::REASONS),
            (&self.echoes_ignored, &EchoIgnored::ALL.map(EchoIgnored::as_str)),
            (&self.deliveries_failed, &DELIVERY_FAILURES),
        ] {
            for reason in reasons {
                let _at_zero = family.get_or_create(&Reason { reason });
            }
        }
        self.set_listeners([0; 3]);
        self.set_entries([0; 3]);
        for field in payload::FIELDS {
            let _at_zero = self.fields_dropped.get_or_create(&Field { field });
        }
        for from in Status::ALL {
            let _at_zero = self.devices.get_or_create(&StatusLabel { status: from.as_str() });
            let next = [from.on_heartbeat(false), from.on_heartbeat(true), from.on_silence()];
            for to in next.into_iter().filter(|to| *to != from) {
                let (from, to) = (from.as_str(), to.as_str());
                let _at_zero = self.transitions.get_or_create(&FromTo { from, to });
            }
        }
    }

    /// Returns all metrics in the text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    ///
    /// Never, because writing to a `String` does not fail.
    pub fn encode_text(&self) -> Result<String, fmt::Error> {
        self.encode().map(|page| text_format::from_open_metrics(&page))
    }

    /// Returns all metrics in the format OpenMetrics, version 1.0.0.
    ///
    /// # Errors
    ///
    /// Never, because writing to a `String` does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }

    /// Sets the number of open files and its limit.
    pub fn set_open_files(&self, open: u64, max: u64) {
        self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.max_files.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// Sets if this instance is the active one.
    pub(crate) fn set_active(&self, is_active: bool) {
        self.active.set(i64::from(is_active));
    }

    /// Sets the number of instances.
    pub(crate) fn set_listeners(&self, [active, standby, member]: [u64; 3]) {
        for (state, count) in [("active", active), ("standby", standby), ("member", member)] {
            let gauge = self.listeners.get_or_create(&State { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets the number of other nodes at which devices enter, in the order of [`NodeState::ALL`].
    pub(crate) fn set_entries(&self, counts: [usize; 3]) {
        for (state, count) in NodeState::ALL.into_iter().zip(counts) {
            let gauge = self.entries.get_or_create(&State { state: state.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts that this instance has taken over from another one.
    pub(crate) fn took_over(&self) {
        self.takeovers.inc();
    }

    /// Counts a member that this instance took out of the group.
    pub(crate) fn fenced(&self) {
        self.fences.inc();
    }

    /// Counts time in which some member of the group had not listened.
    pub(crate) fn group_blind(&self, seconds: f64) {
        self.group_blind.inc_by(seconds);
    }

    /// Sets the age of the newest proof of all members of the group.
    pub(crate) fn set_group_proven(&self, seconds: f64) {
        self.group_proven.set(seconds);
    }

    /// Sets if this instance does not take part.
    pub(crate) fn set_barred(&self, is_barred: bool) {
        self.barred.set(i64::from(is_barred));
    }

    /// Sets this instance's clock minus the database's.
    pub(crate) fn set_clock_offset(&self, seconds: f64) {
        self.clock_offset.set(seconds);
    }

    /// Counts accepted heartbeats.
    pub fn heartbeats_accepted(&self, count: u64) {
        self.heartbeats.inc_by(count);
    }

    /// Counts a message that is not evidence of life.
    pub fn rejected(&self, rejection: &Rejection) {
        let reason = rejection.reason();
        debug_assert!(Rejection::REASONS.contains(&reason), "{reason} is not in the list");
        self.rejected.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a client at the receiver until the result is dropped.
    pub(crate) fn receiver_connected(&self) -> Counted {
        Counted::by(&self.receiver_connections)
    }

    /// Counts an event stream until the result is dropped.
    pub(crate) fn stream_opened(&self) -> Counted {
        Counted::by(&self.event_streams)
    }

    /// Counts connections or messages that the receiver refused.
    pub(crate) fn receiver_refused(&self, reason: &'static str, count: u64) {
        self.receiver_refused.get_or_create(&Reason { reason }).inc_by(count);
    }

    /// Counts messages thrown away unread because too many were waiting.
    pub fn shed(&self, count: u64) {
        self.rejected.get_or_create(&Reason { reason: "shed" }).inc_by(count);
    }

    /// Records the time after which an echo came back.
    pub fn echoed(&self, seconds: f64) {
        self.echo_latency.observe(seconds);
        let mut last = self.last_echoes.lock();
        if last.len() == LAST_ECHOES {
            last.pop_front();
        }
        last.push_back(seconds);
    }

    /// The seconds within which these shares of the last thousand echoes came back; `None`
    /// before the first one.
    pub fn echo_latency<const N: usize>(&self, shares: [f64; N]) -> [Option<f64>; N] {
        let mut last: Vec<f64> = self.last_echoes.lock().iter().copied().collect();
        last.sort_unstable_by(f64::total_cmp);
        shares.map(|share| {
            let rank = (share * last.len() as f64).ceil() as usize;
            last.get(rank.saturating_sub(1)).copied()
        })
    }

    /// Counts time in which the service was not listening.
    pub fn blind(&self, seconds: f64) {
        self.blind_seconds.inc_by(seconds);
    }

    /// Counts a message that is not a device's.
    pub fn unmatched(&self) {
        self.unmatched.inc();
    }

    /// Counts a payload that could not be read, as a whole or in part.
    pub fn payload_unreadable(&self, error: &PayloadError) {
        if let Some(reason) = error.reason() {
            debug_assert!(PayloadError::REASONS.contains(&reason), "{reason} is not in the list");
            self.payload_errors.get_or_create(&Reason { reason }).inc();
        }
        for DroppedField { name: field, .. } in error.dropped_fields() {
            debug_assert!(payload::FIELDS.contains(field), "{field} is not in the list");
            self.fields_dropped.get_or_create(&Field { field }).inc();
        }
    }

    /// Counts a message on the echo topic that proves nothing.
    pub fn echo_ignored(&self, why: EchoIgnored) {
        self.echoes_ignored.get_or_create(&Reason { reason: why.as_str() }).inc();
    }

    /// Sets the number of heartbeats that are not written yet.
    pub fn set_pending(&self, heartbeats: usize) {
        self.pending.set(i64::try_from(heartbeats).unwrap_or(i64::MAX));
    }

    /// Sets the instant up to which everything is proven to have been received.
    pub fn set_proven(&self, until: DateTime<Utc>) {
        self.proven_until.set(until.timestamp_millis() as f64 / 1000.0);
    }

    /// Sets whether heartbeats are received and echoes prove it.
    pub fn set_listening(&self, listening: bool) {
        self.listening.set(listening.into());
    }

    /// Sets the number of devices in each status.
    pub fn set_devices(&self, counts: &BTreeMap<Status, u64>) {
        for (status, count) in counts {
            let gauge = self.devices.get_or_create(&StatusLabel { status: status.as_str() });
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// Counts newly registered devices; their transitions follow.
    pub fn registered(&self, count: u64) {
        let label = StatusLabel { status: Status::Provisioning.as_str() };
        self.devices.get_or_create(&label).inc_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a device no more that was removed.
    pub(crate) fn removed(&self, status: Status) {
        self.devices.get_or_create(&StatusLabel { status: status.as_str() }).dec();
    }

    /// Counts status changes.
    pub fn changed(&self, transitions: &[Transition]) {
        for Transition { from, to, cutoff, last_seen_at, .. } in transitions {
            let (from, to) = (from.as_str(), to.as_str());
            self.transitions.get_or_create(&FromTo { from, to }).inc();
            self.devices.get_or_create(&StatusLabel { status: from }).dec();
            self.devices.get_or_create(&StatusLabel { status: to }).inc();
            if let (Some(cutoff), Some(last_seen_at)) = (cutoff, last_seen_at) {
                let delay = (*cutoff - *last_seen_at).num_milliseconds();
                self.detection_delay.observe(delay as f64 / 1000.0);
            }
        }
    }

    /// Records the duration of a flush.
    pub fn flushed(&self, seconds: f64) {
        self.flush_duration.observe(seconds);
    }

    /// Records the duration of a check that succeeded at `at`.
    pub fn checked(&self, seconds: f64, at: DateTime<Utc>) {
        self.check_duration.observe(seconds);
        self.last_check.set(at.timestamp_millis() as f64 / 1000.0);
    }

    /// Counts unreadable rows of the database that were left out.
    pub fn unreadable(&self, rows: u64) {
        self.unreadable_rows.inc_by(rows);
    }

    /// Counts a check that failed.
    pub fn check_failed(&self) {
        self.checks_failed.inc();
    }

    /// Sets the time for which the database has taken nothing.
    pub fn set_stalled(&self, time: Duration) {
        self.stalled.set(time.as_secs_f64());
    }

    /// Sets the size and the age of the outbox as of `at`.
    pub fn set_outbox(&self, outbox: &OutboxSize, at: DateTime<Utc>) {
        self.outbox.set(i64::try_from(outbox.alerts).unwrap_or(i64::MAX));
        let age = outbox.oldest.map_or(TimeDelta::zero(), |oldest| at - oldest);
        self.outbox_age.set(age.num_milliseconds().max(0) as f64 / 1000.0);
    }

    /// Counts delivered alerts.
    pub fn delivered(&self, alerts: u64) {
        self.delivered.inc_by(alerts);
    }

    /// Counts a delivery that failed.
    pub fn delivery_failed(&self, reason: &'static str) {
        debug_assert!(DELIVERY_FAILURES.contains(&reason), "{reason} is not in the list");
        self.deliveries_failed.get_or_create(&Reason { reason }).inc();
    }

    /// Counts delivered recoveries.
    pub fn recoveries_delivered(&self, recoveries: u64) {
        self.recoveries_delivered.inc_by(recoveries);
    }

    /// Counts a recovery that was given up.
    pub fn gave_up_recovery(&self) {
        self.recoveries_given_up.inc();
    }

    /// Counts an alert that was given up.
    pub fn gave_up(&self) {
        self.given_up.inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers a metric and keeps a handle; handles share their value.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_echoes_tell_how_long_one_takes() {
        let metrics = Metrics::new();
        assert_eq!(metrics.echo_latency([0.5, 0.99]), [None, None]);
        metrics.echoed(7.0);
        assert_eq!(metrics.echo_latency([0.5, 0.99]), [Some(7.0), Some(7.0)]);
        (1..=LAST_ECHOES).for_each(|n| metrics.echoed(n as f64));
        assert_eq!(metrics.echo_latency([0.5, 0.99]), [Some(500.0), Some(990.0)]);
    }

    #[test]
    fn every_family_has_its_series_at_zero_before_anything_happens() {
        let refusals = ["max_connections_per_address", "taken_over"];
        let metrics = Metrics::new().with_refusals(refusals);
        let page = metrics.encode().expect("it prints");
        let families: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert!(families.len() > 25, "{page}");
        for family in families {
            let is_series = |line: &&str| {
                let of_family = line.strip_prefix(family);
                of_family.is_some_and(|rest| rest.starts_with(['{', '_', ' ']))
                    && !line.starts_with('#')
            };
            let series: Vec<_> = page.lines().filter(is_series).collect();
            assert!(!series.is_empty(), "{family} has no series");
            // The process exists.
            let exists = family.starts_with("process_") || family == "heartbeatd_build";
            for line in series.into_iter().filter(|_| !exists) {
                assert!(line.ends_with(" 0") || line.ends_with(" 0.0"), "{line}");
            }
        }
        for series in [
            r#"heartbeatd_heartbeats_rejected_total{reason="retained"} 0"#,
            r#"heartbeatd_payload_errors_total{reason="not_json"} 0"#,
            r#"heartbeatd_heartbeat_fields_dropped_total{field="timestamp"} 0"#,
            r#"heartbeatd_transitions_total{from="online",to="offline"} 0"#,
            r#"heartbeatd_deliveries_failed_total{reason="timeout"} 0"#,
            r#"heartbeatd_echoes_ignored_total{reason="late"} 0"#,
            r#"heartbeatd_receiver_refused_total{reason="max_connections_per_address"} 0"#,
            r#"heartbeatd_receiver_refused_total{reason="taken_over"} 0"#,
        ] {
            assert!(page.lines().any(|line| line == series), "no {series} in {page}");
        }
    }
}
