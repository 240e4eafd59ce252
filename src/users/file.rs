//! The users file, as text.
//!
//! A line is `NAME:HASH`, as `mosquitto_passwd` writes it, or `NAME:HASH:PATTERN PATTERN …`,
//! which mosquitto reads as if the patterns were not there. A line that begins with `#` is a
//! comment. Blanks around a field do not belong to it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{InvalidHash, InvalidPattern, InvalidUserName, PasswordHash, Pattern, Rights};
use super::{User, UserName, rights};
use crate::logging::escape::Quoted;

/// The maximum size of the file, in bytes: [`MAX_USERS`] lines of some 300 bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The maximum number of users, each of which takes some 300 bytes of memory. It is ten times
/// the number of connections that a machine with two cores holds easily.
pub const MAX_USERS: usize = 100_000;

/// The maximum size of a line, in bytes: a name, a hash and a few dozen patterns.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The reason why a users file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct UsersError {
    path: PathBuf,
    why: Unusable,
}

impl UsersError {
    pub(super) fn new(path: &Path, why: impl Into<Unusable>) -> Self {
        Self { path: path.to_owned(), why: why.into() }
    }

    /// The file cannot be used for a reason that has nothing to do with it.
    pub(super) fn other(path: &Path, error: &impl ToString) -> Self {
        Self::new(path, Unusable::Io(io::Error::other(error.to_string())))
    }

    /// The reason, without the path.
    pub(crate) fn why(&self) -> &Unusable {
        &self.why
    }
}

/// The reason why a users file cannot be used, without its path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("there is no such file: `heartbeatd user add NAME` creates it")]
    Missing,
    #[error("{0}")]
    Io(io::Error),
    #[error("it is not a file: a pipe or a folder cannot be read again when it changes")]
    NotAFile,
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is being written")]
    Changing,
    #[error(
        "it has no users now, as while it is written anew; to lock out all of them, restart the \
         service with this file"
    )]
    Emptied,
    #[error(transparent)]
    Line(#[from] InvalidLine),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

/// A line that is wrong. Its text is never shown, because it may hold a hash or a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {why}")]
pub(crate) struct InvalidLine {
    /// The number of the line, from 1.
    pub(super) number: usize,
    pub(super) why: WhyInvalid,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WhyInvalid {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("it is not NAME:HASH or NAME:HASH:DEVICES, as `heartbeatd user add NAME` writes it")]
    NotALine,
    #[error(transparent)]
    Name(#[from] InvalidUserName),
    #[error("{why}; `heartbeatd user set-password` with the name {} corrects it", Quoted(name.as_str()))]
    Hash { name: UserName, why: InvalidHash },
    #[error("pattern {}: {why}", Quoted(pattern))]
    Pattern { pattern: String, why: InvalidPattern },
    #[error("{0}; without the second ':' the user may publish for the device of its own name")]
    Patterns(InvalidPattern),
    #[error("user {} is on line {earlier} already: remove one of the two lines", Quoted(name.as_str()))]
    Twice { name: UserName, earlier: usize },
    #[error("this is user {}, and at most {MAX_USERS} are allowed", MAX_USERS + 1)]
    TooMany,
}

/// A line with a user.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) user: User,
    pub(crate) hash: PasswordHash,
}

/// The text of a users file, and the file that it was read from.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) text: String,
    pub(super) stamp: Stamp,
}

/// The state of a file by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file was not written to in between. Its mode or its owner may be others.
    fn has_contents_of(self, earlier: Self) -> bool {
        Self { changed: earlier.changed, ..self } == earlier
    }

    /// The state of the file now.
    pub(super) fn of_path(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::of(&metadata))
    }
}

/// Reads the text of a users file.
pub(super) fn read(path: &Path) -> Result<Contents, UsersError> {
    read_text(path).map_err(|why| UsersError::new(path, why))
}

fn read_text(path: &Path) -> Result<Contents, Unusable> {
    // Opening a named pipe may never return.
    if !path.metadata()?.is_file() {
        return Err(Unusable::NotAFile);
    }
    let mut file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    // mosquitto_passwd writes into the file itself.
    if !Stamp::of(&file.metadata()?).has_contents_of(stamp) {
        return Err(Unusable::Changing);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let number = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        InvalidLine { number, why: WhyInvalid::NotUtf8 }
    })?;
    Ok(Contents { text, stamp })
}

/// Reads and parses a users file, and returns the state in which it was read.
pub(super) fn load(path: &Path) -> Result<(Vec<Line>, Stamp), UsersError> {
    let Contents { text, stamp } = read(path)?;
    let lines = parse(&text).map_err(|why| UsersError::new(path, why))?;
    Ok((lines, stamp))
}

/// Checks the text that a file is to have.
pub(super) fn check(path: &Path, text: &str) -> Result<(), UsersError> {
    if text.len() as u64 > MAX_BYTES {
        return Err(UsersError::new(path, Unusable::TooLarge));
    }
    parse(text).map(drop).map_err(|why| UsersError::new(path, why))
}

/// Parses the text of a users file.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, InvalidLine> {
    let mut lines: Vec<Line> = Vec::new();
    let mut numbers = HashMap::new();
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let invalid = |why| InvalidLine { number, why };
        if !is_of_user(text) {
            continue;
        }
        let (user, hash) = parse_line(text).map_err(invalid)?;
        if lines.len() == MAX_USERS {
            return Err(invalid(WhyInvalid::TooMany));
        }
        if let Some(earlier) = numbers.insert(user.name.clone(), number) {
            return Err(invalid(WhyInvalid::Twice { name: user.name, earlier }));
        }
        lines.push(Line { user, hash });
    }
    Ok(lines)
}

/// True for a line that is neither empty nor a comment.
pub(super) fn is_of_user(line: &str) -> bool {
    !line.starts_with('#') && !line.trim().is_empty()
}

fn parse_line(line: &str) -> Result<(User, PasswordHash), WhyInvalid> {
    if line.len() > MAX_LINE_BYTES {
        return Err(WhyInvalid::TooLong);
    }
    let Fields { name, hash, devices } = Fields::of(line).ok_or(WhyInvalid::NotALine)?;
    let name: UserName = name.parse()?;
    let hash = match hash.parse() {
        Ok(hash) => hash,
        Err(why) => return Err(WhyInvalid::Hash { name, why }),
    };
    let rights = match devices {
        None => Rights::of_own_name(&name),
        Some(patterns) => parse_rights(patterns)?,
    };
    Ok((User { name, rights }, hash))
}

/// The fields of a user's line, without the blanks around them.
pub(super) struct Fields<'a> {
    pub(super) name: &'a str,
    pub(super) hash: &'a str,
    pub(super) devices: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Splits a line at its first two colons: ids of devices may contain others. `None` if it
    /// has none.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once(':')?;
        let (hash, devices) = match rest.split_once(':') {
            Some((hash, devices)) => (hash, Some(devices)),
            None => (rest, None),
        };
        Some(Self { name: name.trim(), hash: hash.trim(), devices })
    }
}

fn parse_rights(patterns: &str) -> Result<Rights, WhyInvalid> {
    let parse = |text: &str| {
        text.parse::<Pattern>().map_err(|why| WhyInvalid::Pattern { pattern: text.to_owned(), why })
    };
    let patterns = rights::split(patterns).map(parse).collect::<Result<Vec<_>, _>>()?;
    Rights::matching(patterns).map_err(WhyInvalid::Patterns)
}

#[cfg(test)]
mod tests {
    use super::super::hash::tests::{OF_MOSQUITTO, OF_MOSQUITTO_2_1};
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        let error = parse(text).expect_err(text).to_string();
        for secret in ["$7$", "$argon2id$", "hunter2", &OF_MOSQUITTO[..20], &OF_MOSQUITTO_2_1[..40]]
        {
            let shown = error.replace("$argon2id$ or $7$", "");
            assert!(!shown.contains(secret), "{error}");
        }
        error
    }

    #[test]
    fn lines_of_mosquitto_passwd_and_our_own_are_read() {
        let text = format!(
            "# devices\n\npump-17:{OF_MOSQUITTO}\n  hall 3 : {OF_MOSQUITTO_2_1} : hall-3-* site:x \r\n\
             gateway:{OF_MOSQUITTO}:*\n#off:{OF_MOSQUITTO}\n   "
        );
        let lines = parse(&text).expect("it is valid");
        let shown: Vec<_> = lines
            .iter()
            .map(|line| {
                let Line { user, hash } = line;
                format!("{} {} {:?}", user.name(), hash.kind(), user.rights().patterns())
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#"pump-17 pbkdf2-sha512 ["pump-17"]"#,
                r#"hall 3 argon2id ["hall-3-*", "site:x"]"#,
                r#"gateway pbkdf2-sha512 ["*"]"#,
            ]
        );
        let allowed = |line: usize, device| lines[line].user.rights().allows(device);
        assert!(allowed(0, "pump-17") && !allowed(0, "pump-18"));
        assert!(allowed(1, "site:x") && !allowed(1, "hall 3"));
        assert!(allowed(2, "anything"));
        assert!(parse("").expect("it is valid").is_empty());
    }

    #[test]
    fn an_error_names_the_line_and_what_would_be_right() {
        let hash = OF_MOSQUITTO;
        let twice = format!("a:{hash}\n\nb:{hash}\na:{hash}:*\n");
        let long = format!("a:{hash}:{}", "x ".repeat(MAX_LINE_BYTES / 2));
        let many = format!("a:{hash}:{}", "x ".repeat(65));
        for (text, expected) in [
            ("\nhunter2\n".to_owned(), "line 2: it is not NAME:HASH or NAME:HASH:DEVICES"),
            ("a:hunter2".to_owned(), "line 1: the text after the name is not a hash"),
            ("a:".to_owned(), "user set-password` with the name \"a\" corrects it"),
            (format!(":{hash}"), "line 1: a user name has 1 to 256 bytes; this one is empty"),
            (format!("a\u{7}b:{hash}"), "line 1: a user name must not contain a control character"),
            (format!("{}:{hash}", "n".repeat(257)), "this one has 257"),
            (format!(" #a:{hash}"), "line 1: a user name must not begin with '#'"),
            (format!("a:{hash}:hall/+"), "line 1: pattern \"hall/+\": no device id contains \"/\""),
            (format!("a:{hash}:"), "line 1: a user has 1 to 64 patterns"),
            (format!("a:{hash}:  "), "without the second ':'"),
            (many, "this one has 65"),
            (long, "line 1: it is longer than 16384 bytes"),
            (twice, "line 4: user \"a\" is on line 1 already: remove one of the two lines"),
        ] {
            let error = error(&text);
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_line_is_read_or_refused(
            at in 0..300_usize,
            cut in 0..10_usize,
            text in "[:$=,#*\\\\ \\x00a0\u{200b}é9]{0,6}",
        ) {
            for hash in [OF_MOSQUITTO, OF_MOSQUITTO_2_1] {
                let mut line: Vec<char> = format!("pump-17:{hash}:hall-3-* x").chars().collect();
                let at = at.min(line.len());
                line.splice(at..(at + cut).min(line.len()), text.chars());
                let line: String = line.into_iter().collect();
                match parse(&line) {
                    Ok(lines) => prop_assert!(lines.len() <= 1),
                    Err(error) => prop_assert!(error.to_string().starts_with("line 1: ")),
                }
            }
        }
    }

    #[test]
    fn the_number_of_users_is_bounded() {
        let lines = |count| (0..count).map(|n| format!("{n}:{OF_MOSQUITTO}\n")).collect::<String>();
        assert_eq!(parse(&lines(MAX_USERS)).expect("it is valid").len(), MAX_USERS);
        assert!(error(&lines(MAX_USERS + 1)).contains("line 100001: this is user 100001, and"));
    }

    #[test]
    fn what_is_not_a_text_file_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("users");
        let why = |path: &Path| read(path).expect_err("it cannot be read").why().to_string();
        assert!(why(&path).contains("`heartbeatd user add NAME` creates it"));
        assert!(why(folder.path()).contains("it is not a file"));
        assert!(why(Path::new("/dev/null")).contains("it is not a file"));
        std::fs::write(&path, b"a\nb\n\xff\n").expect("a file");
        assert_eq!(why(&path), "line 3: it is not UTF-8");
        std::fs::write(&path, vec![b'#'; MAX_BYTES as usize + 1]).expect("a file");
        assert_eq!(why(&path), "it is larger than 33554432 bytes");
        std::fs::write(&path, vec![b'#'; MAX_BYTES as usize]).expect("a file");
        assert!(read(&path).is_ok());
    }
}
