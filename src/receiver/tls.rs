//! TLS for devices: the handshake, why it fails, and who a certificate says the client is.
//!
//! Nothing is resumed: a session that was kept would outlive the certificate or the authority
//! that it began with.

use std::io;
use std::sync::Arc;

use log::{error, info, warn};
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::{
    self, Ssl, SslAcceptor, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode,
};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509Ref, X509VerifyResult};
use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::TARGET;
use super::limits::MAX_NAME;
use super::transport::Transport;
use crate::config::{ConfigError, EmbeddedConfig, ServerTls};

/// The files of a configuration, as new connections use them.
pub(super) struct Tls {
    config: EmbeddedConfig,
    acceptor: RwLock<Arc<SslAcceptor>>,
}

/// The reason why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error(transparent)]
    Files(#[from] ConfigError),
    #[error("OpenSSL refuses the certificates of mqtt.embedded: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: SslStream<TcpStream>,
    /// The common name of its certificate, if clients need one.
    pub(super) common_name: Option<String>,
}

impl Tls {
    /// Reads the files. `None` if TLS is not configured.
    pub(super) fn new(config: &EmbeddedConfig) -> Result<Option<Self>, TlsError> {
        let Some(files) = config.read_tls()? else { return Ok(None) };
        let acceptor = RwLock::new(Arc::new(acceptor(&files)?));
        note_expiry(&files);
        Ok(Some(Self { config: config.clone(), acceptor }))
    }

    /// Reads the files again, for new connections. If they cannot be used, the old ones stay.
    /// Blocks for as long as the file system takes.
    pub(super) fn reload(&self) {
        match self.read() {
            Ok((files, acceptor)) => {
                *self.acceptor.write() = Arc::new(acceptor);
                info!(target: TARGET, "read the certificates again; new connections use them");
                note_expiry(&files);
            }
            Err(why) => error!(target: TARGET, "the certificates stay as they were: {why}"),
        }
    }

    fn read(&self) -> Result<(ServerTls, SslAcceptor), TlsError> {
        // A configuration that has TLS keeps it.
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let files = self.config.read_tls()?.ok_or_else(|| ConfigError::File {
            path: self.config.tls_cert_file.clone().unwrap_or_default(),
            why: missing().to_string(),
        })?;
        let acceptor = acceptor(&files)?;
        Ok((files, acceptor))
    }

    /// Makes the handshake of a server. The error says what would be right.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<Secured, String> {
        let acceptor = Arc::clone(&self.acceptor.read());
        let ssl = Ssl::new(acceptor.context()).map_err(|error| error.to_string())?;
        drop(acceptor);
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        if let Err(error) = std::pin::Pin::new(&mut stream).accept().await {
            return Err(explain(&error, stream.ssl()));
        }
        let certificate = stream.ssl().peer_certificate();
        let common_name = certificate.map(|certificate| common_name(&certificate)).transpose()?;
        Ok(Secured { stream, common_name })
    }
}

impl Transport for SslStream<TcpStream> {
    async fn readable(&self) -> io::Result<()> {
        // What was decrypted already makes no socket readable.
        if self.ssl().pending() > 0 {
            return Ok(());
        }
        self.get_ref().readable().await
    }
}

fn acceptor(files: &ServerTls) -> Result<SslAcceptor, ErrorStack> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_options(
        SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::NO_RENEGOTIATION | SslOptions::NO_TICKET,
    );
    acceptor.set_session_cache_mode(SslSessionCacheMode::OFF);
    acceptor.set_num_tickets(0)?;
    let mut chain = files.chain.iter();
    if let Some(certificate) = chain.next() {
        acceptor.set_certificate(certificate)?;
    }
    for certificate in chain {
        acceptor.add_extra_chain_cert(certificate.clone())?;
    }
    acceptor.set_private_key(&files.key)?;
    acceptor.check_private_key()?;
    if let Some(authorities) = &files.client_authorities {
        let (mut store, mut names) = (X509StoreBuilder::new()?, Stack::new()?);
        for authority in authorities {
            store.add_cert(authority.clone())?;
            names.push(authority.subject_name().to_owned()?)?;
        }
        // The file may hold an authority that another one has signed.
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        acceptor.set_cert_store(store.build());
        acceptor.set_client_ca_list(names);
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    Ok(acceptor.build())
}

/// Says when the certificate expires, or that it has.
fn note_expiry(files: &ServerTls) {
    let Some(certificate) = files.chain.first() else { return };
    let until = certificate.not_after();
    let is_over = Asn1Time::days_from_now(0).is_ok_and(|now| *until < now);
    if is_over {
        warn!(
            target: TARGET, until:%;
            "the certificate of mqtt.embedded.tls_cert_file has expired, and devices will refuse \
             it: renew it, then send SIGHUP"
        );
    } else {
        info!(target: TARGET, until:%; "the certificate for devices is valid");
    }
}

/// The user that a certificate names: exactly one, so that nobody has to choose.
fn common_name(certificate: &X509Ref) -> Result<String, String> {
    let mut names = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    let name = names.next().and_then(|name| name.data().to_string().ok()).unwrap_or_default();
    if names.next().is_some() {
        return Err("its certificate has several common names, and a user has one".to_owned());
    }
    // What is not text has been replaced.
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err("the common name of its certificate is not text".to_owned());
    }
    match name.len() {
        1..=MAX_NAME => Ok(name),
        0 => Err("its certificate has no common name, which would be the user".to_owned()),
        bytes => Err(format!(
            "the common name of its certificate has {bytes} bytes, more than {MAX_NAME}"
        )),
    }
}

/// Says why a handshake has failed.
fn explain(error: &ssl::Error, ssl: &SslRef) -> String {
    let reasons = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
    let has = |part: &str| {
        let mut reasons = reasons.iter().filter_map(openssl::error::Error::reason);
        reasons.any(|reason| reason.contains(part))
    };
    if has("did not return a certificate") {
        return "it has no certificate, which mqtt.embedded.tls_client_ca_file requires".to_owned();
    }
    if ssl.verify_result() != X509VerifyResult::OK {
        return refused_certificate(ssl.verify_result());
    }
    for (words, why) in FAILURES {
        if has(words) {
            return why.to_owned();
        }
    }
    if has("http request") {
        return "it speaks HTTP, and mqtt.embedded.tls_listen is for MQTT over TLS".to_owned();
    }
    let reason = reasons.first().and_then(openssl::error::Error::reason).map(str::to_owned);
    let reason = reason.or_else(|| error.io_error().map(ToString::to_string));
    match reason {
        Some(reason) if !reason.contains("eof") => format!("the TLS handshake failed: {reason}"),
        Some(_) | None => CLOSED.to_owned(),
    }
}

const CLOSED: &str = "it closed the connection during the TLS handshake, as a client may that \
                      refuses the certificate";

/// Failures, most of them told by the client, by a part of OpenSSL's words for them.
const FAILURES: [(&str, &str); 9] = [
    (
        "alert unknown ca",
        "it refuses the certificate of mqtt.embedded.tls_cert_file, because it does not know the \
         authority: give it that authority's certificate (mosquitto_pub: --cafile)",
    ),
    (
        "alert certificate expired",
        "it refuses the certificate of mqtt.embedded.tls_cert_file, because that has expired (or \
         its own clock is wrong)",
    ),
    (
        "alert bad certificate",
        "it refuses the certificate of mqtt.embedded.tls_cert_file: the name or address that it \
         connects to has to be among the certificate's subject alternative names",
    ),
    (
        "alert certificate unknown",
        "it refuses the certificate of mqtt.embedded.tls_cert_file, and does not say why: the name \
         that it connects to may be missing among the subject alternative names",
    ),
    (
        "alert internal error",
        "it gives up the handshake, as mosquitto's clients do if the name that they connect to is \
         missing among the subject alternative names of mqtt.embedded.tls_cert_file",
    ),
    ("no shared cipher", "it offers no cipher that is safe: TLS 1.2 with AEAD, or TLS 1.3"),
    ("unsupported protocol", "it offers only old versions of TLS: 1.2 or 1.3 is needed"),
    ("version too low", "it offers only old versions of TLS: 1.2 or 1.3 is needed"),
    ("wrong version number", "it does not speak TLS, which mqtt.embedded.tls_listen requires"),
];

/// Says why the certificate of a client is refused.
fn refused_certificate(result: X509VerifyResult) -> String {
    const UNKNOWN_AUTHORITY: [i32; 5] = [
        openssl_verify::DEPTH_ZERO_SELF_SIGNED_CERT,
        openssl_verify::SELF_SIGNED_CERT_IN_CHAIN,
        openssl_verify::UNABLE_TO_GET_ISSUER_CERT,
        openssl_verify::UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        openssl_verify::UNABLE_TO_VERIFY_LEAF_SIGNATURE,
    ];
    let why = result.error_string();
    if UNKNOWN_AUTHORITY.contains(&result.as_raw()) {
        return format!(
            "no authority in mqtt.embedded.tls_client_ca_file has signed its certificate ({why})"
        );
    }
    format!("its certificate is refused: {why}")
}

/// Results of a verification, as OpenSSL numbers them.
mod openssl_verify {
    pub(super) const UNABLE_TO_GET_ISSUER_CERT: i32 = 2;
    pub(super) const DEPTH_ZERO_SELF_SIGNED_CERT: i32 = 18;
    pub(super) const SELF_SIGNED_CERT_IN_CHAIN: i32 = 19;
    pub(super) const UNABLE_TO_GET_ISSUER_CERT_LOCALLY: i32 = 20;
    pub(super) const UNABLE_TO_VERIFY_LEAF_SIGNATURE: i32 = 21;
}

#[cfg(test)]
mod tests {
    use openssl::x509::{X509, X509NameBuilder};

    use super::*;

    /// The common name of a certificate with these common names.
    fn named(names: &[&str]) -> Result<String, String> {
        let mut subject = X509NameBuilder::new().expect("a name");
        for name in names {
            subject.append_entry_by_nid(Nid::COMMONNAME, name).expect("a name");
        }
        let mut certificate = X509::builder().expect("a certificate");
        certificate.set_subject_name(&subject.build()).expect("a name");
        common_name(&certificate.build())
    }

    #[test]
    fn a_certificate_names_exactly_one_user() {
        assert_eq!(named(&["pump-17"]).as_deref(), Ok("pump-17"));
        assert_eq!(named(&["Köln 3"]).as_deref(), Ok("Köln 3"));
        for (names, why) in [(&[][..], "no common name"), (&["pump-17", "pump-18"], "several")] {
            let error = named(names).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        // A U+0000 must not make it another name.
        assert_ne!(named(&["pump-17\0.example"]).as_deref(), Ok("pump-17"));
    }
}
