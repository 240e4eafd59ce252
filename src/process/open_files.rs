//! Open files. Sockets are files, so a fleet at the embedded broker needs many. The
//! service raises its limit as far as it may, reserves some files for itself, and logs an
//! error when they run short. It does not start with fewer than it needs.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::logging::outage::Outage;
use crate::metrics::Metrics;

const TARGET: &str = "heartbeatd";

/// The time between two counts of the open files.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// The percentage of the limit above which files run short.
const SHORT_PERCENT: u64 = 90;

/// The number of files that clients of the embedded broker leave to the rest of the
/// service, besides its event streams: the database, HTTP, threads, and a margin.
const RESERVED: u64 = 128;

/// The least number of clients for which starting the embedded broker makes sense.
const LEAST_CLIENTS: u64 = 16;

/// The number of files that a tokio runtime has open: its poller twice, a waker, and a
/// copy of the socket that passes signals on.
const PER_RUNTIME: u64 = 4;

/// The number of files that the first runtime has open: both ends of that socket in
/// addition.
pub const MAIN_RUNTIME: u64 = PER_RUNTIME + 2;

/// The number of files that are open for a moment now and then: to ask a name server, to
/// read a certificate, to count the open files.
const PASSING: u64 = 4;

/// The least number of open files that a service or a command needs, part by part.
#[derive(Clone, Debug, Default)]
pub struct Needed {
    parts: Vec<(&'static str, u64)>,
    /// The number of files that clients leave to the rest; `None` without clients.
    left_by_clients: Option<u64>,
}

/// The limit of open files is too low to start.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, but at least {least} are needed: {needed}; raise the \
     limit (LimitNOFILE of the unit, ulimit -n)"
)]
pub struct TooFewFiles {
    /// The current limit of this process.
    limit: u64,
    /// The least limit that is enough.
    least: u64,
    /// The purposes of the needed files.
    needed: String,
}

impl Needed {
    /// The needs of a command: a runtime and a database.
    pub fn by_command(database: u64) -> Self {
        Self::default().with("the main thread", MAIN_RUNTIME).with("the database", database)
    }

    /// Adds `files` for `what`.
    #[must_use]
    pub fn with(mut self, what: &'static str, files: u64) -> Self {
        self.parts.push((what, files));
        self
    }

    /// Adds the files of `count` runtimes. Each actor has one, and so have HTTP and the
    /// embedded broker.
    #[must_use]
    pub fn runtimes(self, count: u64) -> Self {
        self.with("threads", count * PER_RUNTIME)
    }

    /// Adds the clients of the embedded broker, which leave those files alone that the rest of
    /// a service with so many event streams needs.
    #[must_use]
    pub fn clients(mut self, streams: u64) -> Self {
        self.left_by_clients = Some(RESERVED + streams);
        self
    }

    /// Checks that the limit is high enough, counting the files that are already open.
    ///
    /// # Errors
    ///
    /// If the limit is too low.
    pub fn check(&self) -> Result<(), TooFewFiles> {
        self.check_against(max_open(), open_files())
    }

    fn check_against(&self, limit: u64, open: u64) -> Result<(), TooFewFiles> {
        let own = open + PASSING + self.parts.iter().map(|(_, files)| files).sum::<u64>();
        let least = self.left_by_clients.map_or(own, |left| own.max(left) + LEAST_CLIENTS);
        if limit >= least {
            return Ok(());
        }
        let mut needed = format!("{open} are open already, {self}, {PASSING} for a moment");
        if least > own {
            needed = format!(
                "{needed}, and {} for HTTP's connections and for devices at the embedded broker, \
                 of which each needs one more",
                least - own
            );
        }
        Err(TooFewFiles { limit, least, needed })
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (what, files)) in self.parts.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{files} for {what}")?;
        }
        Ok(())
    }
}

/// Raises the limit of open files as far as the system allows, and logs a change. If the
/// system refuses, the limit stays as it was.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    match raise_by(limit, |raised| setrlimit(Resource::Nofile, raised).map_err(io::Error::from)) {
        Raised::NoNeed => (),
        Raised::To { from, to } => {
            info!(target: TARGET, from, to; "raised the limit of open files")
        }
        Raised::Refused { from, why } => {
            info!(target: TARGET, limit = from; "the limit of open files stays as it is: {why}");
        }
    }
}

/// The outcome of raising the limit.
#[derive(Debug)]
enum Raised {
    NoNeed,
    To { from: u64, to: String },
    Refused { from: u64, why: io::Error },
}

fn raise_by(limit: Rlimit, set: impl FnOnce(Rlimit) -> io::Result<()>) -> Raised {
    let Rlimit { current: Some(from), maximum } = limit else { return Raised::NoNeed };
    if maximum.is_some_and(|maximum| maximum <= from) {
        return Raised::NoNeed;
    }
    match set(Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            let to = maximum.map_or_else(|| "unlimited".to_owned(), |maximum| maximum.to_string());
            Raised::To { from, to }
        }
        Err(why) => Raised::Refused { from, why },
    }
}

/// The maximum number of files that may be open; [`u64::MAX`] if there is no limit.
pub fn max_open() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The maximum number of clients that the embedded broker may have, so that the rest of a
/// service with so many event streams keeps the files that it needs.
pub fn max_clients(streams: u64) -> u64 {
    clients_of(max_open(), streams)
}

fn clients_of(max_open: u64, streams: u64) -> u64 {
    max_open.saturating_sub(RESERVED + streams)
}

/// True if an error means that there are no files left.
pub fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Counts the open files regularly for the metrics, and logs an error when they run short.
/// Never resolves.
pub async fn watch(metrics: Arc<Metrics>) {
    let mut shortage = Shortage::default();
    loop {
        let (open, max) = (open_files(), max_open());
        metrics.set_open_files(open, max);
        shortage.judge(open, max, Instant::now()).tell();
        actix_rt::time::sleep(COUNT_INTERVAL).await;
    }
}

/// The number of open files. Counting needs one more file; if there is none, that is an
/// answer too.
fn open_files() -> u64 {
    match std::fs::read_dir("/proc/self/fd") {
        // The directory itself is one of them.
        Ok(files) => (files.count() as u64).saturating_sub(1),
        Err(error) if is_exhausted(&error) => max_open(),
        Err(_) => 0,
    }
}

/// The shortage of open files, if there is one.
#[derive(Debug, Default)]
struct Shortage(Option<Outage>);

/// The report that is due.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Short { open: u64, max: u64, seconds: u64 },
    Over { open: u64, max: u64 },
}

impl Shortage {
    fn judge(&mut self, open: u64, max: u64, now: Instant) -> Said {
        let short = open >= max.saturating_mul(SHORT_PERCENT) / 100;
        match (&mut self.0, short) {
            (None, false) => Said::Nothing,
            (None, true) => {
                self.0 = Some(Outage::begin(now));
                Said::Short { open, max, seconds: 0 }
            }
            (Some(_), false) => {
                self.0 = None;
                Said::Over { open, max }
            }
            (Some(shortage), true) => shortage
                .remind(now)
                .map_or(Said::Nothing, |lasts| Said::Short { open, max, seconds: lasts.as_secs() }),
        }
    }
}

impl Said {
    fn tell(&self) {
        match self {
            Self::Nothing => (),
            Self::Short { open, max, seconds } => error!(
                target: TARGET, open, max, seconds;
                "open files run short, and new connections will soon be refused; raise the limit \
                 (LimitNOFILE of the unit, ulimit -n)"
            ),
            Self::Over { open, max } => {
                info!(target: TARGET, open, max; "there are enough open files again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_allowed() {
        let limit = Rlimit { current: Some(1024), maximum: Some(4096) };
        let raised = raise_by(limit, |raised| {
            assert_eq!((raised.current, raised.maximum), (Some(4096), Some(4096)));
            Ok(())
        });
        assert!(matches!(raised, Raised::To { from: 1024, to } if to == "4096"));
    }

    #[test]
    fn a_limit_that_cannot_be_raised_is_left_alone() {
        let limit = Rlimit { current: Some(4096), maximum: Some(4096) };
        assert!(matches!(raise_by(limit, |_| panic!("no call is needed")), Raised::NoNeed));
        let limit = Rlimit { current: Some(1024), maximum: None };
        let refused = raise_by(limit, |_| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(matches!(refused, Raised::Refused { from: 1024, .. }));
    }

    #[test]
    fn clients_leave_files_to_the_service() {
        assert_eq!(clients_of(1_048_576, 0), 1_048_448);
        assert_eq!(clients_of(1024, 0), 896);
        assert_eq!(clients_of(1024, 64), 832);
        assert_eq!(clients_of(144, 0), 16);
        assert_eq!(clients_of(144, 64), 0);
    }

    #[test]
    fn too_low_a_limit_is_refused_with_the_limit_that_would_be_enough() {
        let needed = Needed::default().runtimes(2).with("the database", 20);
        assert!(needed.check_against(37, 5).is_ok());
        let error = needed.check_against(36, 5).expect_err("one is missing").to_string();
        let expected = "the limit of open files is 36, but at least 37 are needed: 5 are open \
                        already, 8 for threads, 20 for the database, 4 for a moment; raise the \
                        limit (LimitNOFILE of the unit, ulimit -n)";
        assert_eq!(error, expected);
    }

    #[test]
    fn an_embedded_broker_needs_files_for_devices_too() {
        for streams in [0, 64, 1000] {
            let needed = Needed::default().runtimes(2).with("event streams", streams);
            let (needed, least) = (needed.clients(streams), RESERVED + streams + LEAST_CLIENTS);
            assert!(needed.check_against(least, 5).is_ok());
            assert!(needed.check_against(least - 1, 5).is_err());
            // A parent may have left many open.
            assert!(needed.check_against(least, RESERVED).is_err());
        }
    }

    #[test]
    fn a_shortage_is_reported_repeated_and_ended() {
        let (mut shortage, start) = (Shortage::default(), Instant::now());
        let mut at =
            |seconds, open| shortage.judge(open, 1000, start + Duration::from_secs(seconds));
        assert_eq!(at(0, 899), Said::Nothing);
        assert_eq!(at(10, 900), Said::Short { open: 900, max: 1000, seconds: 0 });
        assert_eq!(at(20, 1000), Said::Nothing);
        assert_eq!(at(40, 950), Said::Short { open: 950, max: 1000, seconds: 30 });
        assert_eq!(at(50, 800), Said::Over { open: 800, max: 1000 });
        assert_eq!(at(60, 800), Said::Nothing);
    }

    #[test]
    fn open_files_are_counted() {
        let before = open_files();
        let _file = std::fs::File::open("/proc/self/status").expect("it is there");
        // Other tests open and close files meanwhile.
        assert!(before > 0 && open_files() > 0);
    }
}
