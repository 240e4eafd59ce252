//! Asks the running service over HTTP, for `heartbeatd status`.
//!
//! One request of HTTP/1.0, whose answer ends with the connection: nothing more is needed to
//! talk to heartbeatd itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest time for a whole answer. A summary comes from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {}", crate::duration::human(PATIENCE))]
    Timeout,
    #[error("the answer is not one of HTTP")]
    NotHttp,
}

/// Gets `path`, with a token if there is one.
pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    token: Option<&str>,
) -> Result<Answer, NoAnswer> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let token =
            token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(PATIENCE, asking).await.map_err(|_| NoAnswer::Timeout)??;
    parse(&bytes).ok_or(NoAnswer::NotHttp)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    const END: &[u8] = b"\r\n\r\n";
    let end = bytes.windows(END.len()).position(|window| window == END)?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let status = words.next()?.starts_with("HTTP/1.").then(|| words.next())??.parse().ok()?;
    Some(Answer { status, body: bytes[end + END.len()..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n{\r\n\r\n}");
        assert_eq!(answer, Some(Answer { status: 503, body: b"{\r\n\r\n}".to_vec() }));
        for other in
            ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 x\r\n\r\n", "\r\n\r\n"]
        {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
    }
}
