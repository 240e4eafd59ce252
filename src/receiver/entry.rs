//! The listeners, and the way that a client came in.

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// `mqtt.embedded.listen`.
    Plain,
    /// `mqtt.embedded.tls_listen`.
    Tls,
    /// A port on loopback for this service's own client, if there is no plain listener. A
    /// connection to the TLS listener would need an authority and a name that fit the
    /// certificate, and with client certificates another one for the service.
    Own,
}

/// The way that a client came in.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) door: Door,
    /// The common name of the client's certificate, if clients need one here.
    pub(super) common_name: Option<String>,
}
