//! The invariants of `docs/architecture.md` that can be read off the sources, and that
//! neither the compiler nor `clippy.toml` holds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Texts that the code of some files may not contain.
struct Rule {
    /// The sentence that is held.
    says: &'static str,
    /// The files, by the beginning of their path.
    of: &'static [&'static str],
    /// The files among them that may, by the beginning of their path.
    but: &'static [&'static str],
    forbidden: &'static [&'static str],
    /// A line that breaks the rule, to see that it would be found.
    broken_by: &'static str,
}

const RULES: [Rule; 14] = [
    Rule {
        says: "only store/ uses sea-orm and sqlx",
        of: &["src/"],
        but: &["src/store/"],
        forbidden: &["sea_orm::", "sqlx::", "use sea_orm", "use sqlx"],
        broken_by: "use sea_orm::EntityTrait;",
    },
    Rule {
        says: "only the MQTT client uses paho",
        of: &["src/"],
        but: &["src/mqtt/"],
        forbidden: &["paho_mqtt::", "use paho_mqtt"],
        broken_by: "use paho_mqtt as paho;",
    },
    Rule {
        says: "the receiver's protocol knows no sockets, no tasks and no clock",
        of: &["src/receiver/codec", "src/receiver/session"],
        but: &["src/receiver/codec/tests", "src/receiver/session/tests"],
        forbidden: &["std::net", "tokio", "async ", ".await", "Clock", "::now()"],
        broken_by: "stream.write_all(&answer).await?;",
    },
    Rule {
        says: "the virtual fleet has no connection, no task and no clock",
        of: &["src/simulate/fleet", "src/simulate/payload"],
        but: &[],
        forbidden: &["std::net", "tokio", "async ", ".await", "Clock", "::now()", "crate::"],
        broken_by: "sleep(period).await;",
    },
    Rule {
        says: "domain/ imports only domain/",
        of: &["src/domain/"],
        but: &[],
        forbidden: &[
            "crate::actors",
            "crate::app",
            "crate::cli",
            "crate::clock",
            "crate::config",
            "crate::duration",
            "crate::http",
            "crate::inbox",
            "crate::logging",
            "crate::metrics",
            "crate::mqtt",
            "crate::process",
            "crate::receiver",
            "crate::secrets",
            "crate::store",
            "crate::users",
            "crate::views",
            "crate::{",
        ],
        broken_by: "use crate::store::DeviceStore;",
    },
    Rule {
        says: "domain/ does no I/O and reads no clock",
        of: &["src/domain/"],
        but: &[],
        forbidden: &["std::fs", "std::net", "std::thread", "tokio::", "::now()", "actix"],
        broken_by: "let now = Instant::now();",
    },
    Rule {
        says: "config/ imports neither the MQTT client nor the store",
        of: &["src/config"],
        but: &[],
        forbidden: &["crate::mqtt", "crate::store"],
        broken_by: "use crate::mqtt::Client;",
    },
    Rule {
        says: "no handler of DeviceRegistry waits for the database",
        of: &["src/actors/device_registry"],
        but: &[],
        forbidden: &["ctx.wait(", "AtomicResponse", ".wait(ctx)"],
        broken_by: "ctx.wait(flush.into_actor(self));",
    },
    Rule {
        says: "only app.rs starts actors",
        of: &["src/"],
        but: &["src/app", "src/actors/mod.rs"],
        forbidden: &["on_own_thread(", "start_in_arbiter("],
        broken_by: "let registry = on_own_thread(\"device_registry\", make);",
    },
    Rule {
        says: "whoever is below the actors does not know them",
        of: &[
            "src/store/",
            "src/domain/",
            "src/views/",
            "src/mqtt/",
            "src/inbox",
            "src/receiver/",
            "src/users/",
        ],
        but: &[],
        forbidden: &["crate::actors", "crate::app", "crate::cli", "crate::http"],
        broken_by: "use crate::actors::ticker::Ticker;",
    },
    Rule {
        says: "users/ knows neither MQTT nor the configuration",
        of: &["src/users/"],
        but: &[],
        forbidden: &["crate::broker", "crate::config", "crate::mqtt", "crate::store", "actix"],
        broken_by: "use crate::config::EmbeddedConfig;",
    },
    Rule {
        says: "only users/ hashes passwords",
        of: &["src/"],
        but: &["src/users/"],
        forbidden: &["argon2::", "use argon2", "pbkdf2"],
        broken_by: "use argon2::Argon2;",
    },
    Rule {
        says: "domain and store types do not say how they are shown; a view does",
        of: &["src/domain/", "src/store/"],
        but: &["src/store/exclusive/holder.rs", "src/store/rows", "src/domain/topic.rs"],
        forbidden: &["Serialize", "ValueEnum"],
        broken_by: "#[derive(Clone, Debug, Serialize)]",
    },
    Rule {
        says: "a migration does not import entity",
        of: &["migration/src/"],
        but: &[],
        forbidden: &["entity::", "use entity"],
        broken_by: "use entity::device;",
    },
];

impl Rule {
    /// The lines of a file that break this rule, with their numbers.
    fn broken<'a>(&self, path: &str, text: &'a str) -> Vec<(usize, &'a str)> {
        let begins = |beginnings: &[&str]| beginnings.iter().any(|b| path.starts_with(b));
        if !begins(self.of) || begins(self.but) {
            return Vec::new();
        }
        let breaks = |line: &str| self.forbidden.iter().any(|text| line.contains(text));
        code(text).filter(|(_, line)| breaks(line)).collect()
    }
}

/// The lines of a file that are neither comments nor unit tests, which come last.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_start()));
    lines
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.starts_with("//"))
}

/// The source files below a folder of the repository, with their paths in it.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path: PathBuf = entry.expect("it is there").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("it is below").display().to_string();
                files.push((name, fs::read_to_string(&path).expect("it is text")));
            }
        }
    }
    files
}

fn all_sources() -> Vec<(String, String)> {
    [sources(Path::new("src")), sources(Path::new("migration"))].concat()
}

#[test]
fn the_invariants_of_the_architecture_hold() {
    let mut broken = String::new();
    for (path, text) in all_sources() {
        for rule in &RULES {
            for (number, line) in rule.broken(&path, &text) {
                let _ = writeln!(broken, "{path}:{number}: {}: {line}", rule.says);
            }
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn each_rule_finds_what_breaks_it() {
    for rule in &RULES {
        let Rule { says, of, broken_by, .. } = rule;
        let path = format!("{}/somewhere.rs", of[0].trim_end_matches('/'));
        let text = format!("//! Imports nothing.\n\n    {broken_by}\n");
        assert_eq!(rule.broken(&path, &text), [(3, *broken_by)], "{says}");
        assert!(rule.broken(&path, &format!("// {broken_by}")).is_empty(), "{says}");
        assert!(rule.broken("elsewhere/x.rs", &text).is_empty(), "{says}");
    }
}

#[test]
fn every_rule_is_about_files_that_exist() {
    let sources = all_sources();
    for Rule { says, of, but, .. } in &RULES {
        for beginning in of.iter().chain(*but) {
            let exists = sources.iter().any(|(path, _)| path.starts_with(beginning));
            assert!(exists, "{says}: there is nothing at {beginning}");
        }
    }
}

/// The reader looks for the subject first.
const QUESTIONS: [&str; 7] = ["What", "How", "Where", "Whether", "Who", "Nobody", "Why"];

/// True for a line of documentation that begins with a word of a question.
fn begins_with_a_question(line: &str) -> bool {
    let line = line.trim_start();
    let Some(words) = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! ")) else {
        return false;
    };
    QUESTIONS.iter().any(|question| words.split([' ', ',', '\'']).next() == Some(question))
}

#[test]
fn documentation_begins_with_its_subject() {
    assert!(begins_with_a_question("    /// How long an answer may take."));
    assert!(!begins_with_a_question("/// However long it takes."));
    let (mut questions, mut lines) = (Vec::new(), 0);
    for (path, text) in all_sources() {
        for (index, line) in text.lines().enumerate() {
            lines += usize::from(line.trim_start().starts_with("///"));
            if begins_with_a_question(line) {
                questions.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    // The later lines of a paragraph begin with whatever word comes next.
    assert!(100 * questions.len() < 5 * lines, "\n{}", questions.join("\n"));
}
