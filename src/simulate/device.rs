//! A virtual device.

/// The special thing about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Steady,
    Dying,
    Bursting,
    Failing,
    Skewed,
    Malformed,
}

/// A virtual device. Instants are microseconds since the start.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) role: Role,
    /// True while it is dead, or reports an error.
    pub(super) bad: bool,
    /// The instant at which it was switched on; negative if that was before the start.
    pub(super) booted: i64,
    /// The instant at which it becomes bad, or good again.
    pub(super) turns: u64,
}
