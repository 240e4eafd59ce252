//! Values of JSON.

use std::borrow::Cow;

use serde::Deserialize;

/// Reads a JSON string, borrowed if it has no escapes.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(json).ok().map(|Text(text)| text)
}
