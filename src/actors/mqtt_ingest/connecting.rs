//! Explains in the log why there is no connection: once for each attempt, and with each
//! reminder. Also warns of connections that do not last.

use std::time::{Duration, Instant};

use log::{error, info, warn};

use super::TARGET;
use crate::duration::human;
use crate::logging::outage::Outage;
use crate::mqtt::ClientError;

/// The time that an attempt to connect may take before it is diagnosed. The client itself
/// gives an attempt ten seconds.
pub(super) const DOUBTED_AFTER: Duration = Duration::from_secs(3);

/// A connection that lasts for less than this was lost right after it was made.
const EARLY: Duration = Duration::from_secs(5);

/// The number of early losses in a row that are more than a coincidence.
const LOST_EARLY: u32 = 3;

/// The newest attempt to connect, and the time without a connection.
pub(super) struct Connecting {
    /// The address of the broker.
    broker: String,
    /// The name by which the broker knows this client.
    client_id: String,
    attempt: Attempt,
    /// The time without a connection, while there is none.
    down: Option<Outage>,
    /// The reason for that, as far as it is known: what a diagnosis has found, or why the last
    /// connection was lost.
    known: Option<String>,
    losses: EarlyLosses,
}

/// An attempt to connect.
#[derive(Default)]
struct Attempt {
    number: u64,
    /// True if the broker has refused it. A probe does not know better.
    refused: bool,
    /// True once it has succeeded, or once the log says why it does not.
    explained: bool,
}

impl Connecting {
    /// The state before the first attempt. There is no connection yet at `now`.
    pub(super) fn new(broker: &str, client_id: &str, now: Instant) -> Self {
        Self {
            broker: broker.to_owned(),
            client_id: client_id.to_owned(),
            attempt: Attempt::default(),
            down: Some(Outage::begin(now)),
            known: None,
            losses: EarlyLosses::new(now),
        }
    }

    /// Begins an attempt and returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        let number = self.attempt.number + 1;
        self.attempt = Attempt { number, ..Attempt::default() };
        number
    }

    /// True if this is the number of the newest attempt. Earlier ones no longer matter.
    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.attempt.number == number
    }

    /// Notes that the newest attempt has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.attempt.explained = true;
    }

    /// Notes why the newest attempt has failed.
    pub(super) fn failed(&mut self, error: ClientError) {
        if let Some(down) = &mut self.down {
            self.attempt.refused = matches!(error, ClientError::Refused(_));
            down.because(match error {
                ClientError::Connect(why) | ClientError::Refused(why) => why,
                other => other.to_string(),
            });
        }
    }

    /// True if a diagnosis is needed to explain the newest attempt.
    pub(super) fn needs_diagnosis(&self) -> bool {
        self.down.is_some() && !self.attempt.explained && !self.attempt.refused
    }

    /// Logs once why the newest attempt does not succeed, if that is known. `found` is the
    /// reason that a diagnosis has just found.
    pub(super) fn explain(&mut self, found: Option<String>) {
        if let Some(why) = self.explanation(found) {
            let broker = &self.broker;
            error!(target: TARGET, broker; "cannot connect: {why}; retrying");
        }
    }

    fn explanation(&mut self, found: Option<String>) -> Option<String> {
        if self.down.is_none() || self.attempt.explained {
            return None;
        }
        // Without a reason it is slow, and may succeed yet.
        let why = self.why(found)?;
        self.attempt.explained = true;
        Some(why)
    }

    /// The reason why there is no connection: the one that was just found, or else what the
    /// client said last.
    fn why(&self, found: Option<String>) -> Option<String> {
        found.or_else(|| self.down.as_ref()?.why().map(str::to_owned))
    }

    /// Notes what a diagnosis has found.
    pub(super) fn found(&mut self, found: Option<&str>) {
        if let Some(found) = found {
            self.known = Some(found.to_owned());
        }
    }

    /// The reason why there is no connection, if it is known.
    pub(super) fn reason(&self) -> Option<String> {
        self.known.clone().or_else(|| self.why(None))
    }

    /// Returns for how long there has been no connection, if it is time for a reminder.
    pub(super) fn due(&mut self, now: Instant) -> Option<Duration> {
        self.down.as_mut()?.remind(now)
    }

    /// Logs a reminder that there has been no connection for `lasts`. `found` is the reason
    /// that a diagnosis has just found.
    pub(super) fn remind(&self, lasts: Duration, found: Option<String>) {
        let why = self.why(found).map_or(String::new(), |why| format!(": {why}"));
        let (broker, seconds) = (&self.broker, lasts.as_secs());
        error!(
            target: TARGET, broker, seconds;
            "not connected for {}{why}; retrying", human(lasts)
        );
    }

    /// Notes and logs that a connection was made.
    pub(super) fn made(&mut self, now: Instant) {
        (self.down, self.known) = (None, None);
        self.losses.made(now);
        info!(target: TARGET, broker = self.broker; "connected");
    }

    /// Notes that there is no connection from now on.
    pub(super) fn is_down(&mut self, now: Instant) {
        self.down = Some(Outage::begin(now));
    }

    /// Notes and logs that the connection was lost. Two clients with the same id, for
    /// example, throw each other off the broker forever.
    pub(super) fn lost(&mut self, why: &str, now: Instant) {
        self.is_down(now);
        self.known = Some(why.to_owned());
        let (broker, seconds) = (&self.broker, self.losses.lasted(now).as_secs());
        warn!(target: TARGET, broker, seconds; "disconnected: {why}; reconnecting");
        if self.losses.lost(now) {
            let client_id = &self.client_id;
            warn!(
                target: TARGET, client_id, times = LOST_EARLY;
                "the connection is lost again and again right after it was made: does another \
                 client use mqtt.client_id = {client_id:?}? Each client needs its own. Or the broker \
                 closes it because it forbids what this client publishes or subscribes to"
            );
        }
    }
}

/// Counts the connections that do not last.
struct EarlyLosses {
    /// The time at which the newest connection was made.
    made: Instant,
    /// The number of connections in a row that were lost right after they were made.
    in_a_row: u32,
}

impl EarlyLosses {
    fn new(now: Instant) -> Self {
        Self { made: now, in_a_row: 0 }
    }

    fn made(&mut self, now: Instant) {
        self.made = now;
    }

    /// The time since the newest connection was made.
    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    /// Notes that the connection was lost. Returns true once, when that is no longer a
    /// coincidence.
    fn lost(&mut self, now: Instant) -> bool {
        if self.lasted(now) >= EARLY {
            self.in_a_row = 0;
            return false;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.in_a_row == LOST_EARLY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connecting() -> Connecting {
        Connecting::new("mqtt://broker:1883", "heartbeatd", Instant::now())
    }

    fn said(why: &str) -> Option<String> {
        Some(why.to_owned())
    }

    #[test]
    fn a_reminder_says_what_was_just_found_or_else_what_the_client_said() {
        let mut connecting = connecting();
        assert_eq!(connecting.why(None), None);
        connecting.failed(ClientError::Connect("it is banned".to_owned()));
        assert_eq!(connecting.why(None), said("it is banned"));
        assert_eq!(connecting.why(said("no process listens")), said("no process listens"));
    }

    #[test]
    fn an_attempt_is_explained_once_and_the_next_one_again() {
        let mut connecting = connecting();
        for number in [1, 2] {
            assert_eq!(connecting.begin(), number);
            assert!(connecting.is_newest(number) && !connecting.is_newest(number - 1));
            connecting.failed(ClientError::Connect("failure".to_owned()));
            assert!(connecting.needs_diagnosis());
            let found = said("the port is closed");
            assert_eq!(connecting.explanation(found.clone()), found);
            assert!(!connecting.needs_diagnosis());
            assert_eq!(connecting.explanation(found), None);
        }
    }

    #[test]
    fn an_attempt_without_a_known_reason_is_explained_later() {
        let mut connecting = connecting();
        connecting.begin();
        assert_eq!(connecting.explanation(None), None);
        assert!(connecting.needs_diagnosis());
        let found = said("it accepts and stays silent");
        assert_eq!(connecting.explanation(found.clone()), found);
    }

    #[test]
    fn a_refusal_needs_no_diagnosis() {
        let mut connecting = connecting();
        connecting.begin();
        connecting.failed(ClientError::Refused("not authorized".to_owned()));
        assert!(!connecting.needs_diagnosis());
        assert_eq!(connecting.explanation(None), said("not authorized"));
    }

    #[test]
    fn an_attempt_that_succeeds_is_not_explained() {
        let found = said("the port is closed");
        let mut connecting = connecting();
        connecting.begin();
        connecting.succeeded();
        assert!(!connecting.needs_diagnosis());
        assert_eq!(connecting.explanation(found.clone()), None);

        connecting.begin();
        connecting.made(Instant::now());
        assert!(!connecting.needs_diagnosis());
        assert_eq!(connecting.explanation(found), None);
    }

    #[test]
    fn three_losses_right_after_connecting_are_not_a_coincidence_and_are_logged_once() {
        let began = Instant::now();
        let mut losses = EarlyLosses::new(began);
        let mut told_after = |lasts: Duration| {
            losses.made(began);
            losses.lost(began + lasts)
        };
        let early = EARLY - Duration::from_millis(1);
        assert_eq!([early; 4].map(&mut told_after), [false, false, true, false]);
        // One that lasts for long enough begins the count again.
        assert_eq!([EARLY, early, early, early].map(told_after), [false, false, false, true]);
    }
}
