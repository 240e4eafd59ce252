//! The tokens of HTTP as the configuration lists them: never the token itself, only its
//! SHA-256.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::InvalidValue;
use crate::domain::device_id::is_invisible;
use crate::logging::escape::Hex;

/// The maximum number of characters of a token's name.
const MAX_NAME: usize = 64;

/// The rights of a token's holder. Each scope includes those before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read everything.
    Read,
    /// Register, change and remove devices.
    Operate,
    /// Whatever there is.
    Admin,
}

impl Scope {
    /// The scope as the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A token, as `[[http.tokens]]` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The name of whoever holds it.
    pub name: TokenName,
    /// The rights that it gives.
    pub scope: Scope,
    /// Its SHA-256.
    pub sha256: TokenHash,
}

/// The name of a token: 1 to 64 visible characters without blanks, colons and commas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenName(String);

impl TokenName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        let odd =
            |c: char| c.is_control() || c.is_whitespace() || is_invisible(c) || ":,".contains(c);
        let valid = (1..=MAX_NAME).contains(&text.chars().count()) && !text.contains(odd);
        let expected = "a name of 1 to 64 characters without blanks, colons and commas is expected";
        if valid { Ok(Self(text)) } else { Err(InvalidValue(expected)) }
    }
}

impl std::str::FromStr for TokenName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The SHA-256 of a token, in hexadecimal digits where it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> Self {
        Self(openssl::sha::sha256(token.as_bytes()))
    }

    /// A number by which it can be remembered.
    pub(crate) fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// True if both are the same, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        openssl::memcmp::eq(&self.0, &other.0)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl std::str::FromStr for TokenHash {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let expected = "64 hexadecimal digits are expected, as `heartbeatd token new` prints them";
        let invalid = InvalidValue(expected);
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid);
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| invalid)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid)?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A list, or the text that an environment variable holds instead.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum ListOrText<T> {
    List(Vec<T>),
    Text(String),
}

impl ListOrText<String> {
    /// The parts, in whichever form.
    pub(super) fn parts<E: serde::de::Error>(self) -> Result<Vec<String>, E> {
        match self {
            Self::List(parts) => Ok(parts),
            Self::Text(text) if text.trim_start().starts_with('[') => Err(E::custom(
                "in a variable a list has no brackets and no quotes, only commas: ONE, OTHER",
            )),
            Self::Text(text) => Ok(split(&text).map(str::to_owned).collect()),
        }
    }
}

/// Reads `http.tokens`: a list, or `NAME:SCOPE:SHA256` with commas in between.
pub(super) fn tokens<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<TokenConfig>, D::Error> {
    let expected = "a list of tables is expected, each with name, scope (read, operate or admin) \
                    and sha256 (64 hexadecimal digits), as `heartbeatd token new` prints them; or \
                    NAME:SCOPE:SHA256 with commas in between";
    let list = ListOrText::<TokenConfig>::deserialize(from);
    let tokens = match list.map_err(|_| D::Error::custom(expected))? {
        ListOrText::List(tokens) => Some(tokens),
        ListOrText::Text(text) => split(&text).map(in_one_line).collect(),
    };
    tokens.ok_or_else(|| D::Error::custom(expected))
}

fn in_one_line(text: &str) -> Option<TokenConfig> {
    let mut parts = text.split(':');
    let (name, scope, sha256) = (parts.next()?, parts.next()?, parts.next()?);
    let scope = [Scope::Read, Scope::Operate, Scope::Admin]
        .into_iter()
        .find(|known| known.as_str() == scope)?;
    let token = TokenConfig { name: name.parse().ok()?, scope, sha256: sha256.parse().ok()? };
    parts.next().is_none().then_some(token)
}

/// Reads `http.names`: a list of host names, or a text with commas in between.
pub(super) fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let expected = "a list of host names without a port is expected, such as [\"gateway.lan\"]";
    let names = ListOrText::deserialize(from).map_err(|_| D::Error::custom(expected))?;
    let names = names.parts()?;
    let is_name = |name: &String| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        let has_port = name.contains(':') && !name.starts_with('[');
        (1..=253).contains(&name.len()) && name.chars().all(fits) && !has_port
    };
    if names.iter().all(is_name) { Ok(names) } else { Err(D::Error::custom(expected)) }
}

pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_in_hexadecimal_digits() {
        let hash = TokenHash::of("abc");
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), digits);
        assert_eq!(digits.parse(), Ok(hash));
        assert!(hash.matches(&hash) && !hash.matches(&TokenHash::of("xyz")));
        for wrong in ["", "1234", &digits.replace('b', "g"), &format!("{digits}0"), "é"] {
            wrong.parse::<TokenHash>().expect_err(wrong);
        }
    }

    #[test]
    fn a_token_in_one_line_has_three_parts() {
        let digits = TokenHash::of("abc").to_string();
        let token = in_one_line(&format!("page:read:{digits}")).expect("it has");
        assert_eq!((token.name.as_str(), token.scope), ("page", Scope::Read));
        for wrong in [format!("page:{digits}"), format!("page:root:{digits}"), "a:read:b".into()] {
            assert_eq!(in_one_line(&wrong), None, "{wrong}");
        }
    }
}
