//! A client of HTTP that sends what it is told, byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use super::service::Service;
use servers::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The body of a request that succeeded.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self:?}");
        self.json()
    }

    /// The name of a problem, after a look at its shape.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{body}");
        assert!(body["title"].is_string() && body["errors"].is_array(), "{body}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
        let kind = body["type"].as_str().expect("a type");
        kind.strip_prefix("/problems/").expect(kind).to_owned()
    }
}

/// Sends a request with these headers; `Host` is the service's address unless it is given.
pub fn send(
    service: &Service,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Answer {
    let address = service.http_address();
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    let request = format!("{request}\r\n{}", body.unwrap_or_default());
    verbatim(service, &request)
}

/// Sends a request as it is, and reads until the service closes the connection.
pub fn verbatim(service: &Service, request: &str) -> Answer {
    let mut stream = TcpStream::connect(service.http_address()).expect("HTTP is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (status, body) = (status.expect("a status"), body.to_owned());
    // What distinguishes upper and lower case is in no header that is looked at.
    let head = head.lines().map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_lowercase()),
        None => format!("{line}\n"),
    });
    Answer { status, head: head.collect(), body }
}

/// Gets a path, and asks again if a busy machine makes the database too slow for it.
pub fn get(service: &Service, path: &str) -> Answer {
    patiently(|| send(service, "GET", path, &[], None))
}

/// Gets a path with a token like [`get`].
pub fn get_with(service: &Service, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    patiently(|| send(service, "GET", path, &[("Authorization", &bearer)], None))
}

/// Opens an event stream, which is let in.
pub fn open_stream(service: &Service) -> TcpStream {
    let mut stream = TcpStream::connect(service.http_address()).expect("HTTP is served");
    let request = "GET /api/v1/events/stream?summary=1s HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("it answers");
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

fn patiently(ask: impl Fn() -> Answer) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        let is_slow = answer.status == 503 && answer.problem() == "database-unavailable";
        if !is_slow || Instant::now() > deadline {
            return answer;
        }
    }
}

/// Sends JSON with a token.
pub fn change(service: &Service, method: &str, path: &str, token: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    send(service, method, path, &headers, (!body.is_empty()).then_some(body))
}
