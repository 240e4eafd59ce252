//! Reads a configuration: the defaults, overlaid with the file and the environment, and the
//! files that hold secrets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{
    Config, ConfigError, DEFAULT_PATH, DEFAULTS, DatabaseUrl, ENVIRONMENT_PREFIX, Place, Secret,
};
use crate::secrets::{HIDDEN, is_secret_key};

/// The largest file that is read, in bytes. No configuration and no secret is larger, and
/// `/dev/zero` has no end.
const MAX_FILE: u64 = 1 << 20;

/// A configuration, and what its operator should know about it.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The configuration. It is valid.
    pub config: Config,
    /// Warnings about it for `run` and `check-config` to log, one line each.
    pub warnings: Vec<String>,
    /// The number of environment variables that a Kubernetes Service has set.
    pub kubernetes_variables: usize,
}

impl Loaded {
    /// Reads the file at `path` and the environment, and checks both. Without a path it is
    /// [`DEFAULT_PATH`], if there is such a file.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the key, its value and what is allowed.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from(path, std::env::vars_os())
    }

    fn from(
        path: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let schema = serde_json::to_value(Config::default()).unwrap_or_default();
        let text = match path {
            Some(path) => read_text(path)?,
            None => match read_text(Path::new(DEFAULT_PATH)) {
                Err(ConfigError::File { why, .. }) if why == MISSING => String::new(),
                read => read?,
            },
        };
        let mut places = Places::default();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        places.add_file(path, &text, &schema)?;
        let environment = Environment::new(variables)?;
        places.add_environment(&environment, &schema)?;

        let config = overlay(&text, environment.keys).map_err(|error| places.explain(path, &error));
        let mut config = config?;
        config.read_secrets().map_err(|error| places.locate(error))?;
        config.validate().map_err(|error| places.locate(error))?;
        let own = places.has_secret_in_file(&config).then_some(path);
        let mut warnings = environment.warnings;
        warnings.extend(config.file_warnings(own));
        Ok(Self { config, warnings, kubernetes_variables: environment.kubernetes_variables })
    }
}

/// Overlays the defaults with the file, and both with the environment. The environment's
/// values are texts, which are parsed as each key requires.
fn overlay(
    file: &str,
    environment: BTreeMap<String, String>,
) -> Result<Config, config::ConfigError> {
    let toml = |text| config::File::from_str(text, config::FileFormat::Toml);
    let environment =
        config::Environment::default().source(Some(environment.into_iter().collect()));
    config::Config::builder()
        .add_source(toml(DEFAULTS))
        .add_source(toml(file))
        .add_source(environment)
        .build()?
        .try_deserialize()
}

impl Config {
    fn read_secrets(&mut self) -> Result<(), ConfigError> {
        if let Some(secret) = read_secret("mqtt.password_file", &self.mqtt.password_file)? {
            one_of("mqtt.password", self.mqtt.password.as_ref(), &secret, HIDDEN)?;
            self.mqtt.password = Some(secret);
        }
        if let Some(secret) = read_secret("database.url_file", &self.database.url_file)? {
            let url: DatabaseUrl = secret.reveal().to_owned().into();
            // A copy of the repository's config.toml sets the default, which contradicts
            // nothing.
            let set = (self.database.url != Config::default().database.url)
                .then(|| Secret::from(self.database.url.reveal().to_owned()));
            one_of("database.url", set.as_ref(), &secret, &url.to_string())?;
            self.database.url = url;
        }
        if let Some(secret) = read_secret("http.token_file", &self.http.token_file)? {
            one_of("http.token", self.http.token.as_ref(), &secret, HIDDEN)?;
            self.http.token = Some(secret);
        }
        Ok(())
    }
}

/// Refuses a secret that is set and differs from the one in its file. `printed` is what
/// `check-config` prints in the secret's place, beside the name of the file; it is accepted.
fn one_of(
    key: &str,
    set: Option<&Secret>,
    in_file: &Secret,
    printed: &str,
) -> Result<(), ConfigError> {
    let contradicts = |set: &Secret| set != in_file && set.reveal() != printed;
    if !set.is_some_and(contradicts) {
        return Ok(());
    }
    Err(ConfigError::Value {
        key: key.to_owned(),
        value: HIDDEN.to_owned(),
        expected: format!(
            "{key}_file is set too, and its file holds something else: set only one of them"
        ),
        place: None,
    })
}

/// Reads the secret in the file that `key` names, if it names one.
pub(crate) fn read_secret(
    key: &str,
    path: &Option<PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let unusable = |expected: String| ConfigError::Value {
        key: key.to_owned(),
        value: path.display().to_string(),
        expected,
        place: None,
    };
    let text = match read_text(path) {
        Ok(text) => text,
        Err(ConfigError::File { why, .. }) => {
            return Err(unusable(format!(
                "a file that can be read by the user that runs heartbeatd is expected: {why}"
            )));
        }
        Err(other) => return Err(other),
    };
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(unusable("a file that holds a secret is expected: it is empty".to_owned()));
    }
    if secret.contains(['\r', '\n']) {
        let lines = secret.lines().count().max(2);
        return Err(unusable(format!(
            "a file with nothing but the secret on one line is expected: it has {lines} lines"
        )));
    }
    Ok(Some(secret.to_owned().into()))
}

const MISSING: &str = "there is no such file";

pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let failed = |why: String| ConfigError::File { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(failed(MISSING.to_owned()));
        }
        Err(error) => return Err(failed(error.to_string())),
        Ok(_) if bytes.len() as u64 > MAX_FILE => {
            return Err(failed(format!("it is larger than {MAX_FILE} bytes")));
        }
        Ok(_) => (),
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        failed(format!("line {} is not UTF-8", line + 1))
    })
}

/// The variables that are meant for this program.
#[derive(Debug, Default)]
struct Environment {
    /// The values, by key (`mqtt.url`).
    keys: BTreeMap<String, String>,
    /// The variables' names (`HEARTBEATD_MQTT__URL`), by key.
    names: BTreeMap<String, String>,
    warnings: Vec<String>,
    kubernetes_variables: usize,
}

impl Environment {
    /// Keeps the variables whose name has `__` after the prefix. Others have the prefix by
    /// chance: a Kubernetes Service called heartbeatd sets a dozen in every container.
    fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        for (name, value) in variables {
            let shown = name.to_string_lossy().into_owned();
            let Some(rest) = without_prefix(&shown) else { continue };
            if !rest.contains("__") {
                environment.set_aside(&shown, rest);
                continue;
            }
            let place = || Place::Environment(shown.escape_debug().to_string());
            if name.to_str().is_none() {
                return Err(ConfigError::NotUtf8 { place: place(), what: "name" });
            }
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::NotUtf8 { place: place(), what: "value" });
            };
            let key = rest.to_lowercase().replace("__", ".");
            environment.keys.insert(key.clone(), value);
            environment.names.insert(key, shown);
        }
        environment.warnings.sort();
        Ok(environment)
    }

    /// Warns about a variable that is not a key. The warning does not show its value.
    fn set_aside(&mut self, name: &str, rest: &str) {
        if is_of_kubernetes(rest) {
            self.kubernetes_variables += 1;
            return;
        }
        let hint = match rest.split_once('_') {
            Some((section, key)) => format!("; is {ENVIRONMENT_PREFIX}_{section}__{key} meant?"),
            None => String::new(),
        };
        let name = name.escape_debug();
        self.warnings.push(format!(
            "the variable {name} is ignored: keys are {ENVIRONMENT_PREFIX}_<SECTION>__<KEY>{hint}"
        ));
    }
}

fn without_prefix(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked(ENVIRONMENT_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(ENVIRONMENT_PREFIX).then_some(())?;
    rest.strip_prefix('_')
}

/// True for names that Kubernetes sets: `SERVICE_HOST`, `SERVICE_PORT_HTTP`, `PORT`,
/// `PORT_1883_TCP_ADDR`, also at the end of a longer name (`MQTT_SERVICE_HOST`).
fn is_of_kubernetes(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let is_port = |rest: &str| {
        rest.split_once("_PORT_").is_some_and(|(_, after)| {
            let mut parts = after.split('_');
            parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
                && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
                && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
                && parts.next().is_none()
        })
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_PORT")
        || rest.contains("_SERVICE_PORT_")
        || is_port(&rest)
}

/// The place and the value of each key that is set.
#[derive(Debug, Default)]
struct Places(BTreeMap<String, (Place, String)>);

impl Places {
    /// Notes the keys that the file sets, and refuses unknown ones.
    fn add_file(&mut self, path: &Path, text: &str, schema: &Json) -> Result<(), ConfigError> {
        let at = |span: &Range<usize>| place_in(path, text, span.start);
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            place: at(&error.span().unwrap_or_default()),
            // Only the message, because `Display` quotes the line.
            why: error.message().to_owned(),
        })?;
        self.add_table("", table.get_ref(), schema, &at)
    }

    fn add_table(
        &mut self,
        section: &str,
        table: &DeTable<'_>,
        schema: &Json,
        at: &impl Fn(&Range<usize>) -> Place,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let known = known_key(schema, section, name.get_ref(), || at(&name.span()))?;
            let key = join(section, name.get_ref());
            match (value.get_ref(), known) {
                (DeValue::Table(table), Json::Object(_)) => {
                    self.add_table(&key, table, known, at)?;
                }
                _ => {
                    let shown = check_kind(&key, value, known, at)?;
                    self.0.insert(key, (at(&value.span()), shown));
                }
            }
        }
        Ok(())
    }

    /// Notes the keys that the environment sets, and refuses unknown ones.
    fn add_environment(
        &mut self,
        environment: &Environment,
        schema: &Json,
    ) -> Result<(), ConfigError> {
        for (key, value) in &environment.keys {
            let name = environment.names.get(key).cloned().unwrap_or_default();
            let place = Place::Environment(name);
            let mut known = schema;
            let mut section = String::new();
            for part in key.split('.') {
                known = known_key(known, &section, part, || place.clone())?;
                section = join(&section, part);
            }
            if known.is_object() {
                return Err(wrong_kind(key, HIDDEN, "it is a section, not a key", place));
            }
            self.0.insert(key.clone(), (place, format!("{value:?}")));
        }
        Ok(())
    }

    /// Turns serde's error into one with the key, its place, and its value unless that may
    /// be a secret.
    fn explain(&self, path: &Path, error: &config::ConfigError) -> ConfigError {
        use config::ConfigError::{At, Type};
        let (key, expected) = match error {
            Type { key, expected, .. } => (key, format!("{expected} is expected")),
            At { key, error, .. } => (key, error.to_string()),
            _ => (&None, String::new()),
        };
        let Some(key) = key.clone() else {
            // Not reached: the file was parsed before and its keys are known. The library's
            // message is dropped, because it may quote a line.
            let why = "a value in it or in the environment cannot be represented".to_owned();
            return ConfigError::File { path: path.to_owned(), why };
        };
        let place = self.0.get(&key);
        let value = place.map_or(HIDDEN, |(_, value)| value);
        let value = if is_secret_key(&key) { HIDDEN.to_owned() } else { value.to_owned() };
        ConfigError::Value { key, value, expected, place: place.map(|(place, _)| place.clone()) }
    }

    /// True if the configuration file itself contains a secret.
    fn has_secret_in_file(&self, config: &Config) -> bool {
        let in_file = |key| matches!(self.0.get(key), Some((Place::File { .. }, _)));
        let database = &config.database;
        in_file("mqtt.password")
            || in_file("http.token")
            || (in_file("database.url") && database.url_file.is_none() && database.url.has_secret())
    }

    /// Adds the place to an error that has only the key.
    fn locate(&self, error: ConfigError) -> ConfigError {
        match error {
            ConfigError::Value { key, value, expected, place: None } => {
                let place = self.0.get(&key).map(|(place, _)| place.clone());
                ConfigError::Value { key, value, expected, place }
            }
            other => other,
        }
    }
}

fn place_in(path: &Path, text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let (lines, last) = before
        .rsplit_once('\n')
        .map_or((0, before), |(lines, last)| (lines.matches('\n').count() + 1, last));
    Place::File { path: path.to_owned(), line: lines + 1, column: last.chars().count() + 1 }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Looks up a name in a section of the default configuration.
fn known_key<'a>(
    schema: &'a Json,
    section: &str,
    name: &str,
    place: impl Fn() -> Place,
) -> Result<&'a Json, ConfigError> {
    schema.get(name).ok_or_else(|| ConfigError::UnknownKey {
        place: place(),
        section: section.to_owned(),
        name: name.escape_debug().to_string(),
        known: schema.as_object().map(|known| known.keys().cloned().collect()).unwrap_or_default(),
    })
}

/// Checks that a value has the TOML type of its key, so that nothing is silently rounded or
/// turned into a text, and returns the value in the form that may be shown.
fn check_kind(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    known: &Json,
    at: &impl Fn(&Range<usize>) -> Place,
) -> Result<String, ConfigError> {
    let shown = match value.get_ref() {
        // A section may have been replaced by the URL that belongs in it.
        _ if is_secret_key(key) || known.is_object() => HIDDEN.to_owned(),
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        // What is inside may belong to another key.
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => HIDDEN.to_owned(),
    };
    let expected = match (known, value.get_ref()) {
        (Json::Object(_), _) => format!("a section is expected: [{key}]"),
        (Json::Number(_), DeValue::Integer(number)) if !fits(number) => {
            format!("an integer is expected, at least {} and at most {}", i64::MIN, i64::MAX)
        }
        (Json::Number(number), DeValue::Float(_)) if number.is_f64() => return Ok(shown),
        (Json::Number(_), DeValue::Integer(_) | DeValue::String(_)) => return Ok(shown),
        (Json::Number(_), _) => "an integer is expected".to_owned(),
        (Json::Bool(_), DeValue::Boolean(_) | DeValue::String(_)) => return Ok(shown),
        (Json::Bool(_), _) => "true or false is expected".to_owned(),
        (Json::Array(_), DeValue::Array(_)) | (_, DeValue::String(_)) => return Ok(shown),
        (Json::Array(_), _) => "a list is expected".to_owned(),
        // The key's own type refuses it if it is wrong.
        (_, DeValue::Integer(number)) if !is_secret_key(key) && fits(number) => return Ok(shown),
        _ => "text in quotes is expected".to_owned(),
    };
    Err(wrong_kind(key, &shown, &expected, at(&value.span())))
}

/// True if the integer fits in 64 bits, as TOML requires. The parser accepts any number of
/// digits.
fn fits(number: &DeInteger<'_>) -> bool {
    i64::from_str_radix(number.as_str(), number.radix()).is_ok()
}

fn wrong_kind(key: &str, value: &str, expected: &str, place: Place) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
        place: Some(place),
    }
}
