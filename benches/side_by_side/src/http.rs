//! A client of heartbeatd's HTTP: one connection for each request, as the service wants it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};

/// The longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, if the request succeeded.
    pub fn ok(self) -> anyhow::Result<Vec<u8>> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(
            self.status == 200,
            "{} {}",
            self.status,
            text.chars().take(300).collect::<String>()
        );
        Ok(self.body)
    }

    /// The JSON of a request that succeeded.
    pub fn json(self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.ok()?)?)
    }
}

/// Asks for a path, and reads the answer to its end.
pub fn get(port: u16, path: &str) -> anyhow::Result<Answer> {
    let mut answer = Vec::new();
    ask(port, path)?.read_to_end(&mut answer).with_context(|| path.to_owned())?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("a head")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer)?;
    Ok(Answer { status: status(&head)?, body })
}

/// An event stream that is open.
pub struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Opens a stream. `None` if there are too many.
    pub fn open(port: u16, path: &str) -> anyhow::Result<Option<Self>> {
        let mut stream = Self(BufReader::new(ask(port, path)?));
        let head = stream.until("\r\n")?;
        if status(&head)? == 503 {
            return Ok(None);
        }
        ensure!(status(&head)? == 200, "{head}");
        Ok(Some(stream))
    }

    /// Waits for the next message, as it is written.
    pub fn message(&mut self) -> anyhow::Result<String> {
        self.until("\n")
    }

    /// Reads up to an empty line, which ends like this.
    fn until(&mut self, empty: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        loop {
            let before = text.len();
            ensure!(self.0.read_line(&mut text)? > 0, "the stream has ended: {text}");
            if &text[before..] == empty {
                return Ok(text);
            }
        }
    }
}

/// A number without labels on the page of metrics.
pub fn metric(port: u16, name: &str) -> anyhow::Result<u64> {
    let page = String::from_utf8(get(port, "/metrics")?.ok()?)?;
    let mut values = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = values.next().with_context(|| format!("{name} on the page of metrics"))?;
    ensure!(values.next().is_none(), "{name} is there twice");
    value.parse().with_context(|| format!("{name} {value}"))
}

fn ask(port: u16, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("HTTP is served")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    Ok(stream)
}

fn status(head: &str) -> anyhow::Result<u16> {
    let status = head.split(' ').nth(1).with_context(|| head.to_owned())?;
    status.parse().with_context(|| head.to_owned())
}
