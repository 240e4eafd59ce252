//! Events: a client has every one of them once, in order, however often it is cut off.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heartbeatd::clock::system_clock;
use serde_json::Value;

use crate::support::http::{change, get, send};
use crate::support::service::{Place, Service};
use publishers::RawClient;
use servers::postgresql::PostgreSql;
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
        let header = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let mut stream = Self::open_with(service, query, &header);
        stream.last_id = last.unwrap_or_default().to_owned();
        stream
    }

    /// Opens a stream with headers, each with its end of line.
    fn open_with(service: &Service, query: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(service.http_address()).expect("HTTP is served");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let path = format!("/api/v1/events/stream{query}");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
            .expect("it is read");
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).expect("a head") > 0, "{head}");
        }
        Self { lines, last_id: String::new(), head: head.to_lowercase() }
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
    // Whoever comes back with an id gets what follows. Its alert may be delivered by then.
    let mut again = Stream::open(&service, "", Some(&online.id));
    assert_eq!(again.await_event("transition").id, offline.id);
    let page = get(&service, &format!("/api/v1/events?after={}", online.id)).ok();
    let of_page = page["items"].as_array().expect("items");
    assert!(of_page.iter().any(|item| item["id"] == offline.id.as_str()), "{page}");
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
    assert!((service.metric("heartbeatd_event_streams") - 70.0).abs() < 0.5);
    for _ in 0..100 {
        assert_eq!(get(&service, "/healthz").status, 200);
    }
    // None of them was ended for it.
    change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}");
    for stream in &mut streams {
        stream.await_event("registered");
    }
    drop(streams);
    eventually("no stream is counted any more", || {
        (service.metric("heartbeatd_event_streams") < 0.5).then_some(())
    });
    eventually("the places are free again", || {
        let mut socket = TcpStream::connect(service.http_address()).expect("HTTP is served");
        write!(socket, "GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
        let mut begin = [0; 12];
        socket.read_exact(&mut begin).ok()?;
        (&begin == b"HTTP/1.1 200").then_some(())
    });
}

#[test]
fn a_stream_ends_with_the_login_that_permits_it_and_no_other_does() {
    let place = Place::new().with("HTTP__TOKEN", TOKEN);
    let service = place.start();
    let json = [("Content-Type", "application/json")];
    let login = || {
        let token = format!(r#"{{"token":"{TOKEN}"}}"#);
        let answer = send(&service, "POST", "/api/v1/login", &json, Some(&token));
        let cookie = answer.header("set-cookie").and_then(|set| set.split(';').next());
        cookie.expect("a cookie").to_owned()
    };
    let (mine, other) = (login(), login());
    let with = |cookie: &str| format!("Cookie: {cookie}\r\n");
    let mut ending =
        ["", "?summary=1s"].map(|query| Stream::open_with(&service, query, &with(&mine)));
    let mut lasting =
        [with(&other), format!("Authorization: Bearer {TOKEN}\r\nCookie: {mine}\r\n")]
            .map(|headers| Stream::open_with(&service, "", &headers));
    send(&service, "POST", "/api/v1/logout", &[("Cookie", &mine)], None).ok();
    for stream in &mut ending {
        let said = |message: &Message| message.event != "bye";
        assert!(std::iter::from_fn(|| stream.message()).all(|message| said(&message)));
    }
    assert_eq!(change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}").status, 201);
    for stream in &mut lasting {
        stream.await_event("registered");
    }
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
    for odd in ["4711-\u{200b}17", "\u{200b}", "1-1-1-1"] {
        let odd = send(&service, "GET", "/api/v1/events/stream", &[("Last-Event-ID", odd)], None);
        assert_eq!((odd.status, odd.problem().as_str()), (400, "invalid-parameter"), "{odd:?}");
    }
    let twice = [("Last-Event-ID", "1-1"), ("Last-Event-ID", "1-2")];
    let twice = send(&service, "GET", "/api/v1/events/stream", &twice, None);
    assert_eq!((twice.status, twice.problem().as_str()), (400, "invalid-parameter"), "{twice:?}");
    let odd = [("Last-Event-ID", "yesterday")];
    let odd = send(&service, "GET", "/api/v1/events/stream", &odd, None);
    assert_eq!(odd.problem(), "invalid-parameter");
    assert_eq!(odd.json()["errors"][0]["pointer"], "/headers/Last-Event-ID");
}

#[test]
fn after_a_failover_of_the_database_a_place_from_before_is_told_so() {
    let mut server = PostgreSql::start();
    let place = place().with("DATABASE__URL", &server.new_database());
    let service = place.start();
    service.await_listening();
    change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}");
    let before = get(&service, "/api/v1/events").ok()["next"].as_str().expect("a place").to_owned();
    assert!(before.ends_with("-00000001"), "{before}");
    let mut stream = Stream::open(&service, "", Some(&before));
    server.switch_over();
    let reset = stream.await_event("reset");
    assert_eq!(reset.data["id"], reset.id);
    assert!(reset.id.ends_with("-00000002"), "{}", reset.id);
    let gone = get(&service, &format!("/api/v1/events?after={before}"));
    assert_eq!((gone.status, gone.problem().as_str()), (410, "gone"));
    // The stream goes on from where it was reset.
    change(&service, "PUT", "/api/v1/devices/valve", TOKEN, "{}");
    assert_eq!(stream.await_event("registered").data["data"]["device_id"], "valve");
}

#[test]
fn after_the_file_was_replaced_a_place_from_before_is_told_so() {
    let place = place();
    let mut service = place.start();
    let register = |service: &Service, device: &str| {
        change(service, "PUT", &format!("/api/v1/devices/{device}"), TOKEN, "{}");
        get(service, "/api/v1/events").ok()["next"].as_str().expect("a place").to_owned()
    };
    let before = register(&service, "pump");
    service.signal("TERM");
    service.await_exit();
    for file in std::fs::read_dir(place.path()).expect("a folder") {
        std::fs::remove_file(file.expect("a file").path()).expect("it is removed");
    }
    let second = || before.rsplit_once('-').map(|(_, second)| second.to_owned());
    let made = i64::from_str_radix(&second().expect("a second"), 16).expect("a number");
    eventually("another second has begun", || {
        (system_clock().wall.timestamp() > made).then_some(())
    });
    let service = place.start();
    register(&service, "fan");
    let after = register(&service, "valve");
    // Nothing in the numbers says that it is from elsewhere.
    let gone = get(&service, &format!("/api/v1/events?after={before}"));
    assert_eq!((gone.status, gone.problem().as_str()), (410, "gone"), "{before}, now {after}");
    let mut stream = Stream::open(&service, "", Some(&before));
    // Something else may have happened since.
    let mark = |place: &str| place.rsplit_once('-').map(|(_, mark)| mark.to_owned());
    assert_eq!(mark(&stream.await_event("reset").id), mark(&after));
}

#[test]
fn a_client_of_http_1_0_gets_a_stream_without_chunks() {
    let place = place();
    let service = place.start();
    for query in ["", "?summary=1s"] {
        let mut socket = TcpStream::connect(service.http_address()).expect("HTTP is served");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let path = format!("/api/v1/events/stream{query}");
        write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it is read");
        let mut lines = BufReader::new(socket).lines().map(|line| line.expect("text"));
        let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let head = head.join("\n").to_lowercase();
        assert!(head.starts_with("http/1.0 200"), "{head}");
        // It ends with the connection, as it does by default.
        assert!(!head.contains("transfer-encoding") && !head.contains("connection:"), "{head}");
        assert_eq!(lines.next().as_deref(), Some("retry: 3000"), "{query}");
    }
}

/// The number of times that the client is cut off, at least.
const CUTS: usize = 200;

/// A number from the environment.
fn given<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Publishes for a fleet of which a third is silent, then another third. Each is silent for so
/// long that a check finds it, which takes longer for a large fleet.
fn fall_and_return(service: &Service, devices: usize, done: &AtomicBool) {
    let mut gateway = device(service, "gateway");
    let (began, long) = (Instant::now(), Duration::from_micros(1_500_000 + 100 * devices as u64));
    while !done.load(Ordering::Relaxed) {
        let next = Instant::now() + Duration::from_millis(500);
        let silent = (began.elapsed().as_micros() / long.as_micros()) as usize % 3;
        for n in (0..devices).filter(|n| n % 3 != silent) {
            publish(&mut gateway, &format!("device-{n}"));
        }
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
}

/// Ends the fleet when it is dropped, also by an assertion that fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The events that a client has got through all of its streams.
#[derive(Default)]
struct Got {
    transitions: Vec<i64>,
    others: usize,
    fallen: HashSet<String>,
    returned: HashSet<String>,
    /// The sum of the numbers of the last place. Each event makes one of them larger.
    reached: i64,
}

impl Got {
    fn take(&mut self, message: &Message) {
        let reached = numbers(&message.id).iter().sum();
        match message.event.as_str() {
            ":" => return,
            "transition" => {
                let data = &message.data["data"];
                let device = data["device_id"].as_str().expect("an id").to_owned();
                self.transitions.push(data["sequence"].as_i64().expect("a number"));
                match (data["from"].as_str(), data["to"].as_str()) {
                    (_, Some("offline")) => self.fallen.insert(device),
                    (Some("offline"), _) => self.returned.insert(device),
                    _ => false,
                };
            }
            "registered" | "removed" | "gap" | "listening" | "state" => self.others += 1,
            other => panic!("{other}: {message:?}"),
        }
        assert!(reached > self.reached, "{reached} after {}: {message:?}", self.reached);
        self.reached = reached;
    }

    fn all_have_returned(&self, devices: usize) -> bool {
        self.fallen.len() == devices && self.returned.len() == devices
    }
}

/// The sequence of the transition and the number of the journal in a place.
fn numbers(place: &str) -> [i64; 2] {
    let mut numbers = place.split('-');
    [(); 2].map(|()| numbers.next().expect(place).parse().expect(place))
}

/// The sequences of all transitions that the service has, sorted.
fn all_transitions(service: &Service) -> Vec<i64> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(service, &format!("/api/v1/transitions?limit=1000{cursor}")).ok();
        let items = page["items"].as_array().expect("items");
        all.extend(items.iter().map(|item| item["sequence"].as_i64().expect("a number")));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    all.sort_unstable();
    all
}

/// With `STREAM_DEVICES=100000` and an optimized build it takes some minutes.
#[test]
fn a_client_that_is_cut_off_again_and_again_has_every_transition_once_and_in_order() {
    let seed = given("STREAM_SEED").unwrap_or_else(|| fastrand::u64(..));
    let devices = given("STREAM_DEVICES").unwrap_or(1000);
    println!("STREAM_SEED={seed} STREAM_DEVICES={devices}");
    let mut random = fastrand::Rng::with_seed(seed);
    let place = place().with("HEARTBEAT__TIMEOUT", "1s").with("HEARTBEAT__CHECK_INTERVAL", "200ms");
    let service = place.start();
    service.await_listening();
    let first = get(&service, "/api/v1/events").ok()["next"].as_str().expect("a place").to_owned();
    let (done, began) = (AtomicBool::new(false), Instant::now());
    let patience = 2 * PATIENCE + Duration::from_millis(10 * devices as u64);
    let (mut got, mut last, mut cuts) = (Got::default(), first.clone(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| fall_and_return(&service, devices, &done));
        let _ends = Ends(&done);
        while cuts < CUTS || !got.all_have_returned(devices) {
            let mut stream = Stream::open(&service, "", Some(&last));
            for _ in 0..random.usize(0..devices / 15) {
                let Some(message) = stream.message() else { break };
                got.take(&message);
            }
            last.clone_from(&stream.last_id);
            // Sometimes in the middle of a message.
            let _ = stream.lines.get_ref().shutdown(Shutdown::Both);
            cuts += 1;
            if began.elapsed() > patience {
                break;
            }
        }
    });
    let Got { transitions: seen, others, fallen, returned, .. } = &got;
    let (fallen, returned) = (fallen.len(), returned.len());
    println!(
        "{} transitions and {others} other events in {cuts} streams within {:.1?}: of {devices} \
         devices {fallen} fell and {returned} returned",
        seen.len(),
        began.elapsed()
    );
    assert!(got.all_have_returned(devices), "{fallen} fell and {returned} returned");
    let ([begin, _], end) = (numbers(&first), *seen.last().expect("some"));
    let all = all_transitions(&service).into_iter();
    let expected: Vec<i64> = all.filter(|n| *n > begin && *n <= end).collect();
    assert_eq!(seen.len(), expected.len(), "STREAM_SEED={seed}");
    assert!(*seen == expected, "STREAM_SEED={seed}: {:?}", first_difference(seen, &expected));
}

fn first_difference(seen: &[i64], expected: &[i64]) -> Option<(i64, i64)> {
    let pairs = seen.iter().copied().zip(expected.iter().copied());
    pairs.into_iter().find(|(seen, expected)| seen != expected)
}
