//! The passwords that were right, as keyed hashes in memory.
//!
//! A device that reconnects is compared with one of them, which takes microseconds instead of
//! the hash in the file. The key is random and never leaves the process, so that the hashes
//! are worth nothing elsewhere.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;

/// The key of this process.
pub(super) struct MemoryKey(PKey<Private>);

/// A user's name, its line and a password under the key of this process.
#[derive(Clone)]
pub(super) struct Seal(Vec<u8>);

impl MemoryKey {
    pub(super) fn random() -> Result<Self, ErrorStack> {
        let mut key = [0; 32];
        openssl::rand::rand_bytes(&mut key)?;
        Ok(Self(PKey::hmac(&key)?))
    }

    /// Seals a password with the name and the line that it belongs to. A changed line makes
    /// another seal, so a password is forgotten with its line.
    pub(super) fn seal(&self, name: &str, line: &str, password: &[u8]) -> Result<Seal, ErrorStack> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.0)?;
        for part in [name.as_bytes(), line.as_bytes(), password] {
            // With its length no part can be mistaken for the end of the one before.
            signer.update(&(part.len() as u64).to_be_bytes())?;
            signer.update(part)?;
        }
        Ok(Seal(signer.sign_to_vec()?))
    }
}

impl PartialEq for Seal {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && openssl::memcmp::eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_one_name_line_and_password_and_of_one_process() {
        let key = MemoryKey::random().expect("random numbers");
        let seal = |name, line, password| key.seal(name, line, password).expect("it is computed");
        let sealed = seal("pump", "line", b"secret");
        assert!(sealed == seal("pump", "line", b"secret"));
        for other in [
            seal("pumq", "line", b"secret"),
            seal("pump", "lime", b"secret"),
            seal("pump", "line", b"Secret"),
            seal("pump", "linesecret", b""),
            seal("pumpli", "ne", b"secret"),
            MemoryKey::random().expect("random").seal("pump", "line", b"secret").expect("it is"),
        ] {
            assert!(sealed != other);
        }
    }
}
