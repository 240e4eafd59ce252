//! Events: a client has every one of them once, in order, however often it is cut off.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http::{change, get, send};
use crate::support::service::{Place, Service};
use publishers::RawClient;
use servers::{PATIENCE, eventually};

const TOKEN: &str = "a-token-of-an-admin";

fn place() -> Place {
    Place::new().with("HTTP__TOKEN", TOKEN).with("HTTP__PUBLIC", "true")
}

/// A message of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
struct Message {
    id: String,
    event: String,
    data: Value,
}

/// An open stream.
struct Stream {
    lines: BufReader<TcpStream>,
    /// The last id that the client has got, also without an event.
    last_id: String,
    head: String,
}

impl Stream {
    fn open(service: &Service, query: &str, last: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(service.http_address()).expect("HTTP is served");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let last_header = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let path = format!("/api/v1/events/stream{query}");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{last_header}\r\n")
            .expect("it is read");
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        Self { lines, last_id: last.unwrap_or_default().to_owned(), head: head.to_lowercase() }
    }

    /// The next line of the body, without the sizes of its chunks.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        Some(line)
    }

    /// The next message, or a comment with the event `:`. `None` at the end of the stream.
    fn message(&mut self) -> Option<Message> {
        let mut message = Message::default();
        loop {
            let line = self.line()?;
            // The size of a chunk, and the end of one, end in CRLF; the messages do not.
            if let Some(size) = line.strip_suffix("\r\n") {
                if size == "0" {
                    return None;
                }
                continue;
            }
            match line.trim_end_matches('\n').split_once(':') {
                Some(("id", id)) => self.last_id = id.trim().to_owned(),
                Some(("event", event)) => message.event = event.trim().to_owned(),
                Some(("data", data)) => {
                    message.data = serde_json::from_str(data).expect("it is JSON");
                }
                Some(("", _)) => message.event = ":".to_owned(),
                _ if line == "\n" && !message.event.is_empty() => {
                    message.id.clone_from(&self.last_id);
                    return Some(message);
                }
                _ => (),
            }
        }
    }

    #[track_caller]
    fn await_event(&mut self, event: &str) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.message().expect("the stream goes on");
            if message.event == event {
                return message;
            }
            assert!(Instant::now() < deadline, "no {event}");
        }
    }
}

fn publish(client: &mut RawClient, id: &str) {
    client.publish(&format!("devices/{id}/heartbeat"), b"");
}

fn device(service: &Service, id: &str) -> RawClient {
    RawClient::connect(service.broker_port(), id, None).expect("it is let in")
}

#[test]
fn a_stream_tells_what_happens_and_says_goodbye() {
    let place = place();
    let service = place.start();
    service.await_listening();
    let mut stream = Stream::open(&service, "", None);
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    assert!(stream.head.contains("cache-control: no-store"), "{}", stream.head);
    let mut pump = device(&service, "pump");
    publish(&mut pump, "pump");
    assert_eq!(stream.await_event("registered").data["data"]["device_id"], "pump");
    let online = stream.await_event("transition");
    assert_eq!(
        (&online.data["type"], &online.data["data"]["to"]),
        (&"transition".into(), &"online".into())
    );
    assert_eq!(online.data["id"], online.id);
    let offline = stream.await_event("transition");
    assert_eq!(offline.data["data"]["to"], "offline");
    // Whoever comes back with an id gets what follows.
    let mut again = Stream::open(&service, "", Some(&online.id));
    assert_eq!(again.await_event("transition"), offline);
    let page = get(&service, &format!("/api/v1/events?after={}", online.id)).ok();
    let of_page = page["items"].as_array().expect("items");
    assert!(of_page.contains(&offline.data), "{page}");
    change(&service, "DELETE", "/api/v1/devices/pump", TOKEN, "").ok();
    assert_eq!(stream.await_event("removed").data["data"]["device_id"], "pump");
    service.signal("TERM");
    stream.await_event("bye");
    assert_eq!(stream.message(), None);
}

#[test]
fn an_event_that_is_waited_for_comes_at_once() {
    let place = place();
    let service = place.start();
    service.await_listening();
    let next = get(&service, "/api/v1/events").ok()["next"].as_str().expect("a place").to_owned();
    let began = Instant::now();
    let empty = get(&service, &format!("/api/v1/events?after={next}&wait=1s")).ok();
    let waited = began.elapsed();
    let quiet = empty["items"].as_array().is_some_and(Vec::is_empty);
    assert!(!quiet || waited >= Duration::from_secs(1), "{waited:?}: {empty}");
    let mut after = empty["next"].as_str().expect("a place").to_owned();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            loop {
                let page = get(&service, &format!("/api/v1/events?after={after}&wait=30s")).ok();
                let items = page["items"].as_array().expect("items");
                if items.iter().any(|item| item["type"] == "registered") {
                    return;
                }
                after = page["next"].as_str().expect("a place").to_owned();
            }
        });
        let mut pump = device(&service, "pump");
        publish(&mut pump, "pump");
        waiting.join().expect("it comes");
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_page_gets_a_summary_every_second() {
    let place = place();
    let service = place.start();
    let mut stream = Stream::open(&service, "?summary=1s", None);
    let first = stream.await_event("summary");
    assert!(first.data["sentence"].is_string(), "{first:?}");
    let began = Instant::now();
    for _ in 0..3 {
        stream.await_event("summary");
    }
    let lasted = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&lasted), "{lasted:?}");
    eventually("it is listening", || {
        let state = stream.await_event("summary").data["state"].clone();
        (state == "listening" || state == "warming").then_some(())
    });
}

#[test]
fn streams_are_limited_and_keep_no_probe_out() {
    let place = place().with("HTTP__MAX_STREAMS", "70");
    let service = place.start();
    let mut streams: Vec<_> = (0..70).map(|_| Stream::open(&service, "", None)).collect();
    let refused = get(&service, "/api/v1/events/stream");
    assert_eq!((refused.status, refused.problem().as_str()), (503, "too-many-streams"));
    assert!(refused.body.contains("70 event streams are open already"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    for _ in 0..100 {
        assert_eq!(get(&service, "/healthz").status, 200);
    }
    // None of them was ended for it.
    change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}");
    for stream in &mut streams {
        stream.await_event("registered");
    }
    drop(streams);
    eventually("the places are free again", || {
        let mut socket = TcpStream::connect(service.http_address()).expect("HTTP is served");
        write!(socket, "GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).ok()?;
        (&begin == b"HTTP/1.1 200").then_some(())
    });
}

#[test]
fn whoever_comes_with_a_place_that_is_not_kept_is_told_so() {
    let place = place();
    let service = place.start();
    let mut stream = Stream::open(&service, "", Some("999999-999999"));
    let reset = stream.await_event("reset");
    assert_eq!(reset.data["id"], reset.id);
    assert_ne!(reset.id, "999999-999999");
    let gone = get(&service, "/api/v1/events?after=999999-999999");
    assert_eq!((gone.status, gone.problem().as_str()), (410, "gone"));
    // Ahead in one of its numbers only: nothing of long ago comes before it is told.
    change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}");
    for elsewhere in ["999999-0", "0-999999"] {
        let gone = get(&service, &format!("/api/v1/events?after={elsewhere}"));
        assert_eq!((gone.status, gone.problem().as_str()), (410, "gone"), "{elsewhere}");
    }
    let odd = [("Last-Event-ID", "yesterday")];
    let odd = send(&service, "GET", "/api/v1/events/stream", &odd, None);
    assert_eq!(odd.problem(), "invalid-parameter");
    assert_eq!(odd.json()["errors"][0]["pointer"], "/headers/Last-Event-ID");
}

/// The number of devices that fall and return.
const DEVICES: usize = 1000;

/// The number of times that the client is cut off.
const CUTS: usize = 200;

#[test]
fn a_client_that_is_cut_off_again_and_again_has_every_transition_once_and_in_order() {
    let seed = std::env::var("STREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("STREAM_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = place().with("HEARTBEAT__TIMEOUT", "1s").with("HEARTBEAT__CHECK_INTERVAL", "200ms");
    let service = place.start();
    service.await_listening();
    let first = get(&service, "/api/v1/events").ok()["next"].as_str().expect("a place").to_owned();
    let done = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut gateway = device(&service, "gateway");
            let mut round = 0_u64;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // A third of them is silent for some rounds, then another third.
                for n in (0..DEVICES).filter(|n| !(*n as u64 + round / 3).is_multiple_of(3)) {
                    publish(&mut gateway, &format!("device-{n}"));
                }
                round += 1;
                std::thread::park_timeout(Duration::from_millis(500));
            }
        });
        let (mut last, mut seen) = (first.clone(), Vec::new());
        for _ in 0..CUTS {
            let mut stream = Stream::open(&service, "", Some(&last));
            let messages = random.usize(0..100);
            for _ in 0..messages {
                let Some(message) = stream.message() else { break };
                match message.event.as_str() {
                    "transition" => seen.push(message.data["data"]["sequence"].as_i64()),
                    other => assert!(!["reset", "bye"].contains(&other), "{message:?}"),
                }
            }
            last.clone_from(&stream.last_id);
            // Sometimes in the middle of a message.
            let _ = stream.lines.get_ref().shutdown(Shutdown::Both);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        seen
    });
    let seen: Vec<i64> = seen.into_iter().map(|sequence| sequence.expect("a number")).collect();
    assert!(seen.len() > 10 * CUTS, "only {} transitions in {CUTS} streams", seen.len());
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&service, &format!("/api/v1/transitions?limit=1000{cursor}")).ok();
        let items = page["items"].as_array().expect("items").clone();
        all.extend(items.iter().map(|item| item["sequence"].as_i64().expect("a number")));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    all.sort_unstable();
    let begin: i64 = first.split('-').next().and_then(|n| n.parse().ok()).expect("a place");
    let end = *seen.last().expect("some");
    let expected: Vec<i64> = all.into_iter().filter(|n| *n > begin && *n <= end).collect();
    assert_eq!(seen, expected, "STREAM_SEED={seed}");
}
