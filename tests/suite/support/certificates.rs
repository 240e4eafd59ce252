//! Certificate authorities, and the certificates that they signed.

use std::path::Path;
use std::process::Command;

use servers::process::{output, program};

/// Certificates and keys in a folder, made by openssl.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// Two authorities, `ca` and `other-ca`, and four certificates of the first: `broker` is
    /// for localhost, `expired` has expired, `elsewhere` is for another host, and `client` is
    /// a client's.
    pub fn new() -> Self {
        let certificates = Self(tempfile::tempdir().expect("a temporary folder"));
        for authority in ["ca", "other-ca"] {
            certificates.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
                 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ));
        }
        certificates.sign("broker", "localhost", 30);
        certificates.sign("expired", "localhost", -1);
        certificates.sign("elsewhere", "elsewhere.example", 30);
        certificates.sign("client", "client", 30);
        certificates
    }

    pub fn path(&self, file: &str) -> String {
        self.folder().join(file).display().to_string()
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    pub fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new(program("openssl", "openssl", &[]));
        output(openssl.args(arguments.split_whitespace()).current_dir(self.folder()));
    }

    /// Makes a certificate for that name, which `ca` signs.
    pub fn sign(&self, file: &str, name: &str, days: i32) {
        self.sign_by("ca", file, name, days);
    }

    /// Makes a certificate for that name, which that authority signs.
    pub fn sign_by(&self, authority: &str, file: &str, name: &str, days: i32) {
        std::fs::write(self.folder().join("san"), format!("subjectAltName=DNS:{name}\n"))
            .expect("a file");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
             -keyout {file}.key -out {file}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA {authority}.pem -CAkey {authority}.key \
             -CAcreateserial -days {days} -extfile san -out {file}.pem"
        ));
    }
}
