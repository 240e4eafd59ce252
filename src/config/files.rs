//! Checks of the files that a configuration names: that they can be used, and that only
//! their owner can read those with secrets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::{Config, ConfigError, EmbeddedConfig, MqttConfig, Secret};
use crate::secrets::HIDDEN;

impl Config {
    /// Checks the files that a running service needs: certificates, a key and users.
    /// [`Config::load`] does not, because a command that needs only the database may run as
    /// a user who cannot read them.
    ///
    /// # Errors
    ///
    /// A [`ConfigError::Value`] that names the key, the file and what is wrong with it.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let mqtt = &self.mqtt;
        if let Some(file) = &mqtt.ca_file {
            certificates("mqtt.ca_file", file)?;
        }
        if let (Some(certificate), Some(key)) = (&mqtt.cert_file, &mqtt.key_file) {
            pair(("mqtt.cert_file", certificate), ("mqtt.key_file", key))?;
        }
        mqtt.embedded.read_tls()?;
        self.database.check_files()?;
        if let Some(file) = &mqtt.embedded.users_file {
            users(file)?;
        }
        Ok(())
    }

    /// Refuses `***` in a secret's place. [`Config::validate`] accepts it, so that the output
    /// of `check-config` is a valid configuration.
    ///
    /// # Errors
    ///
    /// A [`ConfigError::Value`] that names the key.
    pub fn check_secrets(&self) -> Result<(), ConfigError> {
        let stars = |key: &str| ConfigError::Value {
            key: key.to_owned(),
            value: HIDDEN.to_owned(),
            expected: "check-config prints this in place of the secret: set the secret".to_owned(),
            place: None,
        };
        if self.mqtt.password.as_ref().is_some_and(Secret::is_placeholder) {
            return Err(stars("mqtt.password"));
        }
        if self.http.token.as_ref().is_some_and(Secret::is_placeholder) {
            return Err(stars("http.token"));
        }
        if self.database.url.has_placeholder() {
            return Err(stars("database.url"));
        }
        Ok(())
    }

    /// Returns warnings about the files, one line each.
    pub(super) fn file_warnings(&self, own: Option<&Path>) -> Vec<String> {
        let mqtt = &self.mqtt;
        let mut warnings = unused(mqtt);
        warnings.extend(self.database.unused());
        warnings.extend(self.database.tls_warnings());
        if mqtt.url.is_none() {
            warnings.extend(mqtt.embedded.warn_of_plain_text());
        }
        let ssl_key = self.database.ssl_key_file();
        let url_file = self.database.url_file.clone().filter(|_| self.database.url.has_secret());
        let secret = [
            ("mqtt.password_file", &mqtt.password_file),
            ("mqtt.key_file", &mqtt.key_file),
            ("mqtt.embedded.users_file", &mqtt.embedded.users_file),
            ("mqtt.embedded.tls_key_file", &mqtt.embedded.tls_key_file),
            ("database.url_file", &url_file),
            ("sslkey in database.url", &ssl_key),
            ("http.token_file", &self.http.token_file),
        ];
        let named = secret.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)));
        let own = own.map(|file| ("the configuration, which holds a secret", file));
        for (key, file) in named.chain(own) {
            warnings.extend(readable_by_others(key, file));
        }
        warnings
    }
}

/// The files with which the embedded broker speaks TLS, read and found to fit.
pub(crate) struct ServerTls {
    /// The certificate, and those that lead to its authority.
    pub(crate) chain: Vec<X509>,
    /// The key of that certificate.
    pub(crate) key: PKey<Private>,
    /// The authorities that sign the certificates of devices, if devices need one.
    pub(crate) client_authorities: Option<Vec<X509>>,
}

impl EmbeddedConfig {
    /// Reads the files for TLS. `None` if it is not spoken.
    ///
    /// # Errors
    ///
    /// A [`ConfigError::Value`] that names the key, the file and what is wrong with it.
    pub(crate) fn read_tls(&self) -> Result<Option<ServerTls>, ConfigError> {
        let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) else {
            return Ok(None);
        };
        let certificate = ("mqtt.embedded.tls_cert_file", certificate.as_path());
        let (chain, key) = pair(certificate, ("mqtt.embedded.tls_key_file", key))?;
        let authorities = self.tls_client_ca_file.as_ref();
        let authorities =
            authorities.map(|file| certificates("mqtt.embedded.tls_client_ca_file", file));
        Ok(Some(ServerTls { chain, key, client_authorities: authorities.transpose()? }))
    }

    /// Returns a warning if passwords and heartbeats cross a network unencrypted.
    fn warn_of_plain_text(&self) -> Option<String> {
        let address = self.listen.address().filter(|address| !address.ip().is_loopback())?;
        let remedy = if self.tls_listen.is_some() {
            "set it to a loopback address or to \"off\", and devices have to use \
             mqtt.embedded.tls_listen"
        } else {
            "mqtt.embedded.tls_listen encrypts them"
        };
        Some(format!(
            "mqtt.embedded.listen = {address}: passwords and heartbeats cross the network \
             unencrypted; {remedy}"
        ))
    }
}

/// Returns a warning for each file and credential that nothing reads.
fn unused(mqtt: &MqttConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let tls = mqtt.url.iter().chain(&mqtt.entry_urls).any(super::BrokerUrl::is_tls);
    let files = [
        ("mqtt.ca_file", &mqtt.ca_file),
        ("mqtt.cert_file", &mqtt.cert_file),
        ("mqtt.key_file", &mqtt.key_file),
    ];
    for (key, _) in files.into_iter().filter(|(_, file)| file.is_some() && !tls) {
        let url = mqtt.url.as_ref().map_or("unset".to_owned(), ToString::to_string);
        warnings.push(format!("{key} is not used: TLS is mqtts://, and mqtt.url is {url}"));
    }
    if mqtt.url.is_none() && mqtt.username.is_some() {
        warnings.push("mqtt.username is not used: mqtt.url is unset".to_owned());
    }
    let embedded = &mqtt.embedded;
    for (key, is_set) in [
        ("mqtt.embedded.users_file", embedded.users_file.is_some()),
        ("mqtt.embedded.tls_listen", embedded.tls_listen.is_some()),
    ] {
        if mqtt.url.is_some() && is_set {
            let why = "mqtt.url is set, and the embedded broker does not run";
            warnings.push(format!("{key} is not used: {why}"));
        }
    }
    warnings
}

/// Returns a warning if users other than its owner can read the file. A file that systemd
/// provides (`LoadCredential`) causes none, because no other user can enter its folder.
fn readable_by_others(key: &str, file: &Path) -> Option<String> {
    let of_systemd = std::env::var_os("CREDENTIALS_DIRECTORY");
    if of_systemd.is_some_and(|folder| !folder.is_empty() && file.starts_with(folder)) {
        return None;
    }
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.is_file() {
        // A pipe or a device stores nothing, and a folder cannot be read as a file.
        return None;
    }
    let mode = metadata.permissions().mode() & 0o777;
    let file = file.display();
    let line = format!("{key}: others may read {file} (mode {mode:04o}): chmod 600 {file}");
    (mode & 0o077 != 0).then_some(line)
}

pub(super) fn unusable(key: &str, file: &Path, why: impl ToString) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: file.display().to_string(),
        expected: why.to_string(),
        place: None,
    }
}

fn pem(key: &str, file: &Path, what: &str) -> Result<Vec<u8>, ConfigError> {
    // Opening a named pipe may never return.
    if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let why = "it is not a file: a pipe or a folder cannot be read again when it changes";
        return Err(unusable(key, file, why));
    }
    let text = super::load::read_text(file).map_err(|error| match error {
        ConfigError::File { why, .. } => unusable(key, file, not_pem(file, &why, what)),
        other => other,
    })?;
    if text.contains(&format!("-----BEGIN {what}"))
        || (what == "PRIVATE KEY" && text.contains(" PRIVATE KEY-----"))
    {
        return Ok(text.into_bytes());
    }
    Err(unusable(key, file, format!("there is no -----BEGIN {what}----- in it: PEM is expected")))
}

/// Explains a file that is not PEM. A binary file is probably DER, which can be converted.
fn not_pem(file: &Path, why: &str, what: &str) -> String {
    if !why.contains("UTF-8") {
        return why.to_owned();
    }
    let command = if what == "CERTIFICATE" { "x509" } else { "pkey" };
    let file = file.display();
    format!("it is not PEM; if it is DER: openssl {command} -inform der -in {file} -out FILE.pem")
}

pub(super) fn certificates(key: &str, file: &Path) -> Result<Vec<X509>, ConfigError> {
    let bytes = pem(key, file, "CERTIFICATE")?;
    match X509::stack_from_pem(&bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(key, file, "there is no certificate in it")),
        Err(error) => {
            Err(unusable(key, file, format!("it is not a certificate: {}", reason(&error))))
        }
    }
}

/// Reads a certificate with its chain and its key, each given with the key of its file.
pub(super) fn pair(
    (certificate_key, certificate): (&str, &Path),
    (key_key, key): (&str, &Path),
) -> Result<(Vec<X509>, PKey<Private>), ConfigError> {
    let chain = certificates(certificate_key, certificate)?;
    let private = private_key(key_key, key)?;
    let public = chain.first().and_then(|first| first.public_key().ok());
    if !public.is_some_and(|public| public.public_eq(&private)) {
        let why = format!("it is not the key of the certificate in {certificate_key}");
        return Err(unusable(key_key, key, why));
    }
    Ok((chain, private))
}

fn private_key(key: &str, file: &Path) -> Result<PKey<Private>, ConfigError> {
    let bytes = pem(key, file, "PRIVATE KEY")?;
    let mut encrypted = false;
    // Without a callback OpenSSL would ask on the terminal.
    let parsed = PKey::private_key_from_pem_callback(&bytes, |_| {
        encrypted = true;
        Ok(0)
    });
    match parsed {
        Ok(parsed) => Ok(parsed),
        Err(_) if encrypted => {
            let file_name = file.display();
            let how = format!("openssl pkey -in {file_name} -out FILE.pem");
            Err(unusable(
                key,
                file,
                format!("it is encrypted, and a service cannot be asked: {how}"),
            ))
        }
        Err(error) => {
            Err(unusable(key, file, format!("it is not a private key: {}", reason(&error))))
        }
    }
}

fn reason(error: &openssl::error::ErrorStack) -> String {
    let first = error.errors().first().and_then(openssl::error::Error::reason);
    first.unwrap_or("it is cut off or damaged").to_owned()
}

fn users(file: &Path) -> Result<(), ConfigError> {
    let key = "mqtt.embedded.users_file";
    let users = crate::users::list(file).map_err(|error| unusable(key, file, error.why()));
    users.map(drop)
}
