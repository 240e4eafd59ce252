//! Secrets, and all that masks them.
//!
//! A [`Secret`] and the secrets inside a URL leave this module only through `reveal`. Logs,
//! errors and the output of `check-config` show [`HIDDEN`] in their place.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

mod url;

pub use self::url::{BrokerUrl, DatabaseUrl, InvalidUrl};
pub(crate) use self::url::{SSL_CERT, SSL_KEY, SSL_MODE, SSL_ROOT_CERT, is_local_host};

/// Stands in a secret's place in logs, errors and the output of `check-config`.
pub(crate) const HIDDEN: &str = "***";

/// True for configuration keys whose values are never shown as they are.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    ["url", "entry_urls", "password", "token"].contains(&name)
}

/// A text that is never shown: it has no `Display`, and `Debug` and serde write `***`.
/// [`Secret::reveal`] is the only way to read it.
///
/// ```
/// let secret = heartbeatd::config::Secret::from("hunter2".to_owned());
/// assert_eq!(format!("{secret:?}"), "***");
/// assert_eq!(secret.reveal(), "hunter2");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The hidden text: for code that checks or sends it, never for a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True for `***`, which `check-config` prints in a secret's place. It is valid, so that
    /// the output of `check-config` is a configuration, but `run` refuses it.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.0 == HIDDEN
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}
