//! The URLs of the broker and the database, which are only shown taken apart.
//!
//! A password that contains `/`, `#` or `?` misleads a URL parser: it reads the password's
//! beginning as a port and its end as a path. Of a refused URL only the scheme is shown,
//! therefore, and of an accepted one only the parts that are known to hold no secret.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;
use url::form_urlencoded;

use super::{HIDDEN, Secret};

const BROKER_FORM: &str = "mqtt://HOST:1883 or mqtts://HOST:8883";
const DATABASE_FORM: &str = "sqlite://PATH?mode=rwc or postgres://USER@HOST/NAME";
const ENCODE: &str = "in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40 \
                      and % as %25";

/// The schemes with which a refused URL is shown. Any other text before the first colon may
/// be part of a password.
const SHOWN_SCHEMES: [&str; 14] = [
    "mqtt",
    "mqtts",
    "tcp",
    "ssl",
    "tls",
    "ws",
    "wss",
    "http",
    "https",
    "sqlite",
    "postgres",
    "postgresql",
    "mysql",
    "mariadb",
];

/// A URL that cannot be used. At most its scheme is shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{shown}: {expected}")]
pub struct InvalidUrl {
    /// The URL without anything that may be a secret.
    pub shown: String,
    /// The expected form.
    pub expected: String,
}

impl InvalidUrl {
    fn new(raw: &str, expected: impl Into<String>) -> Self {
        let scheme = raw.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        let shown = match scheme.filter(|scheme| SHOWN_SCHEMES.contains(&scheme.as_str())) {
            Some(scheme) => format!("{scheme}://{HIDDEN}"),
            None => HIDDEN.to_owned(),
        };
        Self { shown, expected: expected.into() }
    }
}

/// The address of a broker: `mqtt://HOST:PORT`, or `mqtts://HOST:PORT` for TLS.
///
/// A URL with credentials is refused, so an accepted one can be shown.
///
/// ```
/// use heartbeatd::config::BrokerUrl;
///
/// let url: BrokerUrl = "mqtts://broker.example".parse()?;
/// assert_eq!((url.is_tls(), url.host(), url.port()), (true, "broker.example", 8883));
/// assert!("broker.example:1883".parse::<BrokerUrl>().is_err());
/// # Ok::<(), heartbeatd::config::InvalidUrl>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
}

impl BrokerUrl {
    /// True for `mqtts://`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host's name or address; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port. Without one in the URL it is 1883, or 8883 with TLS.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = |expected: String| InvalidUrl::new(text, expected);
        if let Some(scheme) = scheme_for_bare_address(text) {
            return Err(invalid(format!("{scheme}://{text} is expected ({BROKER_FORM})")));
        }
        let form = || invalid(format!("{BROKER_FORM} is expected"));
        let url = Url::parse(text).map_err(|error| invalid(format!("{error}; {BROKER_FORM}")))?;
        let tls = match url.scheme() {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(form()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            let expected =
                "credentials belong in mqtt.username and mqtt.password_file, not in the URL";
            return Err(invalid(expected.to_owned()));
        }
        let host = url.host_str().filter(|host| is_host(host)).ok_or_else(form)?;
        let only_an_address =
            matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let port = url.port().unwrap_or(if tls { 8883 } else { 1883 });
        if !only_an_address || port == 0 {
            return Err(form());
        }
        // The names of hosts are the same in upper and lower case.
        Ok(Self { tls, host: host.to_ascii_lowercase(), port })
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|invalid: InvalidUrl| D::Error::custom(invalid.expected))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Returns the scheme that `HOST:PORT` lacks, or `None` for any other text, which must not
/// be shown.
fn scheme_for_bare_address(text: &str) -> Option<&'static str> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    is_host(host).then_some(if port == 8883 { "mqtts" } else { "mqtt" })
}

fn is_host(text: &str) -> bool {
    let is_name = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    is_name || in_brackets.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// The address of a database: `sqlite://PATH?mode=rwc` or `postgres://USER@HOST/NAME`.
///
/// It may contain a password. `Display`, `Debug` and serde write `***` in place of its
/// secrets, and only the scheme of a URL that [`DatabaseUrl::check`] refuses.
///
/// ```
/// use heartbeatd::config::DatabaseUrl;
///
/// let url = DatabaseUrl::from("postgres://me:hunter2@db/fleet?password=/p".to_owned());
/// assert_eq!(url.to_string(), "postgres://me:***@db/fleet?password=***");
/// let url = DatabaseUrl::from("postgres://me:hunter/2@db/fleet".to_owned());
/// assert_eq!(url.to_string(), "postgres://***");
/// assert!(url.check().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(Secret);

impl DatabaseUrl {
    /// The URL with its password: for the driver, never for a message.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// True for an SQLite database.
    pub fn is_sqlite(&self) -> bool {
        self.reveal().starts_with("sqlite:")
    }

    /// Checks that the driver understands the URL as its author does.
    ///
    /// # Errors
    ///
    /// An [`InvalidUrl`] that says which form is expected.
    pub fn check(&self) -> Result<(), InvalidUrl> {
        self.taken_apart().map(drop)
    }

    /// The value of a parameter of a PostgreSQL URL, which may have several names. Of several
    /// values the last one counts.
    pub(crate) fn parameter(&self, names: &[&str]) -> Option<String> {
        let url = (!self.is_sqlite()).then(|| Url::parse(self.reveal()).ok())??;
        let named = url.query_pairs().filter(|(name, _)| names.contains(&&**name));
        named.last().map(|(_, value)| value.into_owned())
    }

    /// True if the server is on this machine, as far as the URL says.
    pub(crate) fn is_local(&self) -> bool {
        let named = self.parameter(&["host", "hostaddr"]);
        let host = named.or_else(|| Url::parse(self.reveal()).ok()?.host_str().map(str::to_owned));
        host.is_none_or(|host| is_local_host(&host))
    }

    /// True if the URL holds a password, or something that may be one: options, or whatever makes
    /// it unusable. The names of users and of files are none.
    pub(crate) fn has_secret(&self) -> bool {
        let Ok(url) = self.check().and_then(|()| parse(self.reveal())) else { return true };
        url.password().is_some() || self.parameter(&["password", "options"]).is_some()
    }

    /// True if `***` stands in a secret's place, as in what `check-config` prints.
    pub(crate) fn has_placeholder(&self) -> bool {
        let url = self.reveal();
        url.contains(&format!(":{HIDDEN}@")) || url.contains(&format!("={HIDDEN}"))
    }

    fn taken_apart(&self) -> Result<String, InvalidUrl> {
        let raw = self.reveal();
        if raw.starts_with("sqlite:") {
            sqlite(raw)
        } else if raw.starts_with("postgres://") || raw.starts_with("postgresql://") {
            postgres(raw)
        } else {
            Err(InvalidUrl::new(raw, format!("{DATABASE_FORM} is expected")))
        }
    }
}

impl From<String> for DatabaseUrl {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.taken_apart().unwrap_or_else(|invalid| invalid.shown))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// True for a socket, and for a name or an address that leads to this machine.
pub(crate) fn is_local_host(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_socket = host.is_empty() || host.starts_with('/') || host.starts_with("%2F");
    is_socket || host == "localhost" || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

/// The names of the parameters for TLS, as the driver knows them.
pub(crate) const SSL_MODE: [&str; 2] = ["sslmode", "ssl-mode"];
pub(crate) const SSL_ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
pub(crate) const SSL_CERT: [&str; 2] = ["sslcert", "ssl-cert"];
pub(crate) const SSL_KEY: [&str; 2] = ["sslkey", "ssl-key"];

/// Checks an SQLite URL and returns the form that may be shown.
fn sqlite(raw: &str) -> Result<String, InvalidUrl> {
    let invalid = |expected: &str| InvalidUrl::new(raw, expected);
    let url = parse(raw)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("SQLite has no users and no passwords: sqlite://PATH?mode=rwc"));
    }
    let (path, query) = raw.split_once('?').unwrap_or((raw, ""));
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let valid = match &*key {
            "mode" => matches!(&*value, "ro" | "rw" | "rwc" | "memory"),
            "cache" => matches!(&*value, "private" | "shared"),
            "immutable" => matches!(&*value, "true" | "1" | "false" | "0"),
            "vfs" => true,
            _ => false,
        };
        if !valid {
            return Err(invalid(
                "the parameters allowed after ? are mode=ro, rw, rwc or memory, cache=private or \
                 shared, immutable=true or false, and vfs=NAME",
            ));
        }
    }
    Ok(format!("{path}{}", shown_query(query, &["mode", "cache", "immutable", "vfs"])))
}

/// Checks a PostgreSQL URL and returns the form that may be shown.
fn postgres(raw: &str) -> Result<String, InvalidUrl> {
    let invalid = |expected: String| InvalidUrl::new(raw, expected);
    let url = parse(raw)?;
    let query = url.query().unwrap_or("");
    // The @ after a password comes before the path, unless the parser took the password's
    // end for a path, a query or a fragment.
    if url.path().contains('@') || query.contains('@') || url.fragment().is_some() {
        return Err(invalid(format!("there is an @ or # after the host name; {ENCODE}")));
    }
    let texts = [url.username(), url.password().unwrap_or(""), url.path()];
    if !texts.into_iter().all(is_utf8_decoded) {
        return Err(invalid(format!("a sequence written with % is not UTF-8; {ENCODE}")));
    }
    for (key, value) in url.query_pairs() {
        check_postgres_parameter(&key, &value).map_err(invalid)?;
    }
    let has = |names: [&str; 2]| url.query_pairs().any(|(key, _)| names.contains(&&*key));
    if has(SSL_CERT) != has(SSL_KEY) {
        let expected = "sslcert=FILE and sslkey=FILE need each other: the driver would use neither";
        return Err(invalid(expected.to_owned()));
    }
    if url.host_str().is_some_and(|host| host.contains(',')) {
        return Err(invalid(ONE_HOST.to_owned()));
    }
    let password = url.password().map(|_| format!(":{HIDDEN}")).unwrap_or_default();
    let user = format!("{}{password}", url.username());
    let at = if user.is_empty() { "" } else { "@" };
    let host = url.host_str().unwrap_or("");
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let shown =
        ["sslmode", "ssl-mode", "host", "hostaddr", "port", "dbname", "statement-cache-capacity"];
    let (scheme, path, query) = (url.scheme(), url.path(), shown_query(query, &shown));
    Ok(format!("{scheme}://{user}{at}{host}{port}{path}{query}"))
}

/// The driver would take several hosts for the name of one.
const ONE_HOST: &str = "one host is expected: the driver does not try several; give a name or an \
                        address that always leads to the primary";

fn check_postgres_parameter(key: &str, value: &str) -> Result<(), String> {
    const SSL_MODES: [&str; 6] =
        ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    let valid = match key {
        "sslmode" | "ssl-mode" => SSL_MODES.contains(&value.to_ascii_lowercase().as_str()),
        "port" => value.parse::<u16>().is_ok(),
        "hostaddr" => value.parse::<IpAddr>().is_ok(),
        "statement-cache-capacity" => value.parse::<usize>().is_ok(),
        "host" if value.contains(',') => return Err(ONE_HOST.to_owned()),
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey"
        | "ssl-key" | "host" | "dbname" | "user" | "password" | "options" => true,
        _ => key.starts_with("options[") && key.ends_with(']'),
    };
    if valid {
        return Ok(());
    }
    // An unknown name is not shown: it may be the end of a password.
    Err(format!(
        "the parameters allowed after ? are sslmode={}, sslrootcert=FILE, sslcert=FILE, sslkey=FILE, host=HOST \
         or FOLDER, hostaddr=ADDRESS, port=NUMBER, dbname=NAME, user=NAME, password=PASSWORD, \
         options=OPTIONS and statement-cache-capacity=NUMBER; {ENCODE}",
        SSL_MODES.join(" or ")
    ))
}

/// Parses what the driver will parse, and refuses what the parser would silently drop.
fn parse(raw: &str) -> Result<Url, InvalidUrl> {
    if raw.contains(char::is_control) || raw.trim() != raw {
        let expected = "a URL has no control characters and no blanks at either end";
        return Err(InvalidUrl::new(raw, expected));
    }
    // The parser's errors do not quote the URL.
    let expected = |error| format!("{error}; {DATABASE_FORM} is expected; {ENCODE}");
    Url::parse(raw).map_err(|error| InvalidUrl::new(raw, expected(error)))
}

fn is_utf8_decoded(text: &str) -> bool {
    // A + becomes a space, which is as valid as any other byte here.
    let decoded = form_urlencoded::parse(text.as_bytes());
    let lossy = decoded.into_iter().any(|(key, value)| {
        key.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER)
    });
    !lossy
}

/// Returns the parameters, with only the values of those listed in `shown`.
fn shown_query(query: &str, shown: &[&str]) -> String {
    let mut text = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = if shown.contains(&key) { value } else { HIDDEN };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&format!("{key}={value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn database(text: &str) -> DatabaseUrl {
        DatabaseUrl::from(text.to_owned())
    }

    #[test]
    fn an_accepted_database_url_is_shown_without_its_secrets() {
        for (raw, shown) in [
            ("sqlite://heartbeatd.db?mode=rwc", "sqlite://heartbeatd.db?mode=rwc"),
            ("sqlite::memory:", "sqlite::memory:"),
            ("sqlite:///var/lib/a%20b.db", "sqlite:///var/lib/a%20b.db"),
            ("postgres://db/fleet", "postgres://db/fleet"),
            ("postgres://me:s3cret@db:5433/fleet", "postgres://me:***@db:5433/fleet"),
            ("postgresql://me:s%2F3@[::1]/fleet", "postgresql://me:***@[::1]/fleet"),
            ("postgres://me:p@ss@db/fleet", "postgres://me:***@db/fleet"),
            ("postgres:///fleet?host=/run/postgresql", "postgres:///fleet?host=/run/postgresql"),
            (
                "postgres://db/fleet?sslmode=require&password=s3cret&sslcert=s3cret&sslkey=s3cret",
                "postgres://db/fleet?sslmode=require&password=***&sslcert=***&sslkey=***",
            ),
            ("postgres://db/f?options=-c%20a%3Ds3cret", "postgres://db/f?options=***"),
        ] {
            let url = database(raw);
            assert_eq!(url.check(), Ok(()), "{raw}");
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            // The shown form is a valid URL again.
            assert_eq!(database(shown).check(), Ok(()), "{shown}");
        }
    }

    #[test]
    fn a_url_holds_a_secret_if_it_holds_a_password() {
        for (raw, has_secret) in [
            ("sqlite://heartbeatd.db?mode=rwc", false),
            ("postgres://me@db/fleet", false),
            ("postgres:///fleet?host=/run/postgresql&user=me", false),
            ("postgres://me@db/fleet?sslrootcert=/a&sslcert=/b&sslkey=/c", false),
            ("postgres://me:s3cret@db/fleet", true),
            ("postgres://me@db/fleet?password=s3cret", true),
            ("postgres://db/fleet?options=-c%20a%3Ds3cret", true),
            ("postgres://me:s3c/ret@db/fleet", true),
        ] {
            assert_eq!(database(raw).has_secret(), has_secret, "{raw}");
        }
    }

    #[test]
    fn an_invalid_database_url_is_refused_and_shows_nothing_of_its_password() {
        for raw in [
            "",
            "heartbeatd.db",
            "mysql://me:s3cret@db/fleet",
            "sqlite://a.db?mode=s3cret",
            "sqlite://a.db?password=s3cret",
            "sqlite://me:s3cret@a.db",
            "postgres://me:s3c/ret@db/fleet",
            "postgres://me:s3c#ret@db/fleet",
            "postgres://me:s3c?ret@db/fleet",
            "postgres://me:12/s3cret@db/fleet",
            "postgres://me:12#s3cret@db/fleet",
            "postgres://me:12?s3cret@db/fleet",
            "postgres://me:12?sslmode=s3cret@db/fleet",
            "postgres://me@db/fleet?s3cret=1",
            "postgres://me@db/fleet?sslmode=s3cret",
            "postgres://me@db/fleet?sslpassword=s3cret",
            "postgres://me:s3cret@db:port/fleet",
            "postgres://me:s3cret\n@db/fleet",
            "postgres://me:s3cret%ff@db/fleet",
            "postgres://me:s3cret@one,two/fleet",
            "postgres://me:s3cret@/fleet?host=one,two",
            "postgres://me:s3cret@db/fleet?sslcert=s3cret.pem",
            "postgres://me:s3cret@db/fleet?sslkey=s3cret.key",
        ] {
            let url = database(raw);
            let error = url.check().expect_err(raw).to_string();
            for shown in [error, url.to_string(), format!("{url:?}")] {
                for part in ["s3c", "ret@", "12"] {
                    assert!(!shown.contains(part), "{raw:?} is shown as {shown}");
                }
            }
        }
    }

    #[test]
    fn a_database_on_this_machine_is_told_from_one_elsewhere() {
        for (raw, local) in [
            ("postgres:///fleet", true),
            ("postgres://localhost/fleet", true),
            ("postgres://127.0.0.9:5433/fleet", true),
            ("postgres://[::1]/fleet", true),
            ("postgres://me@%2Frun%2Fpostgresql/fleet", true),
            ("postgres://db/fleet?host=/run/postgresql", true),
            ("postgres://db/fleet", false),
            ("postgres://localhost/fleet?hostaddr=10.0.0.7", false),
            ("postgres://[2001:db8::1]/fleet", false),
        ] {
            assert_eq!(database(raw).is_local(), local, "{raw}");
        }
        let url = database("postgres://db/fleet?sslmode=prefer&ssl-mode=require&sslrootcert=%2Fa");
        assert_eq!(url.parameter(&SSL_MODE).as_deref(), Some("require"));
        assert_eq!(url.parameter(&SSL_ROOT_CERT).as_deref(), Some("/a"));
        assert_eq!(url.parameter(&SSL_KEY), None);
    }

    #[test]
    fn a_broker_has_a_scheme_a_host_and_a_port() {
        for (text, shown) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("mqtt://192.168.1.5:1884/", "mqtt://192.168.1.5:1884"),
            ("mqtts://broker.example", "mqtts://broker.example:8883"),
            ("mqtt://[::1]:1883", "mqtt://[::1]:1883"),
        ] {
            assert_eq!(text.parse::<BrokerUrl>().expect(text).to_string(), shown);
        }
        for (text, expected) in [
            ("192.168.1.5:1883", "mqtt://192.168.1.5:1883"),
            ("localhost:1883", "mqtt://localhost:1883"),
            ("[::1]:1883", "mqtt://[::1]:1883"),
            ("broker.example:8883", "mqtts://broker.example:8883"),
            ("localhost", "mqtt://HOST:1883"),
            ("tcp://localhost:1883", "mqtt://HOST:1883"),
            ("mqtt://", "mqtt://HOST:1883"),
            ("mqtt://host:0", "mqtt://HOST:1883"),
            ("mqtt://host/path", "mqtt://HOST:1883"),
            ("mqtt://host?a=b", "mqtt://HOST:1883"),
            ("mqtt://host#a", "mqtt://HOST:1883"),
            ("mqtt://ho st", "mqtt://HOST:1883"),
            ("mqtt://me:pw@host", "mqtt.username"),
        ] {
            let error = text.parse::<BrokerUrl>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        /// Holds for any password, however it misleads the URL parser.
        #[test]
        fn no_password_is_ever_shown(
            before in "[a-z0-9/#?@:&=%. ]{0,3}",
            after in "[a-z0-9/#?@:&=%. ]{0,3}",
            scheme in "(postgres|postgresql|sqlite|mqtt|mqtts|mysql)",
            place in 0..4,
        ) {
            let password = format!("{before}QZQ{after}");
            let raw = match place {
                0 => format!("{scheme}://me:{password}@db:5432/fleet?sslmode=require"),
                1 => format!("{scheme}://db/fleet?password={password}"),
                2 => format!("{scheme}://db/fleet?sslmode=require&sslcert=/c&sslkey={password}&user=me"),
                _ => format!("{password}:{scheme}@db"),
            };
            let url = database(&raw);
            prop_assert!(!url.to_string().contains("QZQ"), "{raw} is shown as {url}");
            let errors = [
                url.check().err().map(|error| error.to_string()),
                raw.parse::<BrokerUrl>().err().map(|error| error.to_string()),
            ];
            for error in errors.into_iter().flatten() {
                prop_assert!(!error.contains("QZQ"), "{raw}: {error}");
            }
        }
    }
}
