//! Hashes of passwords: argon2id, and the PBKDF2 of `mosquitto_passwd` before 2.1.
//!
//! The text of a hash comes from a file, so what it asks for is bounded before anything is
//! computed ([`MAX_ITERATIONS`], [`MAX_MEMORY_KIB`], [`MAX_WORK_KIB`], [`MAX_LANES`]).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use argon2::Argon2;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;

/// The maximum number of PBKDF2's iterations, which take 0.4 s of a server's core and more than
/// a second of a gateway's. OWASP asks for 210,000, `mosquitto_passwd` takes 101 or 1,000.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// The maximum memory of argon2id, in KiB: twice what RFC 9106 recommends where memory is
/// short. Each check that runs takes that much.
pub const MAX_MEMORY_KIB: u32 = 128 * 1024;

/// The maximum of memory times passes of argon2id, in KiB, which takes as long as
/// [`MAX_ITERATIONS`].
pub const MAX_WORK_KIB: u64 = 512 * 1024;

/// The maximum number of argon2id's lanes. They are computed one after the other, so more
/// cost nothing and gain nothing; RFC 9106 recommends 4.
pub const MAX_LANES: u32 = 16;

/// The sizes of a salt, in bytes. 8 is argon2's least, `mosquitto_passwd` takes 12 or 64.
const SALT_BYTES: RangeInclusive<usize> = 8..=64;

/// The sizes of what is compared, in bytes. A shorter one can be met by chance; a longer one
/// would multiply PBKDF2's work.
const HASH_BYTES: RangeInclusive<usize> = 16..=64;

/// The hash of a password, with all that is needed to compute it again. Its text is
/// `$7$ITERATIONS$SALT$HASH` or `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    function: Function,
    salt: Box<[u8]>,
    expected: Box<[u8]>,
}

/// A function that is slow to compute, and how slow it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// PBKDF2 with HMAC-SHA-512.
    Pbkdf2 { iterations: u32 },
    /// Argon2id of version 1.3 (19).
    Argon2id { memory_kib: u32, passes: u32, lanes: u32 },
}

impl Function {
    /// The function for new passwords: the least that OWASP's *Password Storage Cheat Sheet*
    /// allows for argon2id. The greater costs of RFC 9106 would take 64 MiB and five times as
    /// long for each device that connects for the first time.
    pub(crate) const NEW: Self = Self::Argon2id { memory_kib: 19 * 1024, passes: 2, lanes: 1 };

    /// Computes the hash of a password, of `length` bytes.
    fn compute(self, password: &[u8], salt: &[u8], length: usize) -> Result<Vec<u8>, HashError> {
        let mut hash = vec![0; length];
        match self {
            Self::Pbkdf2 { iterations } => {
                let (iterations, sha512) = (iterations as usize, MessageDigest::sha512());
                openssl::pkcs5::pbkdf2_hmac(password, salt, iterations, sha512, &mut hash)?;
            }
            Self::Argon2id { memory_kib, passes, lanes } => {
                let params = argon2::Params::new(memory_kib, passes, lanes, Some(length))?;
                let mut memory = zeroed(params.block_count())?;
                Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
                    .hash_password_into_with_memory(password, salt, &mut hash, &mut memory[..])?;
            }
        }
        Ok(hash)
    }
}

/// Returns memory for argon2. A machine without enough of it refuses a password; it does not
/// end the process.
fn zeroed(blocks: usize) -> Result<Vec<argon2::Block>, HashError> {
    let mut memory = Vec::new();
    let reserved = blocks.max(RETURNED_BLOCKS);
    memory.try_reserve_exact(reserved).map_err(|error| HashError(error.to_string()))?;
    memory.resize(blocks, argon2::Block::new());
    Ok(memory)
}

/// The number of blocks whose memory goes back to the system when it is freed. glibc keeps up
/// to 32 MiB in each of its arenas, which are eight per core: 5,000 checks, two at a time, held
/// 900 MB afterwards. What is reserved and not used is not memory, only addresses.
const RETURNED_BLOCKS: usize = 33 * 1024;

/// A hash could not be computed: there is not enough memory, or no random number.
#[derive(Debug, thiserror::Error)]
#[error("a password cannot be hashed: {0}")]
pub struct HashError(String);

impl From<ErrorStack> for HashError {
    fn from(error: ErrorStack) -> Self {
        Self(error.to_string())
    }
}

impl From<argon2::Error> for HashError {
    fn from(error: argon2::Error) -> Self {
        Self(error.to_string())
    }
}

impl PasswordHash {
    /// Hashes a new password, with a random salt. Takes some 25 ms of a server's core and 19 MiB.
    ///
    /// # Errors
    ///
    /// If there is not enough memory, or no random number.
    pub fn of(password: &[u8]) -> Result<Self, HashError> {
        Self::with(Function::NEW, password)
    }

    /// Hashes a password at another cost.
    pub(crate) fn with(function: Function, password: &[u8]) -> Result<Self, HashError> {
        let mut salt = [0; 16];
        openssl::rand::rand_bytes(&mut salt)?;
        let expected = function.compute(password, &salt, 32)?.into();
        Ok(Self { function, salt: salt.into(), expected })
    }

    /// True if this is the password. Takes as long as its function asks for, and the same time
    /// for any password of the same length.
    ///
    /// # Errors
    ///
    /// If there is not enough memory.
    pub fn matches(&self, password: &[u8]) -> Result<bool, HashError> {
        let computed = self.function.compute(password, &self.salt, self.expected.len())?;
        Ok(openssl::memcmp::eq(&computed, &self.expected))
    }

    /// The name of its function: `argon2id` or `pbkdf2-sha512`.
    pub fn kind(&self) -> &'static str {
        match self.function {
            Function::Argon2id { .. } => "argon2id",
            Function::Pbkdf2 { .. } => "pbkdf2-sha512",
        }
    }

    /// The memory that [`matches`](Self::matches) takes, in KiB; 0 for next to nothing.
    pub(super) fn memory_kib(&self) -> u32 {
        match self.function {
            Function::Argon2id { memory_kib, .. } => memory_kib,
            Function::Pbkdf2 { .. } => 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn function(&self) -> Function {
        self.function
    }
}

impl fmt::Debug for PasswordHash {
    /// Shows its function and nothing that is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.function.fmt(f)
    }
}

impl fmt::Display for PasswordHash {
    /// Writes the text that is read from a file: for a file, never for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base64 = openssl::base64::encode_block;
        let (salt, hash) = (base64(&self.salt), base64(&self.expected));
        match self.function {
            Function::Pbkdf2 { iterations } => write!(f, "$7${iterations}${salt}${hash}"),
            Function::Argon2id { memory_kib, passes, lanes } => {
                let (salt, hash) = (salt.trim_end_matches('='), hash.trim_end_matches('='));
                write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
            }
        }
    }
}

/// The reason why a text is not a hash that can be used. Never quotes the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    /// It begins like no hash.
    #[error(
        "the text after the name is not a hash, which begins with $argon2id$ or $7$; if it is the \
         password itself, anyone who has read the file knows it"
    )]
    Unknown,
    /// A hash of mosquitto 1.6.
    #[error("a hash that begins with $6$ is computed too fast: a password can be guessed from it")]
    Sha512,
    /// An argon2 that is not argon2id, or a version of it other than 19.
    #[error("of argon2 only argon2id of version 19 is read: $argon2id$v=19$…")]
    OtherArgon2,
    /// It has the wrong parts.
    #[error("a hash that begins with {begins} has the form {form}")]
    Form {
        /// The first part of the text.
        begins: &'static str,
        /// The right form.
        form: &'static str,
    },
    /// A number that would take too long, or too much memory.
    #[error("the hash has {name} = {value}: {allowed}")]
    Cost {
        /// The name of the number.
        name: &'static str,
        /// The number.
        value: u64,
        /// The allowed numbers, and the reason.
        allowed: &'static str,
    },
    /// The salt or the hash itself is not base64, or has another length.
    #[error(
        "the {what} is not base64 of {} to {} bytes{}: is the line complete?",
        bytes.start(),
        bytes.end(),
        if *.padded { "" } else { " without '=' at its end" }
    )]
    Base64 {
        /// The part of the text: "salt" or "hash".
        what: &'static str,
        /// The allowed sizes.
        bytes: RangeInclusive<usize>,
        /// True if `=` fills its end.
        padded: bool,
    },
}

const PBKDF2: InvalidHash = InvalidHash::Form { begins: "$7$", form: "$7$ITERATIONS$SALT$HASH" };
const ARGON2ID: InvalidHash = InvalidHash::Form {
    begins: "$argon2id$",
    form: "$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH",
};

impl FromStr for PasswordHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let parts: Vec<&str> = text.split('$').collect();
        match parts[..] {
            ["", "7", iterations, salt, hash] => {
                let function = pbkdf2(iterations)?;
                Self::decoded(function, (salt, hash), true)
            }
            ["", "7", ..] => Err(PBKDF2),
            ["", "argon2id", "v=19", costs, salt, hash] => {
                let function = argon2id(costs)?;
                Self::decoded(function, (salt, hash), false)
            }
            ["", "argon2id", "v=19", ..] => Err(ARGON2ID),
            ["", "argon2id" | "argon2i" | "argon2d", ..] => Err(InvalidHash::OtherArgon2),
            ["", "6", ..] => Err(InvalidHash::Sha512),
            _ => Err(InvalidHash::Unknown),
        }
    }
}

impl PasswordHash {
    fn decoded(
        function: Function,
        (salt, hash): (&str, &str),
        padded: bool,
    ) -> Result<Self, InvalidHash> {
        let salt = base64("salt", salt, SALT_BYTES, padded)?;
        let expected = base64("hash", hash, HASH_BYTES, padded)?;
        Ok(Self { function, salt, expected })
    }
}

fn pbkdf2(iterations: &str) -> Result<Function, InvalidHash> {
    let iterations = number(iterations).ok_or(PBKDF2)?;
    let allowed = "1 to 1000000 are allowed, because more keep a core busy for seconds";
    let valid = (1..=MAX_ITERATIONS.into()).contains(&iterations);
    let iterations = bounded("iterations", iterations, valid, allowed)?;
    Ok(Function::Pbkdf2 { iterations })
}

fn argon2id(costs: &str) -> Result<Function, InvalidHash> {
    let (m, t, p) = three_costs(costs).ok_or(ARGON2ID)?;
    let valid = (1..=MAX_LANES.into()).contains(&p);
    let lanes = bounded("p", p, valid, "1 to 16 lanes are allowed")?;
    let valid = (8 * p..=MAX_MEMORY_KIB.into()).contains(&m);
    let allowed = "8 per lane to 131072 KiB are allowed, because each check that runs needs as much \
                   memory";
    let memory_kib = bounded("m", m, valid, allowed)?;
    let valid = t >= 1 && m.saturating_mul(t) <= MAX_WORK_KIB;
    let allowed = "at least 1 pass is allowed, and m × t of at most 524288 KiB, because more \
                   keep a core busy for seconds";
    let passes = bounded("t", t, valid, allowed)?;
    Ok(Function::Argon2id { memory_kib, passes, lanes })
}

fn three_costs(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(',');
    let mut next = |name| number(parts.next()?.strip_prefix(name)?);
    let costs = (next("m=")?, next("t=")?, next("p=")?);
    parts.next().is_none().then_some(costs)
}

fn bounded(
    name: &'static str,
    value: u64,
    valid: bool,
    allowed: &'static str,
) -> Result<u32, InvalidHash> {
    let number = u32::try_from(value).ok().filter(|_| valid);
    number.ok_or(InvalidHash::Cost { name, value, allowed })
}

/// Parses a number of at most 18 digits, which does not overflow.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn base64(
    what: &'static str,
    text: &str,
    bytes: RangeInclusive<usize>,
    padded: bool,
) -> Result<Box<[u8]>, InvalidHash> {
    let filled = if padded { text.to_owned() } else { filled(text) };
    let decoded = openssl::base64::decode_block(&filled).unwrap_or_default();
    // OpenSSL also takes what is not base64 to the letter, such as blanks at the ends.
    let exact =
        openssl::base64::encode_block(&decoded) == filled && (padded || !text.contains('='));
    let valid = exact && bytes.contains(&decoded.len());
    valid.then(|| decoded.into()).ok_or(InvalidHash::Base64 { what, bytes, padded })
}

/// Fills base64 up to a multiple of four characters.
fn filled(text: &str) -> String {
    let length = text.len().next_multiple_of(4);
    format!("{text:=<length$}")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Barrier;

    use parking_lot::Mutex;

    use super::*;

    /// `mosquitto_passwd -b FILE pump-17 secret`, mosquitto 2.0.11.
    pub(crate) const OF_MOSQUITTO: &str = "$7$101$CAXt7yx4eCCh+0yS$efxT4B/gNLYV8AZwfjjZA9ieNbYrA2G/KuWlqa+Ijl0eLJmF+bmnM6hMauXzcrV2lM1XFv1fv4lFtjSF+mdXMQ==";

    /// Argon2's reference implementation with the costs and sizes of mosquitto_passwd 2.1.
    pub(crate) const OF_MOSQUITTO_2_1: &str = "$argon2id$v=19$m=47104,t=1,p=1$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw$jN8KVtBuy9rOg+xx4HEO7K//Ei2hf4aegEDgCD4okj4rugUys2dVUsAyHcBFDFrGlWl198NIEs4dtHiTXPgqvA";

    /// The same with several lanes and passes.
    const OF_FOUR_LANES: &str = "$argon2id$v=19$m=256,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$mpLdI+LHairaUhpXdToav/jdNXmHI0oYudNPHmoMkcA";

    /// A function that takes no time.
    pub(crate) const QUICK: Function = Function::Argon2id { memory_kib: 8, passes: 1, lanes: 1 };

    fn parse(text: &str) -> Result<PasswordHash, InvalidHash> {
        text.parse()
    }

    fn assert_is_of_secret(text: &str) {
        let hash = parse(text).expect(text);
        assert!(hash.matches(b"secret").expect("it is computed"), "{text}");
        for wrong in [&b"Secret"[..], b"secre", b"secrets", b""] {
            assert!(!hash.matches(wrong).expect("it is computed"), "{text}");
        }
        assert_eq!(hash.to_string(), text);
    }

    #[test]
    fn a_hash_of_another_program_matches_its_password_only() {
        for text in [OF_MOSQUITTO, OF_MOSQUITTO_2_1, OF_FOUR_LANES] {
            assert_is_of_secret(text);
        }
    }

    #[test]
    fn a_new_hash_matches_its_password_only_and_is_never_the_same() {
        let hash = PasswordHash::of(b"secret").expect("it is computed");
        assert_is_of_secret(&hash.to_string());
        assert!(!hash.matches(b"secret\0").expect("it is computed"));
        assert!(hash.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let other = PasswordHash::of(b"secret").expect("it is computed");
        assert_ne!(hash.to_string(), other.to_string());
    }

    /// The memory that this process has, in bytes.
    fn resident() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.expect("a number") * rustix::param::page_size() as u64
    }

    /// Whatever the number of threads that have computed one. Other tests run meanwhile.
    #[test]
    fn a_hash_leaves_no_memory_behind() {
        const THREADS: usize = 16;
        const MEGABYTES: u64 = 1_000_000;
        let (turn, done) = (Mutex::new(()), Barrier::new(THREADS + 1));
        let before = resident();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let one_at_a_time = turn.lock();
                    // The second one is where glibc has learned to keep what the first took.
                    for _ in 0..2 {
                        PasswordHash::of(b"secret").expect("it is computed");
                    }
                    drop(one_at_a_time);
                    done.wait();
                    done.wait();
                });
            }
            done.wait();
            let more = resident().saturating_sub(before) / MEGABYTES;
            done.wait();
            assert!(more < 80, "{more} MB more than before");
        });
    }

    #[test]
    fn a_hash_shows_nothing_secret() {
        let hash = parse(OF_MOSQUITTO).expect("valid");
        assert_eq!(format!("{hash:?}"), "Pbkdf2 { iterations: 101 }");
    }

    /// Replaces a part of a valid hash, and returns the error without the secret parts.
    #[track_caller]
    fn refused(text: &str, part: &str, by: &str) -> String {
        assert!(text.contains(part), "{part}");
        let error = parse(&text.replacen(part, by, 1)).expect_err(by).to_string();
        for secret in text.split('$').skip(3).filter(|secret| secret.len() > 8) {
            assert!(!error.contains(&secret[..8]) || secret.starts_with("m="), "{error}");
        }
        error
    }

    #[test]
    fn a_hash_that_would_take_too_long_or_too_much_memory_is_refused_with_its_bound() {
        for (text, part, by, expected) in [
            (OF_MOSQUITTO, "101", "0", "iterations = 0: 1 to 1000000"),
            (OF_MOSQUITTO, "101", "1000001", "iterations = 1000001: 1 to 1000000"),
            (OF_MOSQUITTO, "101", "4294967397", "iterations = 4294967397: 1 to 1000000"),
            (OF_FOUR_LANES, "m=256", "m=31", "m = 31: 8 per lane to 131072 KiB"),
            (OF_FOUR_LANES, "m=256", "m=131073", "m = 131073: 8 per lane to 131072 KiB"),
            (OF_FOUR_LANES, "m=256", "m=4294967552", "m = 4294967552: 8 per lane"),
            (OF_FOUR_LANES, "t=3", "t=0", "t = 0: at least 1 pass"),
            (OF_FOUR_LANES, "t=3", "t=2049", "t = 2049: at least 1 pass is allowed, and m × t"),
            (OF_FOUR_LANES, "m=256,t=3", "m=131072,t=5", "t = 5: at least 1 pass"),
            (OF_FOUR_LANES, "t=3", "t=999999999999999999", "t = 999999999999999999: at least"),
            (OF_FOUR_LANES, "p=4", "p=0", "p = 0: 1 to 16 lanes"),
            (OF_FOUR_LANES, "p=4", "p=17", "p = 17: 1 to 16 lanes"),
        ] {
            let error = refused(text, part, by);
            assert!(error.contains(expected), "{by}: {error}");
        }
        for (text, part, by) in [
            (OF_MOSQUITTO, "101", "1000000"),
            (OF_FOUR_LANES, "m=256,t=3", "m=131072,t=4"),
            (OF_FOUR_LANES, "m=256,t=3,p=4", "m=128,t=4096,p=16"),
        ] {
            assert!(parse(&text.replacen(part, by, 1)).is_ok(), "{by}");
        }
    }

    #[test]
    fn what_is_not_a_hash_is_refused_with_its_right_form() {
        let form7 = "$7$ITERATIONS$SALT$HASH";
        let form2 = "$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH";
        for (text, part, by, expected) in [
            (OF_MOSQUITTO, OF_MOSQUITTO, "secret", "begins with $argon2id$ or $7$"),
            (OF_MOSQUITTO, OF_MOSQUITTO, "", "begins with $argon2id$ or $7$"),
            (OF_MOSQUITTO, "$7$", "$6$", "computed too fast"),
            (OF_MOSQUITTO, "$7$101", "$7", form7),
            (OF_MOSQUITTO, "101", "", form7),
            (OF_MOSQUITTO, "101", "+101", form7),
            (OF_MOSQUITTO, "101", "1e3", form7),
            (OF_MOSQUITTO, "101", "9999999999999999999", form7),
            (OF_MOSQUITTO, "==", "==$", form7),
            (OF_MOSQUITTO, "==", "=", "the hash is not base64 of 16 to 64 bytes"),
            (OF_MOSQUITTO, "==", "", "the hash is not base64"),
            (OF_MOSQUITTO, "CAX", "CA!", "the salt is not base64 of 8 to 64 bytes: is the line"),
            (OF_MOSQUITTO, "CAX", " CAX", "the salt is not base64"),
            (OF_MOSQUITTO, "CAXt7yx4eCCh+0yS", "", "the salt is not base64"),
            (OF_MOSQUITTO, "CAXt7yx4eCCh+0yS", "c2FsdA==", "the salt is not base64"),
            (OF_FOUR_LANES, "argon2id", "argon2i", "only argon2id of version 19"),
            (OF_FOUR_LANES, "argon2id", "argon2d", "only argon2id of version 19"),
            (OF_FOUR_LANES, "v=19", "v=16", "only argon2id of version 19"),
            (OF_FOUR_LANES, "$v=19", "", "only argon2id of version 19"),
            (OF_FOUR_LANES, "m=256,t=3", "t=3,m=256", form2),
            (OF_FOUR_LANES, ",p=4", "", form2),
            (OF_FOUR_LANES, ",p=4", ",p=4,keyid=a", form2),
            (OF_FOUR_LANES, "c29t", "c29t=", "the salt is not base64"),
            (OF_FOUR_LANES, "MkcA", "MkcA=", "without '=' at its end"),
            (OF_FOUR_LANES, "MkcA", "MkcB", "the hash is not base64"),
            (OF_FOUR_LANES, "MkcA", "MkcA$x", form2),
        ] {
            let error = refused(text, part, by);
            assert!(error.contains(expected), "{by:?}: {error}");
        }
        let long = openssl::base64::encode_block(&[7; 65]);
        let error = parse(&format!("$7$1${long}${long}")).expect_err("too long").to_string();
        assert!(error.contains("the salt is not base64 of 8 to 64 bytes"), "{error}");
    }
}
