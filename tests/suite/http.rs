//! HTTP answers every client, and no client takes more than its share.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::http::{get, send};
use crate::support::service::{Place, Service};
use servers::{PATIENCE, eventually};

fn start() -> (Place, Service) {
    // Without a broker the service has nothing else to do.
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = place.start();
    (place, service)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("HTTP is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends a request verbatim, and reads until the service closes the connection.
fn ask(service: &Service, request: &str) -> String {
    let mut stream = connect(service.http_address());
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn request(service: &Service, method: &str, path: &str) -> (String, String) {
    let answer = ask(service, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn head_gets_the_head_of_get() {
    let (_place, service) = start();
    for path in ["/", "/healthz", "/readyz", "/metrics", "/nothing"] {
        let (get, _) = request(&service, "GET", path);
        let (head, body) = request(&service, "HEAD", path);
        assert_eq!(get.lines().next(), head.lines().next(), "{path}");
        assert_eq!(body, "", "{path}");
        let names = |head: &str| -> Vec<String> {
            let mut names: Vec<_> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split(':').next())
                .map(str::to_owned)
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&get), names(&head), "{path}");
        assert!(!head.contains("content-length: 0"), "{head}");
    }
}

#[test]
fn requests_for_anything_else_are_told_what_would_be_right() {
    let (_place, service) = start();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let (head, _) = request(&service, method, "/metrics");
        assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: get, head"), "{head}");
    }
    let (head, body) = request(&service, "GET", "/fleet");
    assert!(head.starts_with("http/1.1 404 ") && body.contains("/readyz and /metrics"), "{head}");
    let browser = "GET /nope HTTP/1.1\r\nHost: localhost\r\nAccept: text/html,*/*\r\n\r\n";
    let page = ask(&service, browser);
    assert!(
        page.starts_with("HTTP/1.1 404 ") && page.contains("<script type=\"module\""),
        "{page}"
    );
    let small = ask(&service, "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    assert!(small.starts_with("HTTP/1.1 413 "), "{small}");
    let posted = ask(&service, "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    let long = "x".repeat(9_000);
    let large =
        ask(&service, &format!("GET /healthz HTTP/1.1\r\nHost: a\r\nCookie: {long}\r\n\r\n"));
    assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
    let (head, body) = request(&service, "GET", "/healthz");
    assert!(head.starts_with("http/1.1 200 ") && body == "ok\n", "{head}");
}

#[test]
fn a_body_is_not_read() {
    let (_place, service) = start();
    let mut stream = connect(service.http_address());
    let head = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is read");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 405");
    // It closes the connection instead of reading a gigabyte.
    let began = Instant::now();
    while stream.write_all(&[b'x'; 65536]).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it reads everything");
    }
}

#[test]
fn a_client_that_never_finishes_its_request_is_disconnected() {
    let (_place, service) = start();
    let mut stream = connect(service.http_address());
    let began = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n").expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// Connects clients that request the same page as often as fits and read nothing.
fn slow_readers(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4_000);
    let readers = (0..count).map(|_| {
        let mut stream = connect(address);
        stream.set_nonblocking(true).expect("a flag");
        // As much as the service accepts.
        let mut sent = 0;
        while let Ok(more @ 1..) = stream.write(&requests.as_bytes()[sent..]) {
            sent += more;
        }
        stream
    });
    readers.collect()
}

#[test]
fn clients_that_do_not_read_take_little_memory_and_do_not_keep_probes_out() {
    let (_place, service) = start();
    assert_eq!(service.get("/healthz").0, 200);
    let before = service.memory_kib();
    let readers = slow_readers(service.http_address(), 1_000);
    for _ in 0..20 {
        assert_eq!(service.get("/healthz").0, 200);
    }
    let grown = service.memory_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more with {} slow readers", readers.len());
}

#[test]
fn silent_connections_do_not_keep_probes_out_and_are_closed() {
    let (_place, service) = start();
    let address = service.http_address();
    let silent: Vec<_> = (0..400).map(|_| connect(address)).collect();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(service.get("/healthz").0, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    for mut stream in silent {
        stream.set_nonblocking(true).expect("a flag");
        eventually("a silent connection is closed", || {
            let mut answer = [0; 1024];
            match stream.read(&mut answer) {
                Ok(0) => Some(()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => Some(()),
                // Still open, or the answer that the request took too long.
                _ => None,
            }
        });
    }
}

/// Lets promtool read a page.
fn promtool(arguments: &[&str], page: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(page.as_bytes()).expect("it reads");
    drop(input);
    let out = promtool.wait_with_output().expect("it ends");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{said}");
    said
}

#[test]
fn prometheus_reads_both_formats_of_the_metrics() {
    let (_place, service) = start();
    let text = get(&service, "/metrics");
    let kind = text.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(promtool(&["check", "metrics"], &text.body), "");
    let accept = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let open = send(&service, "GET", "/metrics", &accept, None);
    let kind = open.header("content-type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    for page in [&text.body, &open.body] {
        for series in ["heartbeatd_build_info{version=", "process_cpu_seconds_total "] {
            assert!(page.lines().any(|line| line.starts_with(series)), "no {series} in {page}");
        }
    }
    // `check metrics` reads only the other format. This reads OpenMetrics, with times.
    let with_times = open.body.lines().map(|line| {
        if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1\n") }
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), with_times.collect::<String>()).expect("it is written");
    let folder = tempfile::tempdir().expect("a folder");
    let paths = [file.path(), folder.path()].map(|path| path.display().to_string());
    promtool(&["tsdb", "create-blocks-from", "openmetrics", &paths[0], &paths[1]], "");
}
