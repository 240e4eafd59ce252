//! Users of the embedded broker: the list of them.

use serde::Serialize;

use crate::users::{PasswordHash, Rights, User};

/// A user, without anything that is secret.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UserView {
    pub(crate) name: String,
    /// The patterns of the devices whose heartbeats it may publish.
    pub(crate) devices: Vec<String>,
    /// The function of its password hash.
    pub(crate) hash: &'static str,
}

impl UserView {
    /// Shows a user and the kind of its hash.
    pub(crate) fn new(user: &User, hash: &PasswordHash) -> Self {
        Self { name: user.name().to_owned(), devices: user.rights().patterns(), hash: hash.kind() }
    }
}

/// The devices of a user, as in "it may publish heartbeats of …".
pub(crate) fn devices_in_words(rights: &Rights) -> String {
    match &rights.patterns()[..] {
        [all] if all == "*" => "all devices".to_owned(),
        patterns => patterns.join(", "),
    }
}
