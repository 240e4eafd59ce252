//! The four actors. Each file shows its messages first, then its state, then its
//! handlers; none knows SQL or MQTT packets, and each knows the others only by
//! the `Addr` or `Recipient` that it is given.

pub mod alert_sink;
pub mod device_registry;
pub mod mqtt_ingest;
pub mod ticker;

/// How many items of a batch are logged one by one at `info`; the rest go to
/// `debug`.
const LOGGED_PER_BATCH: usize = 20;

/// Logs a batch: the first lines at `info`, the rest at `debug`, and then how
/// many there were.
fn log_batch<T>(target: &str, what: &str, items: &[T], line: impl Fn(log::Level, &T)) {
    for (index, item) in items.iter().enumerate() {
        line(if index < LOGGED_PER_BATCH { log::Level::Info } else { log::Level::Debug }, item);
    }
    if items.len() > LOGGED_PER_BATCH {
        let count = items.len();
        log::info!(target: target, count; "{what}: the first {LOGGED_PER_BATCH} are shown, the rest at debug");
    }
}
