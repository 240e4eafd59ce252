//! The users of the embedded broker, from a file that `mosquitto_passwd` writes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use openssl::hash::MessageDigest;

/// The users' names and password hashes.
pub(super) struct Users(HashMap<String, Hash>);

/// `$7$ITERATIONS$SALT$HASH`: PBKDF2 with HMAC-SHA-512, salt and hash in base64.
struct Hash {
    iterations: usize,
    salt: Vec<u8>,
    expected: Vec<u8>,
}

/// The reason why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("mqtt.embedded.users_file = {}: {why}", path.display())]
pub struct UsersError {
    path: PathBuf,
    pub(super) why: String,
}

impl Users {
    pub(super) fn read(path: &Path) -> Result<Self, UsersError> {
        let error = |why: String| UsersError { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line
                .split_once(':')
                .and_then(|(name, hash)| Some((name.to_owned(), Hash::parse(hash.trim_end())?)))
                .ok_or_else(|| {
                    let number = index + 1;
                    error(format!(
                        "line {number} is not NAME:$7$ITERATIONS$SALT$HASH as \
                     `mosquitto_passwd -b FILE NAME PASSWORD` writes it"
                    ))
                })?;
            users.insert(name, hash);
        }
        if users.is_empty() {
            return Err(error("it has no user".to_owned()));
        }
        Ok(Self(users))
    }

    pub(super) fn verify(&self, name: &str, password: &[u8]) -> bool {
        self.0.get(name).is_some_and(|hash| hash.matches(password))
    }
}

impl Hash {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$7$")?.split('$');
        let iterations = parts.next()?.parse().ok().filter(|&n| n > 0)?;
        let salt = openssl::base64::decode_block(parts.next()?).ok()?;
        let expected = openssl::base64::decode_block(parts.next()?).ok()?;
        let complete = parts.next().is_none() && !expected.is_empty();
        complete.then_some(Self { iterations, salt, expected })
    }

    fn matches(&self, password: &[u8]) -> bool {
        let mut derived = vec![0; self.expected.len()];
        let sha512 = MessageDigest::sha512();
        let hashed = openssl::pkcs5::pbkdf2_hmac(
            password,
            &self.salt,
            self.iterations,
            sha512,
            &mut derived,
        );
        hashed.is_ok() && openssl::memcmp::eq(&derived, &self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `mosquitto_passwd -b FILE pump-17 secret`, mosquitto 2.0.11.
    const LINE: &str = "pump-17:$7$101$CAXt7yx4eCCh+0yS$efxT4B/gNLYV8AZwfjjZA9ieNbYrA2G/KuWlqa+Ijl0eLJmF+bmnM6hMauXzcrV2lM1XFv1fv4lFtjSF+mdXMQ==";

    fn users(text: &str) -> Result<Users, UsersError> {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("users");
        std::fs::write(&path, text).expect("a file");
        Users::read(&path)
    }

    #[test]
    fn a_user_of_mosquitto_passwd_gets_in_with_its_password_only() {
        let users = users(&format!("# devices\n\n{LINE}\n")).expect("a valid file");
        assert!(users.verify("pump-17", b"secret"));
        assert!(!users.verify("pump-17", b"Secret"));
        assert!(!users.verify("pump-18", b"secret"));
    }

    #[test]
    fn an_invalid_file_is_refused_with_the_line() {
        let error = |text| users(text).err().expect("invalid").to_string();
        assert!(error("pump-17:secret").contains("line 1 is not NAME:$7$"));
        assert!(error("pump-17:$7$0$c2FsdA==$aGFzaA==").contains("line 1"));
        assert!(error("# nobody\n").contains("no user"));
    }
}
