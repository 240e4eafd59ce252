//! The state of the service as a whole: if what it says of the fleet may be believed.

use std::fmt;

/// The state of the service. If several hold, the one that comes first here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceState {
    /// The database is away; heartbeats wait for it.
    Database,
    /// The broker cannot be reached.
    Disconnected,
    /// Another instance on the database listens to something else, so this one does not take part.
    Barred,
    /// Connected, but no echo has come back lately.
    Unproven,
    /// Messages are thrown away, because they come faster than they can be handled.
    Shedding,
    /// Another instance writes, and this one would take over from it.
    Standby,
    /// No device is heard, yet echoes come back.
    FleetSilent,
    /// Not enough was listened to yet to find any device silent.
    Warming,
    /// Heartbeats provably arrive, and silent devices are found.
    Listening,
}

impl ServiceState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Database,
        Self::Disconnected,
        Self::Barred,
        Self::Unproven,
        Self::Shedding,
        Self::Standby,
        Self::FleetSilent,
        Self::Warming,
        Self::Listening,
    ];

    /// The state with this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Disconnected => "disconnected",
            Self::Barred => "barred",
            Self::Unproven => "unproven",
            Self::Shedding => "shedding",
            Self::Standby => "standby",
            Self::FleetSilent => "fleet_silent",
            Self::Warming => "warming",
            Self::Listening => "listening",
        }
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
