//! Limits on what one client can use up: a connection, a few kilobytes and a few seconds
//! per request.
//!
//! Left alone, actix reads and answers as many requests at once as a client sends, keeps
//! answers for a client that does not read them, and accepts no further connection once
//! there are too many. So each connection is wrapped. actix sees one request, a small body
//! and nothing after it. A connection that is too slow ends, and so does the oldest one when
//! there are too many.
//!
//! An answer may take longer on purpose: one that waits for news extends its time, and a
//! stream has no end at all. A stream is counted elsewhere. It ends when its client reads
//! nothing for as long as an exchange may take.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_rt::time::{Instant, Sleep, sleep};
use actix_web::http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::LINGER_TIMEOUT;

/// The maximum number of connections. A further one replaces the oldest one that waits for
/// its client, so that silent or slow clients never keep out a probe of `/healthz`.
const MAX_CONNECTIONS: usize = 64;

/// The maximum number of requests that wait for events. The other connections are for those
/// that are answered at once.
pub(super) const MAX_WAITS: usize = MAX_CONNECTIONS / 2;

/// The time limit of a whole exchange, from accepting the connection to the last byte of
/// the answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// The time within which a client must have sent the head of its request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of a request's head, its first line and its headers, in bytes.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// The maximum size of a request's body, in bytes. A larger one is not read.
pub(super) const MAX_BODY: usize = 4 * 1024;

/// The number of reads that one poll may discard before other tasks get their turn.
const READS_PER_POLL: usize = 16;

/// The head that actix gets instead of one that is refused, together with [`Exchange::refused`]:
/// actix would answer without a word.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: unknown\r\n\r\n";

/// All open connections, the oldest first.
#[derive(Clone, Default)]
pub(super) struct Connections(Rc<RefCell<Vec<Rc<Place>>>>);

/// One connection, as the others see it.
#[derive(Default)]
struct Place {
    /// True while the service owes the answer to a complete request.
    served: Cell<bool>,
    evicted: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// The notes that a connection and the handler of its request leave each other.
#[derive(Clone, Default)]
pub(super) struct Exchange(Rc<Told>);

/// The reason why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadRefused {
    /// It is too large to be kept.
    TooLarge,
    /// It was not complete in time.
    TooSlow,
    /// It is not one of HTTP, for this reason.
    Malformed(&'static str),
}

#[derive(Default)]
struct Told {
    refused: Cell<Option<HeadRefused>>,
    /// The time by which the handler wants the exchange to be extended.
    extended: Cell<Option<Duration>>,
    streams: Cell<bool>,
}

impl Exchange {
    /// The reason why the head of the request is refused, if it is.
    pub(super) fn refused(&self) -> Option<HeadRefused> {
        self.0.refused.get()
    }

    /// Gives the answer `time` more than usual from now on.
    pub(super) fn extend(&self, time: Duration) {
        self.0.extended.set(Some(time));
    }

    /// Lets the answer go on for as long as its client reads it. The connection no longer
    /// counts, so whoever calls this limits the number of streams.
    pub(super) fn stream(&self) {
        self.0.streams.set(true);
    }
}

impl Connections {
    /// Admits a connection, in place of another one if there are too many.
    pub(super) fn admit<S>(&self, stream: S) -> Connection<S> {
        let place = Rc::new(Place::default());
        if self.0.borrow().len() >= MAX_CONNECTIONS {
            self.make_room();
        }
        self.0.borrow_mut().push(Rc::clone(&place));
        Connection {
            stream,
            place,
            connections: self.clone(),
            deadline: Box::pin(sleep(EXCHANGE_TIMEOUT)),
            head_deadline: Box::pin(sleep(HEAD_TIMEOUT)),
            phase: Phase::Head(Vec::new()),
            exchange: Exchange::default(),
            chunked: false,
            stalled: false,
        }
    }

    /// Ends the oldest connection that waits for its client, or the oldest of all if none
    /// does.
    pub(super) fn make_room(&self) {
        let mut places = self.0.borrow_mut();
        let waits = places.iter().position(|place| !place.served.get());
        if !places.is_empty() {
            places.remove(waits.unwrap_or(0)).evict();
        }
    }

    fn forget(&self, gone: &Rc<Place>) {
        self.0.borrow_mut().retain(|place| !Rc::ptr_eq(place, gone));
    }
}

impl Place {
    fn evict(&self) {
        self.evicted.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

/// A connection for one request.
pub(super) struct Connection<S = TcpStream> {
    stream: S,
    place: Rc<Place>,
    connections: Connections,
    deadline: Pin<Box<Sleep>>,
    head_deadline: Pin<Box<Sleep>>,
    phase: Phase,
    exchange: Exchange,
    /// True if the body comes in chunks. Nothing takes it, and actix would wait for its end.
    chunked: bool,
    /// True while the client of a stream does not read.
    stalled: bool,
}

enum Phase {
    /// The head is not complete yet.
    Head(Vec<u8>),
    /// The head is complete, and its first `done` bytes are handed on. `body` bytes follow.
    HandOn { head: Vec<u8>, done: usize, body: usize },
    /// So many bytes of the body are still handed on.
    Body(usize),
    /// Everything after the request is discarded.
    Rest,
}

impl<S> Connection<S> {
    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Fails if the connection has to end. Every poll begins with it, because it also
    /// registers the task to be woken when that changes.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.place.evicted.get() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "too many connections"));
        }
        let streams = self.exchange.0.streams.get();
        if streams {
            self.connections.forget(&self.place);
        }
        if let Some(time) = self.exchange.0.extended.take() {
            self.extend(time);
        }
        let hurries = !streams || self.stalled;
        if hurries && self.deadline.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client is too slow"));
        }
        self.place.task.replace(Some(cx.waker().clone()));
        Ok(())
    }

    fn extend(&mut self, time: Duration) {
        self.deadline.as_mut().reset(Instant::now() + EXCHANGE_TIMEOUT + time);
    }

    /// Notes whether the client of a stream reads. It has to go on within the time of an
    /// exchange.
    fn note_progress(&mut self, written: bool, cx: &mut Context<'_>) {
        if !self.exchange.0.streams.get() {
            return;
        }
        if !written && !self.stalled {
            self.extend(Duration::ZERO);
            // Registers the task.
            let _ = self.deadline.as_mut().poll(cx);
        }
        self.stalled = !written;
    }

    /// Adds what was read to the head, and notices when the head is complete.
    fn take_in(&mut self, read: &[u8]) {
        let Phase::Head(head) = &mut self.phase else { return };
        // Also finds an end that began in the previous read.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(read);
        let end = match end_of_head(&head[from..]).map(|end| from + end) {
            Some(end) if end <= MAX_HEAD => end,
            None if head.len() <= MAX_HEAD => return,
            _ => return self.refuse(HeadRefused::TooLarge),
        };
        if let Some(why) = flaw(&head[..end]) {
            return self.refuse(HeadRefused::Malformed(why));
        }
        self.chunked = header(&head[..end], b"transfer-encoding").is_some();
        let whole = end + body_length(&head[..end]);
        // What follows the request is not handed on.
        head.truncate(whole);
        let body = whole - head.len();
        let head = std::mem::take(head);
        self.hand_on(head, body);
    }

    /// Lets the service answer that the head is refused.
    fn refuse(&mut self, why: HeadRefused) {
        self.exchange.0.refused.set(Some(why));
        self.hand_on(SUBSTITUTE.to_vec(), 0);
    }

    fn hand_on(&mut self, head: Vec<u8>, body: usize) {
        self.phase = Phase::HandOn { head, done: 0, body };
        self.place.served.set(true);
    }
}

/// The length of a head including its empty line; the lines may end in LF alone.
fn end_of_head(text: &[u8]) -> Option<usize> {
    let feeds = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    feeds.map(|at| (at + 1, &text[at + 1..])).find_map(|(next, rest)| match rest {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

/// The first flaw of a head that makes it ambiguous or that actix refuses, if there is one.
fn flaw(head: &[u8]) -> Option<&'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => (),
        Err(httparse::Error::TooManyHeaders) => return Some("it has more than 96 headers"),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            return Some("a header is not `Name: value`");
        }
        Ok(httparse::Status::Partial) | Err(_) => return Some(FIRST_LINE),
    }
    if Uri::try_from(request.path.unwrap_or_default()).is_err() {
        return Some(FIRST_LINE);
    }
    let values = |name: &str| {
        let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect::<Vec<_>>()
    };
    if values("host").len() > 1 {
        return Some("it has more than one Host");
    }
    if values("authorization").len() > 1 {
        return Some("it has more than one Authorization");
    }
    let is_old = request.version == Some(0);
    let (lengths, encodings) = (values("content-length"), values("transfer-encoding"));
    match &lengths[..] {
        [] => (),
        [length] if !encodings.is_empty() || length.is_empty() => {
            return Some("it has both Content-Length and Transfer-Encoding, or an empty one");
        }
        [length] if is_length(length) => (),
        [_] => return Some("its Content-Length is not a whole number of at most 64 bits"),
        _ => return Some("it has more than one Content-Length"),
    }
    let is_chunked = |value: &&[u8]| value.eq_ignore_ascii_case(b"chunked");
    if encodings.len() > 1 || !encodings.iter().all(is_chunked) {
        return Some("its Transfer-Encoding is not `chunked`");
    }
    if is_old && !encodings.is_empty() {
        return Some("HTTP/1.0 has no Transfer-Encoding");
    }
    if is_old && request.method == Some("POST") && lengths.is_empty() {
        return Some("a POST of HTTP/1.0 needs a Content-Length");
    }
    (!is_old && values("host").is_empty()).then_some("it has no Host")
}

fn is_length(value: &[u8]) -> bool {
    let is_number = value.iter().all(u8::is_ascii_digit);
    is_number && str::from_utf8(value).is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// The maximum number of headers, which is that of actix.
const MAX_HEADERS: usize = 96;

const FIRST_LINE: &str = "its first line is not a method, a path and HTTP/1.1, with one blank \
                          between them and everything else percent-encoded";

/// The number of bytes that follow a head and are read: those of a body of a known length
/// that is not too large. If actix should count differently, it sees no more than this.
fn body_length(head: &[u8]) -> usize {
    let length = header(head, b"content-length");
    let length = length.and_then(|length| str::from_utf8(length).ok()?.parse().ok());
    length.filter(|length| *length <= MAX_BODY).unwrap_or(0)
}

/// The value of a header of a head that is well-formed.
fn header<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (given, value) = (&line[..colon], &line[colon + 1..]);
        given.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.may_go_on(cx)?;
        for _ in 0..READS_PER_POLL {
            if let Phase::HandOn { head, done, body } = &mut this.phase {
                let end = head.len().min(*done + out.remaining());
                out.put_slice(&head[*done..end]);
                *done = end;
                if end == head.len() {
                    this.phase = Phase::Body(*body);
                }
                return Poll::Ready(Ok(()));
            }
            let waits_for_head = matches!(this.phase, Phase::Head(_));
            if waits_for_head && this.head_deadline.as_mut().poll(cx).is_ready() {
                this.refuse(HeadRefused::TooSlow);
                continue;
            }
            if let Phase::Body(0) = this.phase {
                this.phase = Phase::Rest;
            }
            let mut bytes = [0; 1024];
            let room = match this.phase {
                Phase::Body(left) => left.min(out.remaining()).min(bytes.len()),
                _ => bytes.len(),
            };
            let mut buffer = ReadBuf::new(&mut bytes[..room]);
            futures::ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                // The client of a stream is gone. Another one may only have finished sending.
                let gone = this.exchange.0.streams.get();
                let gone = gone.then(|| io::Error::from(io::ErrorKind::ConnectionReset));
                return Poll::Ready(gone.map_or(Ok(()), Err));
            }
            if let Phase::Body(left) = &mut this.phase {
                *left -= read.len();
                out.put_slice(read);
                return Poll::Ready(Ok(()));
            }
            this.take_in(read);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.may_go_on(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.place.served.set(written.is_ready());
        if self.chunked && written.is_ready() {
            // It was refused, and its client has this long to read that.
            self.deadline.as_mut().reset(Instant::now() + LINGER_TIMEOUT);
        }
        self.note_progress(written.is_ready(), cx);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.may_go_on(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.connections.forget(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"), Some(27));
        assert_eq!(end_of_head(b"GET / HTTP/1.0\n\nbody"), Some(16));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r"), None);
    }

    #[actix_rt::test]
    async fn one_request_is_handed_on_and_nothing_after_it() {
        let (mut client, server) = duplex(1 << 20);
        let mut server = Connections::default().admit(server);
        for part in ["GET / HTTP/1.1\r", "\nHost: a\r\n\r", "\nGET /again HTTP/1.1\r\n\r\n"] {
            client.write_all(part.as_bytes()).await.expect("it is open");
        }
        client.write_all(&[b'x'; 100_000]).await.expect("it is open");
        drop(client);
        let mut seen = String::new();
        server.read_to_string(&mut seen).await.expect("it is text");
        assert_eq!(seen, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(server.exchange().refused(), None);
    }

    #[test]
    fn a_head_that_actix_would_refuse_is_named() {
        let said = |head: &str| flaw(format!("{head}\r\n\r\n").as_bytes());
        for right in [
            "GET / HTTP/1.1\r\nHost: a",
            "GET /devices?q=a%20b HTTP/1.0",
            "PUT /api/v1/devices/K%C3%B6ln HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 2",
            "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615",
            "GET http://localhost/ HTTP/1.1\r\nHost: localhost",
        ] {
            assert_eq!(said(right), None, "{right}");
        }
        for (wrong, part) in [
            ("GET /?q=a b HTTP/1.1", "first line"),
            ("GET /<b> HTTP/1.1", "first line"),
            ("nonsense", "first line"),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a", "more than one Host"),
            ("GET / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked", "both"),
            ("GET / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2", "more than one Content"),
            ("GET / HTTP/1.1\r\nContent-Length: +2", "not a whole number"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip", "not `chunked`"),
            ("GET / HTTP/1.1\r\nContent-Length: 18446744073709551616", "at most 64 bits"),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked", "HTTP/1.0 has no"),
            ("POST / HTTP/1.0", "needs a Content-Length"),
            ("GET / HTTP/1.1", "no Host"),
            ("GET http://a/ HTTP/1.1\r\nAccept: */*", "no Host"),
            ("GET / HTTP/1.0\r\nAuthorization: a\r\nauthorization: a", "than one Authorization"),
            ("GET / HTTP/1.1\r\nno header", "header"),
        ] {
            let said = said(wrong).expect(wrong);
            assert!(said.contains(part), "{wrong}: {said}");
        }
    }

    #[actix_rt::test]
    async fn a_head_that_is_too_large_is_reported_and_not_kept() {
        for size in [MAX_HEAD, 100 * MAX_HEAD] {
            let (mut client, server) = duplex(1 << 20);
            let mut server = Connections::default().admit(server);
            client.write_all(&vec![b'x'; size + 1]).await.expect("it is open");
            drop(client);
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await.expect("it is open");
            assert_eq!(seen, SUBSTITUTE);
            assert_eq!(server.exchange().refused(), Some(HeadRefused::TooLarge));
        }
    }

    #[actix_rt::test]
    async fn a_head_that_does_not_come_in_time_is_reported() {
        tokio::time::pause();
        for begun in ["", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            let (mut client, server) = duplex(1 << 10);
            let mut server = Connections::default().admit(server);
            client.write_all(begun.as_bytes()).await.expect("it is open");
            let began = Instant::now();
            let mut seen = vec![0; SUBSTITUTE.len()];
            server.read_exact(&mut seen).await.expect("it is open");
            assert_eq!((seen.as_slice(), began.elapsed().as_secs()), (SUBSTITUTE, 5));
            assert_eq!(server.exchange().refused(), Some(HeadRefused::TooSlow));
        }
    }

    #[actix_rt::test]
    async fn a_connection_with_a_body_in_chunks_ends_soon_after_its_answer() {
        tokio::time::pause();
        let (mut client, server) = duplex(1 << 10);
        let mut server = Connections::default().admit(server);
        let head = "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}2\r\n").as_bytes()).await.expect("it is open");
        let mut seen = vec![0; head.len()];
        server.read_exact(&mut seen).await.expect("it is open");
        let answer = b"HTTP/1.1 411 Length Required\r\n\r\n";
        server.write_all(answer).await.expect("the client reads");
        let began = Instant::now();
        let ended = server.read(&mut seen).await.expect_err("no chunk is read");
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), LINGER_TIMEOUT.as_secs());
    }

    #[actix_rt::test]
    async fn a_connection_that_waits_for_its_client_makes_room_before_one_that_is_served() {
        let connections = Connections::default();
        let admit = || {
            let (client, server) = duplex(16);
            (client, connections.admit(server))
        };
        let (_served_client, served) = admit();
        served.place.served.set(true);
        let waiting: Vec<_> = (1..MAX_CONNECTIONS).map(|_| admit()).collect();
        let (_newest_client, newest) = admit();
        assert!(waiting[0].1.place.evicted.get());
        let others = waiting[1..].iter().map(|(_, waiting)| waiting).chain([&served, &newest]);
        assert!(others.into_iter().all(|connection| !connection.place.evicted.get()));
        drop(waiting);
        assert_eq!(connections.0.borrow().len(), 2);
    }

    #[actix_rt::test]
    async fn a_client_that_does_not_read_is_given_up() {
        tokio::time::pause();
        let (_client, server) = duplex(16);
        let mut server = Connections::default().admit(server);
        let began = Instant::now();
        let error = server.write_all(&[b'x'; 100]).await.expect_err("the client does not read");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), EXCHANGE_TIMEOUT.as_secs());
    }
}
