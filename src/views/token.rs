//! Tokens of HTTP: the list of them, and a new one.

use serde::Serialize;

use crate::config::{HttpConfig, Scope, TokenHash};

/// A token of the configuration, by its hash.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenView {
    pub(crate) name: String,
    pub(crate) scope: Scope,
    pub(crate) sha256: String,
}

impl TokenView {
    /// All tokens, `http.token` first.
    pub(crate) fn all(config: &HttpConfig) -> Vec<Self> {
        let admin = config.token.as_ref().map(|token| Self {
            name: "http.token".to_owned(),
            scope: Scope::Admin,
            sha256: TokenHash::of(token.reveal()).to_string(),
        });
        let others = config.tokens.iter().map(|token| Self {
            name: token.name.to_string(),
            scope: token.scope,
            sha256: token.sha256.to_string(),
        });
        admin.into_iter().chain(others).collect()
    }
}

/// A token that was just made.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct NewTokenView<'a> {
    pub(crate) name: &'a str,
    pub(crate) scope: Scope,
    pub(crate) token: &'a str,
    pub(crate) sha256: &'a str,
}
