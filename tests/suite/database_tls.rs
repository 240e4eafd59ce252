//! TLS to PostgreSQL: whom the service believes, and what it says of the others.

use std::process::Output;

use crate::support::certificates::Certificates;
use crate::support::database::TestDatabase;
use crate::support::service::Place;
use servers::postgresql::{Cluster, PostgreSql};

const UNAVAILABLE: Option<i32> = Some(69);

/// Rules by which everybody gets in, over TLS only. The socket is for the tests.
const ONLY_TLS: &str = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";

/// Rules by which the user is the common name of the client's certificate.
const BY_CERTIFICATE: &str = "local all all trust\nhostssl all all 127.0.0.1/32 cert\n";

/// A server with that certificate.
fn server(files: &Certificates, certificate: &str, rules: &str) -> PostgreSql {
    Cluster::create()
        .with_file("server.pem", files.path(&format!("{certificate}.pem")))
        .with_file("server.key", files.path(&format!("{certificate}.key")))
        .with_file("ca.pem", files.path("ca.pem"))
        .set("ssl", "on")
        .set("ssl_cert_file", "server.pem")
        .set("ssl_key_file", "server.key")
        .set("ssl_ca_file", "ca.pem")
        .admitting(rules)
        .start()
}

/// A place whose service reaches the server by its name.
fn place(server: &PostgreSql, user: &str, parameters: &str) -> Place {
    let name = TestDatabase::on(server).name().to_owned();
    server.query(&format!("ALTER DATABASE {name} OWNER TO {user}"));
    let port = server.port();
    let url = format!("postgres://{user}@localhost:{port}/{name}?{parameters}");
    Place::new().with("DATABASE__URL", &url)
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[out.stdout.as_slice(), &out.stderr].concat()).into_owned()
}

#[track_caller]
fn assert_refused(place: &Place, words: &[&str]) {
    for command in [&["run"][..], &["device", "list"]] {
        let out = place.run(command);
        let said = said(&out);
        assert_eq!(out.status.code(), UNAVAILABLE, "{command:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{command:?}: no {word:?} in {said}");
        }
    }
}

/// `verify-full` with that authority.
fn verified(files: &Certificates, authority: &str) -> String {
    format!("sslmode=verify-full&sslrootcert={}", files.path(authority))
}

#[test]
fn a_server_with_the_right_name_and_authority_is_used_over_tls_only() {
    let files = Certificates::new();
    let server = server(&files, "broker", ONLY_TLS);
    let place = place(&server, "postgres", &verified(&files, "ca.pem"));
    let service = place.start();
    service.await_listening();
    assert!(place.run(&["device", "add", "pump"]).status.success());
    place.await_statuses(&["pump provisioning"]);
    // The work, the reads and the lock.
    let sessions = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name LIKE 'heartbeatd%' AND ssl";
    server.await_query(sessions, "7");
    server.await_query(&sessions.replace("AND ssl", "AND NOT ssl"), "0");
    let log = service.log().join("\n");
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_server_that_is_not_the_right_one_is_refused_with_the_reason_and_the_remedy() {
    let files = Certificates::new();
    let right = verified(&files, "ca.pem");
    let other = verified(&files, "other-ca.pem");
    let good = server(&files, "broker", ONLY_TLS);
    let elsewhere = server(&files, "elsewhere", ONLY_TLS);
    let expired = server(&files, "expired", ONLY_TLS);
    let plain = PostgreSql::shared();
    let by_the_system = "sslmode=verify-full".to_owned();
    for (server, parameters, words) in [
        (&elsewhere, &right, ["hostname mismatch", "subject alternative names"]),
        (&good, &other, ["no authority that is trusted has signed", "sslrootcert=FILE"]),
        (&good, &by_the_system, ["no authority that is trusted has signed", "sslrootcert=FILE"]),
        (&expired, &right, ["certificate has expired", "renew the server's certificate"]),
        (plain, &right, ["server does not support TLS", "ssl = on"]),
    ] {
        assert_refused(&place(server, "postgres", parameters), &words);
    }
    // Whoever asks for less gets less.
    let less = right.replace("verify-full", "verify-ca");
    let out = place(&elsewhere, "postgres", &less).run(&["device", "add", "pump"]);
    assert!(out.status.success(), "{}", said(&out));
    let out = place(&expired, "postgres", "sslmode=require").run(&["device", "add", "pump"]);
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn a_client_certificate_is_the_user_and_others_are_told_what_is_missing() {
    let files = Certificates::new();
    files.sign("fleet", "fleet", 30);
    files.sign_by("other-ca", "foreign", "fleet", 30);
    let server = server(&files, "broker", BY_CERTIFICATE);
    server.query("CREATE ROLE fleet LOGIN");
    server.query("CREATE ROLE somebody LOGIN");
    let with = |certificate: &str| {
        let file = |ending: &str| files.path(&format!("{certificate}.{ending}"));
        let right = verified(&files, "ca.pem");
        format!("{right}&sslcert={}&sslkey={}", file("pem"), file("key"))
    };
    let out = place(&server, "fleet", &with("fleet")).run(&["device", "add", "pump"]);
    assert!(out.status.success(), "{}", said(&out));
    for (user, parameters, words) in [
        ("fleet", verified(&files, "ca.pem"), ["valid client certificate", "sslcert=FILE"]),
        ("somebody", with("fleet"), ["certificate authentication failed", "common name"]),
        ("fleet", with("foreign"), ["may not know the authority", "ssl_ca_file"]),
    ] {
        assert_refused(&place(&server, user, &parameters), &words);
    }
}

#[test]
fn a_key_that_the_driver_cannot_read_is_refused_with_the_command_that_converts_it() {
    let files = Certificates::new();
    files.openssl("ec -in client.key -out client.ec");
    let parameters = |key: &str| {
        let (certificate, key) = (files.path("client.pem"), files.path(key));
        format!("sslmode=require&sslcert={certificate}&sslkey={key}")
    };
    for (key, expected) in [
        ("client.ec", "openssl pkcs8 -topk8 -nodes"),
        ("broker.key", "it is not the key of the certificate"),
        ("missing", "there is no such file"),
    ] {
        let place = place(PostgreSql::shared(), "postgres", &parameters(key));
        for command in ["check-config", "run"] {
            let out = place.run(&[command]);
            assert_eq!(out.status.code(), Some(78), "{key}: {}", said(&out));
            for part in ["sslkey in database.url", expected] {
                assert!(said(&out).contains(part), "{key}: no {part:?} in {}", said(&out));
            }
        }
    }
}

#[test]
fn of_several_authorities_in_a_file_only_the_first_counts_unless_the_file_is_the_systems() {
    let files = Certificates::new();
    let read = |file: &str| std::fs::read_to_string(files.path(file)).expect("it is there");
    let bundle = files.path("bundle.pem");
    std::fs::write(&bundle, read("other-ca.pem") + &read("ca.pem")).expect("a file");
    let server = server(&files, "broker", ONLY_TLS);
    let refused = place(&server, "postgres", &verified(&files, "bundle.pem"));
    assert_refused(&refused, &["no authority that is trusted has signed"]);
    let warned = said(&refused.run(&["check-config"]));
    assert!(warned.contains("of the 2 certificates"), "{warned}");
    assert!(warned.contains("SSL_CERT_FILE"), "{warned}");
    let place = place(&server, "postgres", "sslmode=verify-full");
    let mut command = place.command(&["device", "add", "pump"]);
    let out = command.env("SSL_CERT_FILE", &bundle).output().expect("it starts");
    assert!(out.status.success(), "{}", said(&out));
}

/// A name of this machine that does not look like one.
const ELSEWHERE: &str = "127.1";

#[test]
fn a_connection_that_crosses_a_network_unencrypted_is_warned_about() {
    let files = Certificates::new();
    let tls = server(&files, "broker", "local all all trust\nhost all all 127.0.0.1/32 trust\n");
    let plain = PostgreSql::shared();
    for (server, host, parameters, warned) in [
        (plain, ELSEWHERE, "", true),
        (plain, ELSEWHERE, "sslmode=prefer", true),
        (plain, "127.0.0.1", "", false),
        (&tls, ELSEWHERE, "", false),
        (&tls, ELSEWHERE, "sslmode=require", false),
        (&tls, ELSEWHERE, "sslmode=disable", true),
        (&tls, "127.0.0.1", "sslmode=disable", false),
    ] {
        let (port, name) = (server.port(), TestDatabase::on(server).name().to_owned());
        let url = format!("postgres://postgres@{host}:{port}/{name}?{parameters}");
        let service = Place::new().with("DATABASE__URL", &url).start();
        service.await_listening();
        let lines = service.events("WARN heartbeatd");
        let of_it: Vec<_> =
            lines.iter().filter(|line| line.contains("crosses the network")).collect();
        assert_eq!(of_it.len(), usize::from(warned), "{host} {parameters}: {lines:?}");
        assert!(of_it.iter().all(|line| line.contains("sslmode=verify-full")), "{of_it:?}");
    }
}

#[test]
fn an_address_of_ipv6_is_reached() {
    let server = Cluster::create().set("listen_addresses", "127.0.0.1").start();
    let name = TestDatabase::on(&server).name().to_owned();
    // Nothing listens there, which is another error than a name that nobody knows.
    let url = format!("postgres://postgres@[::1]:{}/{name}", server.port());
    let out = Place::new().with("DATABASE__URL", &url).run(&["run"]);
    assert!(said(&out).contains("Connection refused"), "{}", said(&out));
}
