//! Changes of the users file by a command.
//!
//! A change is a new file in the place of the old one, which a reader sees as a whole or not
//! at all. Lines that it does not concern stay as they are, comments too. Two commands at once
//! take turns: each holds a lock of the file from reading it until its replacement.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::file::{self, Fields};
use super::{PasswordHash, Rights, UserName, UsersError};

/// The mode of a new file. Only its owner may read the hashes.
const PRIVATE: u32 = 0o600;

/// The reason why a users file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The file cannot be read, or one of its lines cannot be used.
    #[error("users file {0}")]
    Unusable(#[from] UsersError),
    /// The file cannot be locked or written.
    #[error("users file {}: {what}: {why}", path.display())]
    Io {
        path: PathBuf,
        /// The sentence that the reason ends.
        what: &'static str,
        why: io::Error,
    },
    #[error(
        "user {0} exists already: `heartbeatd user set-password {0}` changes its password; its \
         devices are the third field of its line in the users file"
    )]
    Exists(UserName),
    #[error("there is no user {0}; `heartbeatd user list` lists all")]
    Unknown(UserName),
}

/// True if the file has a line of that user, whether it can be used or not. A missing file is
/// an error.
pub(crate) fn has(path: &Path, name: &UserName) -> Result<bool, EditError> {
    let text = file::read(path)?.text;
    Ok(text.lines().any(|line| is_of(line, name)))
}

/// Adds a user. Without `rights` it may publish for the device of its own name. Creates the
/// file if it is missing; returns true if so.
pub(crate) fn add(
    path: &Path,
    name: &UserName,
    hash: &PasswordHash,
    rights: Option<&Rights>,
) -> Result<bool, EditError> {
    let file = Locked::open(path, true)?;
    let created = file.was_created;
    let mut text = file.text()?;
    if text.lines().any(|line| is_of(line, name)) {
        return Err(EditError::Exists(name.clone()));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text += &format!("{name}:{hash}");
    if let Some(rights) = rights {
        text += &format!(":{}", rights.patterns().join(" "));
    }
    text.push('\n');
    file.replace(&text)?;
    Ok(created)
}

/// Changes the password of a user, whether its line could be used before or not.
pub(crate) fn set_password(
    path: &Path,
    name: &UserName,
    hash: &PasswordHash,
) -> Result<(), EditError> {
    let with_hash = |line: &str| match Fields::of(line)?.devices {
        Some(devices) => Some(format!("{name}:{hash}:{}\n", devices.trim())),
        None => Some(format!("{name}:{hash}\n")),
    };
    change_lines(path, name, with_hash)
}

/// Removes a user.
pub(crate) fn remove(path: &Path, name: &UserName) -> Result<(), EditError> {
    change_lines(path, name, |_| None)
}

/// Replaces the lines of a user by what `change` returns.
fn change_lines(
    path: &Path,
    name: &UserName,
    change: impl Fn(&str) -> Option<String>,
) -> Result<(), EditError> {
    let file = Locked::open(path, false)?;
    let text = file.text()?;
    let (mut changed, mut is_there) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        if is_of(line, name) {
            is_there = true;
            changed += &change(line).unwrap_or_default();
        } else {
            changed += line;
        }
    }
    if !is_there {
        return Err(EditError::Unknown(name.clone()));
    }
    file.replace(&changed)
}

/// True for the line of a user, even if it cannot be used otherwise.
fn is_of(line: &str, name: &UserName) -> bool {
    let fields = Fields::of(line).filter(|_| file::is_of_user(line));
    fields.is_some_and(|fields| fields.name == name.as_str())
}

/// A users file that no other command changes meanwhile.
struct Locked {
    /// Without links, so that a link to the file stays one.
    path: PathBuf,
    file: File,
    /// True if this change has created the file. Another one may have filled it first.
    was_created: bool,
    /// True if the file is the one that was created, and still empty.
    is_new: bool,
}

impl Locked {
    fn open(path: &Path, create: bool) -> Result<Self, EditError> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let failed = |why| EditError::Io { path: path.clone(), what: "it cannot be locked", why };
        let mut was_created = false;
        loop {
            let (file, is_new) = open(&path, create)?;
            was_created |= is_new;
            file.lock().map_err(failed)?;
            // Otherwise the command that had the lock before has replaced the file.
            if is_at(&file, &path).map_err(failed)? {
                return Ok(Self { path, file, was_created, is_new });
            }
        }
    }

    fn text(&self) -> Result<String, UsersError> {
        file::read(&self.path).map(|contents| contents.text)
    }

    /// Replaces the file by another one with this text, and the same mode and owner.
    fn replace(mut self, text: &str) -> Result<(), EditError> {
        file::check(&self.path, text)?;
        let failed = |why| EditError::Io {
            path: self.path.clone(),
            what: "it cannot be replaced by a file in the same folder",
            why,
        };
        self.try_replace(text).map_err(failed)?;
        self.is_new = false;
        Ok(())
    }

    fn try_replace(&self, text: &str) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".new");
        let new = folder.join(name);
        // Only the command that has the lock uses this name: what is there was left behind.
        let _ = fs::remove_file(&new);
        let replaced = self.write(&new, text).and_then(|()| fs::rename(&new, &self.path));
        if replaced.is_err() {
            let _ = fs::remove_file(&new);
        }
        replaced?;
        // Otherwise a power failure may undo it. Not every file system can do that.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Writes a file with the mode and the owner of this one.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = private().open(path)?;
        let (old, new) = (self.file.metadata()?, file.metadata()?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

impl Drop for Locked {
    /// Removes a file that was created in vain.
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file, or creates it. True if it is new.
fn open(path: &Path, create: bool) -> Result<(File, bool), EditError> {
    match File::open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            match private().open(path) {
                Ok(file) => {
                    // A file that root creates in a folder of the service is for the service.
                    let _ = give_to_owner_of_folder(&file, path);
                    Ok((file, true))
                }
                // Another command was quicker.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && !path.is_symlink() =>
                {
                    open(path, create)
                }
                Err(why) => {
                    let what = "it cannot be created";
                    Err(EditError::Io { path: path.to_owned(), what, why })
                }
            }
        }
        Err(error) => Err(UsersError::new(path, error).into()),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(PRIVATE);
    options
}

fn give_to_owner_of_folder(file: &File, path: &Path) -> io::Result<()> {
    let folder = path.canonicalize()?.parent().map(Path::metadata).transpose()?;
    match folder {
        Some(folder) if rustix::process::geteuid().is_root() => {
            fchown(file, Some(folder.uid()), Some(folder.gid()))
        }
        _ => Ok(()),
    }
}

/// True if the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::tests::{OF_MOSQUITTO, QUICK};
    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().expect(text)
    }

    fn hash() -> PasswordHash {
        PasswordHash::with(QUICK, b"secret").expect("it is computed")
    }

    /// A folder with a users file of these lines, in which `HASH` is one of mosquitto.
    fn written(lines: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("users");
        fs::write(&path, lines.replace("HASH", OF_MOSQUITTO)).expect("a file");
        (folder, path)
    }

    /// The file's text, with `HASH` for one of mosquitto and `NEW` for another.
    fn text(path: &Path) -> String {
        let text = fs::read_to_string(path).expect("it is there").replace(OF_MOSQUITTO, "HASH");
        let word = |word: &str| match word.starts_with("$argon2id$") {
            true => "NEW".to_owned(),
            false => word.to_owned(),
        };
        let line = |line: &str| line.split(':').map(word).collect::<Vec<_>>().join(":");
        text.split('\n').map(line).collect::<Vec<_>>().join("\n")
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it is there").mode() & 0o7777
    }

    #[test]
    fn a_change_leaves_all_other_lines_as_they_are() {
        let (_folder, path) = written("# pumps\r\n\n  a :HASH\t: x  y\n#a:HASH\nb:HASH:*\nc:HASH");
        let patterns = ["hall-3-*", r"pump\ 17"].map(|text| text.parse().expect(text));
        let rights = Rights::matching(patterns).expect("valid");
        assert!(!add(&path, &name("d"), &hash(), Some(&rights)).expect("it is added"));
        set_password(&path, &name("a"), &hash()).expect("it is there");
        set_password(&path, &name("c"), &hash()).expect("it is there");
        remove(&path, &name("b")).expect("it is there");
        let expected = "# pumps\r\n\na:NEW:x  y\n#a:HASH\nc:NEW\nd:NEW:hall-3-* pump\\ 17\n";
        assert_eq!(text(&path), expected);
        assert_eq!(super::super::list(&path).expect("it is valid").len(), 3);
    }

    #[test]
    fn a_missing_file_is_created_for_its_owner_only_and_only_to_add_a_user() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("users");
        for refused in [remove(&path, &name("a")), set_password(&path, &name("a"), &hash())] {
            let error = refused.expect_err("there is none").to_string();
            assert!(error.contains("there is no such file"), "{error}");
            assert!(!path.exists());
        }
        assert!(add(&path, &name("a"), &hash(), None).expect("it is created"));
        assert_eq!((text(&path).as_str(), mode(&path)), ("a:NEW\n", 0o600));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn the_mode_stays_and_a_link_stays_a_link() {
        let (folder, path) = written("a:HASH\n");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("it is ours");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("users", &link).expect("a link");
        add(&link, &name("b"), &hash(), None).expect("it is added");
        assert!(link.is_symlink());
        assert_eq!((text(&path).as_str(), mode(&path)), ("a:HASH\nb:NEW\n", 0o640));
        remove(&path, &name("a")).expect("it is there");
        remove(&path, &name("b")).expect("it is there");
        assert_eq!((text(&path).as_str(), mode(&path)), ("", 0o640));
        let dangling = folder.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).expect("a link");
        let error = add(&dangling, &name("b"), &hash(), None).expect_err("a link to nothing");
        assert!(error.to_string().contains("it cannot be created"), "{error}");
    }

    /// Only root can give a file away, and only root needs to.
    #[test]
    fn a_file_keeps_its_owner_and_a_new_one_gets_that_of_its_folder() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (folder, path) = written("a:HASH\n");
        let owner = |path: &Path| {
            let metadata = path.metadata().expect("it is there");
            (metadata.uid(), metadata.gid())
        };
        std::os::unix::fs::chown(&path, Some(4711), Some(4712)).expect("root may");
        add(&path, &name("b"), &hash(), None).expect("it is added");
        assert_eq!(owner(&path), (4711, 4712));
        std::os::unix::fs::chown(folder.path(), Some(4713), Some(4714)).expect("root may");
        fs::remove_file(&path).expect("it is there");
        add(&path, &name("b"), &hash(), None).expect("it is added");
        assert_eq!(owner(&path), (4713, 4714));
    }

    #[test]
    fn a_user_is_added_once_and_one_that_is_not_there_is_not_changed() {
        let (_folder, path) = written("a:HASH\n");
        let error = add(&path, &name("a"), &hash(), None).expect_err("it is there").to_string();
        assert!(
            error.contains("user a exists already: `heartbeatd user set-password a`"),
            "{error}"
        );
        for refused in [remove(&path, &name("b")), set_password(&path, &name("b"), &hash())] {
            let error = refused.expect_err("it is not there").to_string();
            assert!(error.contains("there is no user b; `heartbeatd user list`"), "{error}");
        }
        assert_eq!(text(&path), "a:HASH\n");
    }

    #[test]
    fn a_line_that_cannot_be_used_can_be_corrected_and_no_other_change_is_made() {
        let (_folder, path) = written("a:secret\nb:HASH\nb:HASH:*\n");
        let before = text(&path);
        for refused in [add(&path, &name("c"), &hash(), None).map(drop), remove(&path, &name("b"))]
        {
            let error = refused.expect_err("a line is invalid").to_string();
            assert!(error.contains("users: line 1: the text after the name is not a"), "{error}");
            assert_eq!(text(&path), before);
        }
        fs::write(&path, before.replace("b:HASH:*\n", "").replace("HASH", OF_MOSQUITTO))
            .expect("a file");
        set_password(&path, &name("a"), &hash()).expect("it is corrected");
        assert_eq!(text(&path), "a:NEW\nb:HASH\n");
    }

    #[test]
    fn a_user_that_is_there_twice_is_removed_twice() {
        let (_folder, path) = written("a:HASH\nb:HASH\na:HASH:*\n");
        remove(&path, &name("a")).expect("it is there");
        assert_eq!(text(&path), "b:HASH\n");
    }

    #[test]
    fn commands_at_once_take_turns() {
        const USERS: usize = 50;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, hash) = (folder.path().join("users"), hash());
        let add = |n: usize| add(&path, &name(&n.to_string()), &hash, None).expect("it is added");
        let created = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..USERS).map(|n| scope.spawn(move || add(n))).collect();
            let created = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            created.filter(|created| *created).count()
        });
        assert_eq!((text(&path).lines().count(), created), (USERS, 1));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
