//! The API: what it shows, whom it lets in, and what it says to whoever asks for something
//! wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::database::lock_sqlite;
use crate::support::http::{Answer, change, get, get_with, send, verbatim};
use crate::support::service::{Place, Service};
use publishers::RawClient;
use servers::eventually;

const TOKEN: &str = "a-token-of-an-admin";

/// A service without a broker, in which nothing happens by itself.
fn idle() -> (Place, Service) {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1").with("HTTP__TOKEN", TOKEN);
    let place = place.with("HTTP__PUBLIC", "true");
    let service = place.start();
    // Before the first check it is unknown which device is late.
    service.await_metric("heartbeatd_last_check_timestamp_seconds", 1.0);
    (place, service)
}

/// Registers devices.
fn add(service: &Service, ids: &[&str]) {
    for id in ids {
        let added = change(service, "PUT", &format!("/api/v1/devices/{id}"), TOKEN, "{}");
        assert_eq!(added.status, 201, "{added:?}");
    }
}

fn ids(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items.iter().filter_map(|item| item["id"].as_str()).collect()
}

#[test]
fn whatever_is_wrong_with_a_request_is_a_problem_that_says_what_would_be_right() {
    let (_place, service) = idle();
    let send = |method, path: &str, headers: &[(&str, &str)], body| {
        send(&service, method, path, headers, body)
    };
    let is = |answer: Answer, status: u16, name: &str, words: &str| {
        assert_eq!((answer.status, answer.problem().as_str()), (status, name), "{answer:?}");
        assert!(answer.body.contains(words), "no {words}: {answer:?}");
        let page = get(&service, &format!("/problems/{name}"));
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.starts_with(&format!("{name} ({status}): ")), "{page:?}");
        answer
    };
    for path in
        ["/api/v1/", "/api/v1", "/api/v1/nothing", "/api/v1/devices/a/b", "/api/v1//devices"]
    {
        is(send("GET", path, &[], None), 404, "unknown-path", "/api/v1/openapi.json");
    }
    let wrong = is(send("POST", "/api/v1/devices", &[], None), 405, "wrong-method", "GET, HEAD");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    let wrong = is(send("TRACE", "/api/v1/devices/a", &[], None), 405, "wrong-method", "");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, PUT, PATCH, DELETE"));
    for (query, words) in [
        ("color=red", "this path takes status"),
        ("limit=0", "from 1 to 1000"),
        ("limit=100000000000000000000", "from 1 to 1000"),
        ("limit=1&limit=2", "only once"),
        ("status=asleep", "provisioning, online, offline, error"),
        ("cursor=", "`next` of an earlier answer"),
        ("cursor=no-cursor", "`next` of an earlier answer"),
        ("q=", "1 to 130 characters"),
        ("q=%ff", "not UTF-8"),
        ("cursor=%00", "`next` of an earlier answer"),
    ] {
        let answer = send("GET", &format!("/api/v1/devices?{query}"), &[], None);
        let answer = is(answer, 400, "invalid-parameter", words);
        let name = query.split('=').next().filter(|_| query != "q=%ff");
        let pointer = name.map_or("/query".to_owned(), |name| format!("/query/{name}"));
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer);
    }
    is(send("GET", "/api/v1/devices/%ff", &[], None), 400, "invalid-parameter", "UTF-8");
    for id in ["nobody", ".", "..", "%2e%2e", "a%2Fb", "", "%00"] {
        let answer = send("GET", &format!("/api/v1/devices/{id}"), &[], None);
        is(answer, 404, "unknown-device", "is not registered");
    }
    let with_body = send("GET", "/api/v1/devices", &[], Some("{}"));
    is(with_body, 413, "too-large", "takes no body");
    let long = format!("{{\"timeout_seconds\": {}1}}", " ".repeat(5000));
    let large = change(&service, "PUT", "/api/v1/devices/a", TOKEN, &long);
    is(large, 413, "too-large", "4096 bytes");
    let bearer = format!("Bearer {TOKEN}");
    let chunked = format!(
        "PUT /api/v1/devices/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    let began = Instant::now();
    is(verbatim(&service, &chunked), 411, "length-required", "Content-Length");
    // The connection ends before the time for an exchange is over.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for (head, words) in [
        ("GET /api/v1/devices?q=a b HTTP/1.1\r\nHost: localhost", "one blank"),
        ("GET /<b> HTTP/1.1\r\nHost: localhost", "percent-encoded"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost", "more than one Host"),
        ("GET /api/v1/summary HTTP/1.1", "no Host"),
        (
            "GET /api/v1/summary HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\r\n\
             Authorization: Bearer b",
            "more than one Authorization",
        ),
        (
            "PUT /api/v1/devices/a HTTP/1.1\r\nHost: localhost\r\n\
             Content-Length: 99999999999999999999",
            "at most 64 bits",
        ),
        (
            "PUT /api/v1/devices/a HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
            "both Content-Length",
        ),
    ] {
        is(verbatim(&service, &format!("{head}\r\n\r\n")), 400, "invalid-request", words);
    }
    let announced = format!(
        "PUT /api/v1/devices/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    );
    is(verbatim(&service, &announced), 408, "too-slow", "2 bytes were announced");
    let empty = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let empty = send("PUT", "/api/v1/devices/a", &empty, Some(""));
    is(empty, 400, "invalid-body", "the body is empty");
    let header = format!("GET /api/v1/devices HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    is(verbatim(&service, &header), 431, "head-too-large", "8192 bytes");
    let begun = "GET /api/v1/devices HTTP/1.1\r\nHost: localhost\r\n";
    is(verbatim(&service, begun), 408, "too-slow", "not complete within 5 s");
    let plain = [("Authorization", bearer.as_str()), ("Content-Type", "text/plain")];
    let plain = send("PUT", "/api/v1/devices/a", &plain, Some("{}"));
    is(plain, 415, "unsupported-media-type", "application/json");
    for (body, words) in [
        ("{", "EOF"),
        ("[]", "an object is expected"),
        ("{\"timeout\":1}", "timeout_seconds"),
        ("{\"timeout_seconds\":\"1\"}", "invalid type"),
        ("{\"timeout_seconds\":0}", "from 1 to 315360000"),
        ("{\"timeout_seconds\":1.5}", "from 1 to 315360000"),
        ("{\"timeout_seconds\":-1}", "from 1 to 315360000"),
        ("{\"timeout_seconds\":1e300}", "from 1 to 315360000"),
        ("\u{0}", "expected value"),
    ] {
        let answer = change(&service, "PUT", "/api/v1/devices/a", TOKEN, body);
        is(answer, 400, "invalid-body", words);
    }
    let invalid = change(&service, "PUT", "/api/v1/devices/a%2Fb", TOKEN, "{}");
    is(invalid, 400, "invalid-parameter", "must not contain");
    let missing = change(&service, "PATCH", "/api/v1/devices/a", TOKEN, "{}");
    is(missing, 404, "unknown-device", "");
    let missing = change(&service, "DELETE", "/api/v1/devices/a", TOKEN, "");
    is(missing, 404, "unknown-device", "");
    assert_eq!(get(&service, "/problems/no-such-problem").status, 404);
    let of_library = |line: &String| line.contains("actix");
    assert!(!service.log().iter().any(of_library), "{:?}", service.log());
}

#[test]
fn devices_are_listed_page_by_page_and_a_cursor_fits_only_its_list() {
    let (_place, service) = idle();
    let names: Vec<String> = (0..7).map(|n| format!("pump-{n}")).collect();
    add(&service, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for size in [3, 3, 1] {
        let page = get(&service, &format!("/api/v1/devices?limit=3{cursor}")).ok();
        assert_eq!(ids(&page).len(), size, "{page}");
        found.extend(ids(&page).into_iter().map(str::to_owned));
        cursor = format!("&cursor={}", page["next"].as_str().unwrap_or("none"));
    }
    assert_eq!((found, cursor.as_str()), (names, "&cursor=none"));
    let page = get(&service, "/api/v1/devices?status=provisioning&limit=2").ok();
    let next = page["next"].as_str().expect("more").to_owned();
    let mismatch = get(&service, &format!("/api/v1/devices?cursor={next}"));
    assert_eq!((mismatch.status, mismatch.problem().as_str()), (400, "cursor-mismatch"));
    let other = get(&service, &format!("/api/v1/transitions?cursor={next}"));
    assert_eq!(other.problem(), "cursor-mismatch");
    let same = format!("/api/v1/devices?cursor={next}&status=provisioning&limit=1000");
    assert_eq!(ids(&get(&service, &same).ok()).len(), 5);
    assert_eq!(get(&service, "/api/v1/devices?status=offline").ok()["items"], json!([]));
    let head = send(&service, "HEAD", "/api/v1/devices", &[], None);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn a_device_is_registered_changed_and_removed() {
    let (place, service) = idle();
    let path = "/api/v1/devices/pump%2017";
    let added = change(&service, "PUT", path, TOKEN, r#"{"timeout_seconds":300}"#);
    assert_eq!(added.status, 201, "{added:?}");
    let device = added.json();
    assert_eq!((&device["id"], &device["status"]), (&json!("pump 17"), &json!("provisioning")));
    assert_eq!(device["effective_timeout_seconds"], 300.0);
    assert_eq!(get(&service, path).ok(), device);
    let whole = change(&service, "PUT", path, TOKEN, r#"{"timeout_seconds":301.0}"#);
    assert_eq!((whole.status, &whole.json()["timeout_seconds"]), (200, &json!(301)));
    let again = change(&service, "PUT", path, TOKEN, r#"{"timeout_seconds":null}"#);
    assert_eq!((again.status, &again.json()["timeout_seconds"]), (200, &Value::Null));
    assert_eq!(again.json()["effective_timeout_seconds"], 3.0);
    let patched = change(&service, "PATCH", path, TOKEN, r#"{"timeout_seconds":5}"#).ok();
    assert_eq!(patched["timeout_seconds"], 5);
    let shown = place.json(&["device", "show", "pump 17", "--json"]);
    assert_eq!(shown["timeout_seconds"], 5);
    let removed = change(&service, "DELETE", path, TOKEN, "").ok();
    assert_eq!(removed, json!({"still_sending": false}));
    assert_eq!(get(&service, path).problem(), "unknown-device");
}

#[test]
fn the_summary_counts_what_the_api_registers_and_removes_at_once() {
    // A check would count anew.
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1").with("HTTP__TOKEN", TOKEN);
    let place = place.with("HTTP__PUBLIC", "true").with("HEARTBEAT__CHECK_INTERVAL", "10m");
    let service = place.start();
    service.await_metric("heartbeatd_last_check_timestamp_seconds", 1.0);
    let counted = || {
        let summary = get(&service, "/api/v1/summary").ok();
        let metric = service.metric(r#"heartbeatd_devices{status="provisioning"}"#);
        (summary["total"].clone(), summary["devices"]["provisioning"].clone(), metric as u64)
    };
    add(&service, &["pump", "fan", "valve"]);
    assert_eq!(counted(), (json!(3), json!(3), 3));
    change(&service, "PUT", "/api/v1/devices/pump", TOKEN, "{}").ok();
    assert_eq!(counted(), (json!(3), json!(3), 3), "it was registered already");
    change(&service, "DELETE", "/api/v1/devices/fan", TOKEN, "").ok();
    assert_eq!(counted(), (json!(2), json!(2), 2));
}

#[test]
fn a_change_without_a_field_changes_nothing() {
    let (_place, service) = idle();
    let timeout = |method, body| {
        let changed = change(&service, method, "/api/v1/devices/pump", TOKEN, body).ok();
        changed["timeout_seconds"].clone()
    };
    assert_eq!(timeout("PUT", r#"{"timeout_seconds":300}"#), 300);
    assert_eq!(timeout("PATCH", "{}"), 300);
    assert_eq!(timeout("PUT", "{}"), 300);
    assert_eq!(timeout("PATCH", r#"{"timeout_seconds":null}"#), Value::Null);
}

#[test]
fn nothing_is_shown_under_a_name_that_is_not_the_services() {
    let (_place, service) = idle();
    for path in ["/", "/devices", "/nope", "/metrics", "/problems/busy", "/api/v1/summary"] {
        let evil = send(&service, "GET", path, &[("Host", "evil.example")], None);
        assert_eq!((evil.status, evil.problem().as_str()), (403, "forbidden"), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        let probe = send(&service, "GET", path, &[("Host", "evil.example")], None);
        assert!(
            matches!(probe.status, 200 | 503) && !probe.body.contains("forbidden"),
            "{probe:?}"
        );
    }
}

#[test]
fn more_long_polls_than_there_is_room_for_are_answered() {
    let (_place, service) = idle();
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(service.http_address()).expect("HTTP is served");
            stream.set_read_timeout(Some(servers::PATIENCE)).expect("a timeout");
            let request = "GET /api/v1/events?wait=3s HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("it is read");
            stream
        })
        .collect();
    let mut statuses = std::collections::BTreeMap::new();
    for mut stream in asked {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it is not cut off");
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        *statuses.entry(status).or_insert(0) += 1;
    }
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [("200".into(), 32), ("429".into(), 68)]);
}

#[test]
fn an_unknown_device_is_a_problem_that_proposes_those_that_may_be_meant() {
    let (_place, service) = idle();
    add(&service, &["pump-17", "pump-71x", "valve"]);
    for (id, expected) in [
        ("pump-71", r#"; did you mean \"pump-17\" or \"pump-71x\"?"#),
        ("PUMP-17", r#"; did you mean \"pump-17\""#),
        ("valv", r#"; did you mean \"valve\"?"#),
        ("conveyor", r#""conveyor\" is not registered""#),
    ] {
        let path = format!("/api/v1/devices/{id}");
        let removed = change(&service, "DELETE", &path, TOKEN, "");
        let patched = change(&service, "PATCH", &path, TOKEN, "{}");
        for answer in [get(&service, &path), removed, patched] {
            assert_eq!((answer.status, answer.problem().as_str()), (404, "unknown-device"));
            assert!(answer.body.contains(expected), "{id}: {answer:?}");
        }
    }
    let many: Vec<String> = (1..7).map(|n| format!("press-{n}")).collect();
    add(&service, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let three = r#"; did you mean \"press-1\", \"press-2\" or \"press-3\"?"#;
    assert!(get(&service, "/api/v1/devices/press").body.contains(three));
}

#[test]
fn a_device_shows_the_evidence_for_its_status() {
    let place = Place::new().with("HTTP__TOKEN", TOKEN).with("HTTP__PUBLIC", "true");
    let service = place.start();
    service.await_listening();
    let mut pump = RawClient::connect(service.broker_port(), "pump", None).expect("it is let in");
    pump.publish("devices/pump/heartbeat", br#"{"uptime_seconds": 17}"#);
    let is = |status: &'static str| move |device: &Value| device["status"].as_str() == Some(status);
    let show = || get(&service, "/api/v1/devices/pump");
    let await_device = |what: &str, is: &dyn Fn(&Value) -> bool| -> Value {
        eventually(what, || Some(show()).filter(|a| a.status == 200 && is(&a.json()))).json()
    };
    let device = await_device("the pump is online", &is("online"));
    assert_eq!((&device["uptime_seconds"], &device["outage"]), (&json!(17), &Value::Null));
    assert!(device["sentence"].as_str().expect("words").starts_with("online: heard "), "{device}");
    assert_eq!(device["evidence"]["timeout_seconds"], 3.0);
    let time = device["last_seen_at"].as_str().expect("a time");
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");

    let device = await_device("the pump is offline", &is("offline"));
    let evidence = &device["evidence"];
    assert!(evidence["listened_seconds"].as_f64() > Some(3.0), "{device}");
    assert!(evidence["silent_seconds"].as_f64() >= evidence["listened_seconds"].as_f64());
    assert_eq!(device["outage"]["sequence"], device["sequence"]);
    let page = get(&service, "/api/v1/transitions?device=pump").ok();
    let items = page["items"].as_array().expect("items");
    assert_eq!(items.len(), 2, "{page}");
    assert_eq!((&items[0]["to"], &items[1]["to"]), (&json!("offline"), &json!("online")));
    assert_eq!(items[0]["sequence"], device["sequence"]);
    assert_eq!(items[0]["listened_seconds"], evidence["listened_seconds"]);
    let newest = get(&service, "/api/v1/transitions?device=pump&limit=1").ok();
    let next = newest["next"].as_str().expect("more").to_owned();
    let path = format!("/api/v1/transitions?device=pump&limit=1&cursor={next}");
    let last = get(&service, &path).ok();
    assert_eq!((&last["items"][0], &last["next"]), (&items[1], &Value::Null));

    pump.publish("devices/pump/heartbeat", b"");
    await_device("the pump is online again", &is("online"));
    let removed = change(&service, "DELETE", "/api/v1/devices/pump", TOKEN, "").ok();
    assert_eq!(removed, json!({"still_sending": true}));
}

#[test]
fn without_tokens_reading_is_free_on_loopback_and_writing_is_not() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = place.start();
    get(&service, "/api/v1/devices").ok();
    let who = get(&service, "/api/v1/whoami").ok();
    assert_eq!(who, json!({"scope": "read", "name": null, "login_required": false}));
    let refused = change(&service, "DELETE", "/api/v1/devices/a", "guess", "");
    assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthorized"));
    let refused = send(&service, "DELETE", "/api/v1/devices/a", &[], None);
    assert_eq!(refused.problem(), "unauthorized");
    assert!(refused.body.contains("heartbeatd token new"), "{refused:?}");
    for host in ["evil.example", "evil.example:8080"] {
        let refused = send(&service, "GET", "/api/v1/devices", &[("Host", host)], None);
        assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"));
        assert!(refused.body.contains("http.names"), "{refused:?}");
        assert_eq!(send(&service, "GET", "/healthz", &[("Host", host)], None).status, 200);
    }
}

/// Creates a token with the command, and returns it with its line for the environment.
fn new_token(place: &Place, name: &str, scope: &str) -> (String, String) {
    let made = place.json(&["token", "new", name, "--scope", scope, "--json"]);
    let text = |key: &str| made[key].as_str().expect(key).to_owned();
    (text("token"), format!("{}:{}:{}", text("name"), text("scope"), text("sha256")))
}

#[test]
fn tokens_permit_what_their_scope_says() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let (reader, one) = new_token(&place, "dashboard", "read");
    let (operator, two) = new_token(&place, "robot", "operate");
    let place = place.with("HTTP__TOKENS", &format!("{one},{two}")).with("HTTP__TOKEN", TOKEN);
    let listed = place.json(&["token", "list", "--json"]);
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|t| &t["name"]).collect();
    assert_eq!(names, ["http.token", "dashboard", "robot"]);
    assert!(!listed.to_string().contains(&reader), "{listed}");
    let twice = place.run(&["token", "new", "robot"]);
    assert_eq!(twice.status.code(), Some(1), "{twice:?}");

    let service = place.start();
    let nobody = get(&service, "/api/v1/devices");
    assert_eq!((nobody.status, nobody.problem().as_str()), (401, "unauthorized"));
    assert!(nobody.header("www-authenticate").is_some_and(|how| how.starts_with("Bearer ")));
    let who = get(&service, "/api/v1/whoami").ok();
    assert_eq!(who, json!({"scope": null, "name": null, "login_required": true}));
    for token in [&reader, &operator, TOKEN] {
        get_with(&service, "/api/v1/devices", token).ok();
    }
    let who = get_with(&service, "/api/v1/whoami", &operator).ok();
    assert_eq!(who, json!({"scope": "operate", "name": "robot", "login_required": true}));
    let refused = change(&service, "PUT", "/api/v1/devices/a", &reader, "{}");
    assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"));
    assert!(refused.body.contains("dashboard has the scope read"), "{refused:?}");
    assert_eq!(change(&service, "PUT", "/api/v1/devices/a", &operator, "{}").status, 201);
    // What monitors a service needs no token.
    for path in ["/healthz", "/metrics"] {
        assert_eq!(get(&service, path).status, 200, "{path}");
    }
    for n in 0..40 {
        let guess = get_with(&service, "/api/v1/devices", &format!("guess-{n}"));
        let expected = if n < 30 { (401, "unauthorized") } else { (429, "busy") };
        assert_eq!((guess.status, guess.problem().as_str()), expected, "{n}");
        if n >= 30 {
            assert!(guess.header("retry-after").is_some(), "{guess:?}");
        }
    }
    // Whoever was let in from there before is not kept out.
    get_with(&service, "/api/v1/devices", &reader).ok();
}

#[test]
fn a_page_logs_in_with_a_token_and_gets_a_cookie() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1").with("HTTP__TOKEN", TOKEN);
    let service = place.start();
    let origin = format!("http://{}", service.http_address());
    let json_from =
        |origin: &'static str| [("Origin", origin), ("Content-Type", "application/json")];
    let login = format!(r#"{{"token":"{TOKEN}"}}"#);
    let elsewhere = json_from("http://evil.example");
    let refused = send(&service, "POST", "/api/v1/login", &elsewhere, Some(&login));
    assert_eq!(refused.problem(), "forbidden");
    let own = [("Origin", origin.as_str()), ("Content-Type", "application/json")];
    let wrong = send(&service, "POST", "/api/v1/login", &own, Some(r#"{"token":"wrong"}"#));
    assert_eq!((wrong.status, wrong.problem().as_str()), (401, "unauthorized"));
    let in_ = send(&service, "POST", "/api/v1/login", &own, Some(&login));
    assert_eq!(in_.ok()["scope"], "admin");
    let set = in_.header("set-cookie").expect("a cookie").to_owned();
    assert!(set.contains("; HttpOnly; SameSite=Strict") && !set.contains(TOKEN), "{set}");
    let cookie = set.split(';').next().expect("a pair");
    let with = |more: &[(&str, &str)], method, path| {
        let headers = [&[("Cookie", cookie)], more].concat();
        send(&service, method, path, &headers, None)
    };
    with(&[], "GET", "/api/v1/devices").ok();
    let forged = with(&[("Origin", "http://evil.example")], "DELETE", "/api/v1/devices/a");
    assert_eq!(forged.problem(), "forbidden");
    let gone = with(&[("Origin", origin.as_str())], "DELETE", "/api/v1/devices/a");
    assert_eq!(gone.problem(), "unknown-device");
    with(&[("Origin", origin.as_str())], "POST", "/api/v1/logout").ok();
    assert_eq!(with(&[], "GET", "/api/v1/devices").problem(), "unauthorized");
}

#[test]
fn an_address_that_others_can_reach_needs_a_token_or_is_public() {
    let place = Place::new().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let place = place.with("HTTP__LISTEN", "0.0.0.0:0");
    let refused = place.run(&["check-config"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{errors}");
    assert!(errors.contains("http.public = true") && errors.contains("token new"), "{errors}");
    for (key, value) in [("HTTP__TOKEN", TOKEN), ("HTTP__PUBLIC", "true")] {
        let place = Place::new().with("HTTP__LISTEN", "0.0.0.0:0").with(key, value);
        assert!(place.run(&["check-config"]).status.success(), "{key}");
    }
}

#[actix_rt::test]
async fn a_request_that_waits_for_the_database_keeps_no_probe_waiting() {
    let (place, service) = idle();
    add(&service, &["pump"]);
    let lock = lock_sqlite(&place.database_url()).await;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| change(&service, "PUT", "/api/v1/devices/b", TOKEN, "{}"));
        while !waiting.is_finished() {
            let asked = Instant::now();
            assert_eq!(get(&service, "/healthz").status, 200);
            assert_eq!(get(&service, "/api/v1/devices/pump").status, 200);
            assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        }
        let answer = waiting.join().expect("it answers");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "database-unavailable"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    });
    drop(lock);
    add(&service, &["b"]);
}
