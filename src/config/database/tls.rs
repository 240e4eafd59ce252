//! TLS to PostgreSQL: the parameters of `database.url`, and the files that they name.
//!
//! The driver takes some parameters for something else than libpq does, and says nothing of it.

use std::path::PathBuf;

use openssl::x509::X509;

use super::DatabaseConfig;
use crate::config::ConfigError;
use crate::config::files::{certificates, pair, unusable};
use crate::secrets::{SSL_CERT, SSL_KEY, SSL_MODE, SSL_ROOT_CERT};

/// The beginning of a key as the driver reads it.
const PKCS8: &[u8] = b"-----BEGIN PRIVATE KEY-----";

impl DatabaseConfig {
    /// Checks the files that the URL names.
    pub(in crate::config) fn check_files(&self) -> Result<(), ConfigError> {
        if let Some(file) = self.file(&SSL_ROOT_CERT) {
            certificates("sslrootcert in database.url", &file)?;
        }
        let (Some(certificate), Some(key)) = (self.file(&SSL_CERT), self.file(&SSL_KEY)) else {
            return Ok(());
        };
        let names = ("sslcert in database.url", "sslkey in database.url");
        pair((names.0, &certificate), (names.1, &key))?;
        let is_pkcs8 = std::fs::read(&key).is_ok_and(|bytes| bytes.starts_with(PKCS8));
        if is_pkcs8 {
            return Ok(());
        }
        let file = key.display();
        let why = format!(
            "it does not begin with -----BEGIN PRIVATE KEY-----, which the driver needs: openssl \
             pkcs8 -topk8 -nodes -in {file} -out FILE.pem"
        );
        Err(unusable(names.1, &key, why))
    }

    /// The file with the key of this service's certificate, if there is one.
    pub(in crate::config) fn ssl_key_file(&self) -> Option<PathBuf> {
        self.file(&SSL_KEY)
    }

    /// Returns a warning for each parameter that does less than it seems to.
    pub(in crate::config) fn tls_warnings(&self) -> Vec<String> {
        let mode = self.url.parameter(&SSL_MODE).map(|mode| mode.to_ascii_lowercase());
        let mode = mode.as_deref().unwrap_or("prefer");
        let mut warnings = Vec::new();
        if matches!(mode, "disable" | "allow") && !self.url.is_local() {
            warnings.push(format!(
                "database.url has sslmode={mode}: everything crosses the network unencrypted; \
                 sslmode=verify-full encrypts it and checks that it is the right server"
            ));
        }
        let Some(file) = self.file(&SSL_ROOT_CERT) else { return warnings };
        if !mode.starts_with("verify-") {
            warnings.push(format!(
                "sslrootcert in database.url is not used: sslmode={mode} checks no certificate; \
                 sslmode=verify-full does"
            ));
        }
        let bytes = std::fs::read(&file).unwrap_or_default();
        let count = X509::stack_from_pem(&bytes).map_or(0, |certificates| certificates.len());
        if count > 1 {
            warnings.push(format!(
                "sslrootcert in database.url: of the {count} certificates in {} only the first one \
                 counts; for all of them leave sslrootcert out and set SSL_CERT_FILE in the \
                 environment to this file",
                file.display()
            ));
        }
        warnings
    }

    /// The file that a parameter names. `None` also if it holds the certificate itself.
    fn file(&self, names: &[&str]) -> Option<PathBuf> {
        let value = self.url.parameter(names)?;
        (!value.trim_start().starts_with("-----BEGIN")).then(|| value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_do_less_than_they_seem_to_are_warned_about() {
        for (url, expected) in [
            ("postgres://db/f?sslmode=disable", Some("unencrypted")),
            ("postgres://db/f?sslmode=ALLOW", Some("unencrypted")),
            ("postgres://localhost/f?sslmode=disable", None),
            ("postgres:///f?host=/run/postgresql&sslmode=disable", None),
            ("postgres://db/f?sslmode=require&sslrootcert=/ca.pem", Some("checks no certificate")),
            ("postgres://db/f?sslrootcert=/ca.pem", Some("sslmode=prefer checks no certificate")),
            ("postgres://db/f?sslmode=verify-ca&sslrootcert=/ca.pem", None),
            ("postgres://db/f?sslmode=verify-full&sslrootcert=/ca.pem", None),
            ("postgres://db/f", None),
            ("sqlite://f.db", None),
        ] {
            let warnings = DatabaseConfig::from(url).tls_warnings();
            assert_eq!(warnings.len(), usize::from(expected.is_some()), "{url}: {warnings:?}");
            assert!(warnings.iter().all(|line| line.contains(expected.unwrap_or_default())));
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        for (key, parameters) in [
            ("sslrootcert", "sslrootcert=/nowhere/a.pem"),
            ("sslcert", "sslcert=/nowhere/a.pem&sslkey=/nowhere/b.pem"),
        ] {
            let url = format!("postgres://me:s3cret@db/f?sslmode=verify-full&{parameters}");
            let error = DatabaseConfig::from(&url).check_files().expect_err("it is missing");
            let text = error.to_string();
            assert!(text.contains(&format!("{key} in database.url = /nowhere/a.pem")), "{text}");
            assert!(text.contains("no such file") && !text.contains("s3cret"), "{text}");
        }
    }
}
