//! `heartbeatd check-config`: checks the configuration and prints it with all defaults.

use std::io::Write;
use std::process::ExitCode;

use crate::config::Loaded;
use crate::logging::escape::{Escaped, is_hazardous};

pub(super) fn run(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    super::run::tell(loaded);
    loaded.config.check_files()?;
    // Secrets print as ***, see `config::Secret`.
    let text = toml::to_string(&loaded.config)?;
    write!(std::io::stdout(), "{}", escaped(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the same TOML without characters that hide text or drive the terminal. The path
/// of a file may contain any.
fn escaped(toml: &str) -> String {
    toml.lines().map(|line| escaped_line(line) + "\n").collect()
}

fn escaped_line(line: &str) -> String {
    if !line.contains(is_hazardous) {
        return line.to_owned();
    }
    let table = line.parse::<toml::Table>().unwrap_or_default();
    let Some((key, toml::Value::String(text))) = table.iter().next() else {
        return Escaped(line).to_string();
    };
    format!("{key} = {}", basic_string(text))
}

/// A text as TOML, without characters that hide text or drive the terminal.
pub(super) fn basic_string(text: &str) -> String {
    let text: String = text.chars().map(in_basic_string).collect();
    format!("\"{text}\"")
}

fn in_basic_string(c: char) -> String {
    match c {
        '"' | '\\' => format!("\\{c}"),
        _ if is_hazardous(c) => format!("\\U{:08x}", u32::from(c)),
        _ => c.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_quoted_as_toml_reads_it() {
        for text in ["plain", "a\"b", "a\\", "a\u{202e}b", "it's", "a\tb\u{7f}"] {
            let table = format!("name = {}", basic_string(text)).parse::<toml::Table>();
            assert_eq!(table.expect(text)["name"].as_str(), Some(text));
        }
    }

    #[test]
    fn the_printed_toml_is_the_same_without_hazards() {
        for text in ["plain", "a\u{202e}b", "a\u{200b}\"\\'b", "a\u{1b}]0;x\u{7}", "\u{a0}'\\"] {
            let table = toml::Table::from_iter([("ca_file".to_owned(), text.into())]);
            let printed = escaped(&toml::to_string(&table).expect("it is TOML"));
            assert!(!printed.contains(|c| c != '\n' && is_hazardous(c)), "{printed:?}");
            assert_eq!(printed.parse::<toml::Table>().expect(&printed), table);
        }
    }
}
