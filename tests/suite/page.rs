//! The page in a real browser: what an operator sees, and that it is true.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::browser::{Browser, Light, ONLINE, SENTENCE, names};
use crate::support::database::{TestDatabase, lock_sqlite};
use crate::support::http;
use crate::support::service::{Place, Service};
use publishers::{Devices, flood};
use serde_json::{Value, json};
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};
use servers::process::free_port;

/// The number of devices that a page of the list shows.
const ROWS: usize = 100;

/// A service whose page has the same address after a restart.
fn place() -> Place {
    Place::new()
        .with("HTTP__LISTEN", &format!("127.0.0.1:{}", free_port()))
        .with("MQTT__EMBEDDED__LISTEN", &format!("127.0.0.1:{}", free_port()))
}

fn api(service: &Service, path: &str) -> Value {
    let (head, body) = ask(service, &format!("/api/v1{path}"), "");
    assert!(head.starts_with("http/1.1 200 "), "{path}: {head} {body}");
    serde_json::from_str(&body).expect("it is JSON")
}

#[test]
fn counts_and_the_sentence_follow_devices_that_come_and_go() {
    let place = place();
    let service = place.start_listening();
    let browser = Browser::start();
    browser.open_page(&service, "/");
    browser.await_text(".empty", |text| text.contains("No device"));

    let devices = Devices::live(service.broker_port(), names(&["pump-1", "pump-2", "valve-3"]));
    browser.await_text(ONLINE, |text| text == "3");
    browser.await_state("listening");
    devices.die(&["pump-2"]);
    browser.await_text(".count.offline .n", |text| text == "1");
    let line = browser.await_text(".each li.offline", |text| text.contains("pump-2"));
    assert!(line.contains("offline"), "{line}");
    let sentence = browser.await_text(SENTENCE, |text| text.contains("1 offline"));
    assert_eq!(browser.title(), sentence);
    assert_eq!(api(&service, "/summary")["sentence"], json!(sentence));

    drop(devices);
    let _again = Devices::live(service.broker_port(), names(&["pump-1", "pump-2", "valve-3"]));
    browser.await_text(".count.offline .n", |text| text == "0");
    browser.await_text(".changes", |text| text.contains("pump-2") && text.contains("online"));
}

#[test]
fn a_list_has_filters_a_search_and_pages_each_with_an_address() {
    let place = place().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start_listening();
    flood(service.broker_port(), "pump", 250, 1, "");
    let wrong = br#"{"status":"error","error":"<b>bearing</b> too hot"}"#;
    heartbeat(service.broker_port(), "valve-7", wrong);
    let browser = Browser::start();
    let rows = "document.querySelectorAll('tbody tr').length";
    browser.open_page(&service, "/devices");
    browser.await_text(".chip.on", |text| text.replace(char::is_whitespace, "") == "All251");
    browser.await_value(rows, &ROWS.into());
    browser.await_text(".pager .shown", |text| text.starts_with("100 shown: pump-"));
    let first = browser.text("tbody tr:first-child .id");
    browser.click("[data-next]");
    browser.await_text("tbody tr:first-child .id", |text| text > first.as_str());
    assert!(browser.url().contains("cursor="), "{}", browser.url());
    browser.back();
    browser.await_text("tbody tr:first-child .id", |text| text == first);

    // A search finds by the beginning, at once, and can be linked to.
    browser.press("/");
    browser.press("pump-24");
    browser.await_value(rows, &11.into());
    assert!(browser.url().ends_with("/devices?q=pump-24"), "{}", browser.url());
    browser.open_page(&service, "/devices?q=pump-249");
    browser.await_text("tbody", |text| text.starts_with("pump-249"));
    // The counts would be those of the whole fleet.
    assert_eq!(browser.text(".chips .n"), "");
    assert_eq!(browser.value("document.querySelector('#search').value"), json!("pump-249"));

    // What a device says is text, whatever it looks like.
    browser.open_page(&service, "/devices?status=error");
    browser.await_text("tbody", |text| text.contains("<b>bearing</b> too hot"));
    browser.await_value(rows, &1.into());
    browser.click(".chip:nth-child(2)");
    browser.await_value(rows, &ROWS.into());
    assert!(browser.url().contains("status=error&status=online"), "{}", browser.url());
}

/// The texts from elsewhere of a page that draw outside of their lines, or over other texts.
const OUTSIDE: &str = "[...document.querySelectorAll('.id, .note')].filter((one) => \
    getComputedStyle(one).overflowY === 'visible' || /[\\u0336\\u202e]|\\p{M}{5}/u.test(one.innerText)\
    ).map((one) => one.innerText)";

#[test]
fn no_text_of_a_device_draws_over_another() {
    let place = place().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start_listening();
    let marks = "\u{300}".repeat(300);
    let error = format!(r#"{{"error":"Z{marks} end"}}"#);
    heartbeat(service.broker_port(), "zalgo", error.as_bytes());
    let long = "x".repeat(128);
    for id in ["s\u{336}t\u{336}ruck", "o\u{300}\u{301}\u{300}\u{301}\u{300}\u{301}", &long] {
        heartbeat(service.broker_port(), id, b"");
    }
    let browser = Browser::start();
    browser.open_page(&service, "/devices");
    browser.await_text("tbody", |text| text.contains("s0336t0336ruck") && text.contains("+296"));
    assert_eq!(browser.value(OUTSIDE), json!([]));
    let wide = "document.documentElement.scrollWidth > innerWidth \
        || document.querySelector('table').offsetWidth > document.querySelector('.view').offsetWidth";
    assert_eq!(browser.value(wide), json!(false), "an id of 128 characters takes several lines");
    browser.open_page(&service, "/devices/zalgo");
    browser.await_text(".said", |text| text.contains("+296") && text.ends_with("end"));
    assert_eq!(browser.value(OUTSIDE), json!([]));
    browser.open_page(&service, "/");
    browser.await_text(".each", |text| text.contains("+2") && text.contains("s0336t0336ruck"));
    assert_eq!(browser.value(OUTSIDE), json!([]));
}

/// Waits until the page has heard of the service twice more.
fn await_two_summaries(browser: &Browser) {
    for _ in 0..2 {
        let before = browser.text(".meta span:nth-child(3)");
        browser.await_text(".meta span:nth-child(3)", |text| text != before);
    }
}

/// The questions for devices and their outages that a page has asked.
const ASKED: &str = "performance.getEntriesByType('resource')\
    .filter(({ name }) => /api.v1.(devices|outages)/.test(name)).length";

#[test]
fn an_address_that_means_nothing_is_shown_as_such_and_the_page_goes_on() {
    let place = place();
    let service = place.start_listening();
    heartbeat(service.broker_port(), "pump-1", b"");
    let browser = Browser::start();
    let time = "a time such as 2026-11-26T14:08:22Z is expected";
    for (path, words) in [
        ("/devices?found_at=x", format!("found_at: {time}")),
        ("/devices?found_at=", "found_at: a value is expected".to_owned()),
        ("/devices?status=", "status: a value is expected".to_owned()),
        ("/devices?late=true&late=false", "late: it may be given only once".to_owned()),
        ("/devices?q=a&q=b", "q: it may be given only once".to_owned()),
        (
            "/devices?silent_from=2026-11-26T14:08:22Z&silent_until=2026-11-26T14:08:22Z",
            "silent_from: a time before silent_until is expected".to_owned(),
        ),
        ("/devices?from=x", format!("from: {time}")),
        ("/devices?silent_from=x&silent_until=y", format!("silent_from: {time}")),
        ("/devices/pump-1?at=x", format!("at: {time}")),
        ("/devices/pump-1?at=now", format!("at: {time}")),
        ("/devices/pump-1?at=2026-11-26", format!("at: {time}")),
        ("/devices/pump-1?at=99999-01-01T00:00:00Z", format!("at: {time}")),
        ("/devices/pump-1?at=2026-02-30T00:00:00Z", format!("at: {time}")),
        ("/devices/pump-1?span=year", "span: day, week, month is expected".to_owned()),
        ("/devices?late=maybe", "late: true, false is expected".to_owned()),
        ("/devices?state=offline", "state: this address takes status, late, q".to_owned()),
        (
            "/devices?found_at=2026-11-26T14:08:22Z&status=online",
            "status: this address takes silent_from, found_at".to_owned(),
        ),
    ] {
        browser.open_page(&service, path);
        browser.await_text("h1", |text| text == "This address cannot be shown.");
        let said = browser.text(".failed p");
        assert!(said.starts_with(&words), "{path}: {said}");
        await_two_summaries(&browser);
        assert_eq!(browser.value(ASKED), json!(0), "{path}");
        browser.click(".failed a");
        browser.await_text("h1", |text| text == "Devices");
        browser.await_text("tbody", |text| text.starts_with("pump-1"));
    }
    for (path, name) in [("/?at=x", "at"), ("/listening?from=x", "from")] {
        browser.open_page(&service, path);
        browser.await_text(".failed", |text| text.starts_with("This address cannot be shown."));
        let expected = format!("{name}: this address takes no parameters.");
        assert_eq!(browser.text(".failed p"), expected);
        browser.click(".failed a");
        browser.await_value("document.querySelector('.failed')", &Value::Null);
        assert!(browser.url().ends_with('/'), "{}", browser.url());
    }
}

#[test]
fn what_a_view_throws_ends_only_that_view() {
    let place = place();
    let service = place.start_listening();
    heartbeat(service.broker_port(), "pump-1", b"");
    let browser = Browser::start();
    browser.open_page(&service, "/listening");
    browser.await_text("h1", |text| text == "Listening");
    // The service never answers so.
    browser.value(
        "(window.right = window.fetch, window.fetch = async (url, options) => \
          /.devices/.test(url) ? new Response('{\"items\":[{}]}') : window.right(url, options), 1)",
    );
    browser.click("nav a[href='/devices']");
    browser.await_text("h1", |text| text == "This view could not be shown.");
    await_two_summaries(&browser);
    assert_eq!(browser.text("h1"), "This view could not be shown.");
    browser.click("nav a[href='/listening']");
    browser.await_text("h1", |text| text == "Listening");
    browser.value("(window.fetch = window.right, 1)");
    browser.click("nav a[href='/devices']");
    browser.await_text("tbody", |text| text.starts_with("pump-1"));
}

/// The value of an expression with the names of a module of the page.
fn of_module(browser: &Browser, name: &str, expression: &str) -> Value {
    browser.value(&format!(
        "import(document.querySelector('script[type=module]').src.replace('app.js', '{name}'))\
         .then((module) => {expression})"
    ))
}

#[test]
fn a_duration_is_cut_to_tenths_below_ten_seconds_as_in_the_log() {
    let place = place().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = place.start();
    let browser = Browser::start();
    browser.open_page(&service, "/");
    let durations = "[0, 0.956, 1, 1.956, 4.6, 9.999, 12.9, 61.9].map((s) => module.duration(s))";
    let expected = json!(["0 s", "956 ms", "1 s", "1.9 s", "4.6 s", "9.9 s", "12 s", "1 min 1 s"]);
    assert_eq!(of_module(&browser, "format.js", durations), expected);
    let offline = "['0', '1', '1,200'].map(module.strings.fleet.all)";
    let expected = json!(["none offline", "the one that is offline", "all 1,200 offline"]);
    assert_eq!(of_module(&browser, "strings.js", offline), expected);
}

#[test]
fn what_lies_before_the_first_start_is_not_hatched_in_the_chart() {
    let place = place().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = place.start();
    let browser = Browser::start();
    browser.open_page(&service, "/");
    // Ten hours in parts of two, of which the last but one has a sample; listening since the fifth.
    let blind = |known_from: &str| {
        let fleet = json!({
            "from": "1970-01-01T00:00:00.000Z", "to": "1970-01-01T10:00:00.000Z",
            "first_listened_at": "1970-01-01T05:00:00.000Z", "known_from": known_from,
            "bucket_seconds": 7200, "buckets": [null, null, null, { "offline": 1 }, null],
            "gaps": [],
        });
        of_module(&browser, "chart.js", &format!("module.blind({fleet})"))
    };
    let [five, six, eight, ten] = [5, 6, 8, 10].map(|hours| hours * 3600);
    assert_eq!(blind("1970-01-01T05:00:00.000Z"), json!([[five, six], [eight, ten]]));
    // Too many gaps to list all of them.
    let most = json!([[five, six + 1800], [eight, ten]]);
    assert_eq!(blind("1970-01-01T06:30:00.000Z"), most);
}

#[test]
fn a_first_screen_takes_what_the_docs_say() {
    let place = place().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start_listening();
    flood(service.broker_port(), "pump", 300, 1, "");
    let browser = Browser::start();
    browser.open_page(&service, "/");
    browser.await_text(ONLINE, |text| text == "300");
    browser.await_text(".lines.changes", |text| !text.is_empty());
    browser.await_value("document.querySelector('.chart canvas') !== null", &true.into());
    // Each address once: on a busy machine some answers are asked for again.
    let sizes = browser.value(
        "[/./, /chart.js|uplot.js/, /api.v1/].map((part) => \
         [...new Map(performance.getEntriesByType('resource')\
         .concat(performance.getEntriesByType('navigation'))\
         .map(({ name, transferSize }) => [name, transferSize]))]\
         .filter(([name]) => part.test(name)).reduce((sum, [, size]) => sum + size, 0))",
    );
    println!("all, of which the chart, and the answers: {sizes}");
    let [all, answers] = [0, 2].map(|at| sizes[at].as_u64().expect("a number"));
    assert!(all <= 150_000 && answers <= 60_000, "{sizes}");
}

#[test]
fn a_search_goes_on_where_its_time_has_ended() {
    let place = place();
    let mut service = place.start_listening();
    service.signal("TERM");
    service.await_exit();
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    let fill = "WITH RECURSIVE number(n) AS (\
                    SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 999999) \
                INSERT INTO device (id, status, registered_at) \
                SELECT printf('pump-%06d', n), 'provisioning', 0 FROM number";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(database.execute(fill));
    let service = place.start_listening();
    let browser = Browser::start();
    browser.open_page(&service, "/devices?q=*99999");
    // The last of a million ids.
    browser.await_text("tbody", |text| text.contains("pump-999999"));
    let shown = browser.await_text(".shown", |text| text.contains("shown"));
    assert!(shown.starts_with("10 shown"), "{shown}");
}

#[test]
fn a_service_that_was_just_installed_has_no_past() {
    let place = place();
    let service = place.start_listening();
    let _devices = Devices::live(service.broker_port(), names(&["a", "b"]));
    let browser = Browser::start();
    browser.open_page(&service, "/listening");
    browser.await_text(".spans h2", |text| text.contains("since the first start"));
    browser.await_text("#gaps + p", |text| text == "No gap in this time.");
    browser.open_page(&service, "/");
    browser.await_text("#each", |text| text.starts_with("Each device since the first start"));
    browser.await_value("document.querySelector('.each .bar .up')?.offsetWidth > 5", &true.into());
    // The moments after the newest proof are not a gap, whatever a busy machine has missed before.
    for path in ["/listening", "/fleet"] {
        eventually("the newest proof is enough", || {
            let answer = api(&service, path);
            assert_eq!(answer["known_from"], answer["first_listened_at"], "{answer}");
            (answer["gaps"][0]["to"] != answer["to"]).then_some(())
        });
    }
    assert!(place.run(&["device", "add", "fan"]).status.success());
    browser.open_page(&service, "/devices/fan");
    browser.await_text(".spans > .quiet", |text| text.contains("othing is known about it"));
}

/// The addresses that the page has asked for and that have `text` in them.
fn asked(browser: &Browser, text: &str) -> Vec<String> {
    let names = format!(
        "performance.getEntriesByType('resource').map(({{ name }}) => name)\
         .filter((name) => name.includes('{text}'))"
    );
    serde_json::from_value(browser.value(&names)).expect("addresses")
}

#[test]
fn the_ages_of_devices_that_are_heard_do_not_grow() {
    let place = place();
    let service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, service.broker_port());
    // Nothing changes, so it asks again only for the ages.
    for path in ["/devices?limit=50", "/devices?limit=100"] {
        let before = asked(&browser, path).len();
        eventually("the list is asked for again", || {
            (asked(&browser, path).len() >= before + 3).then_some(())
        });
        browser.open_page(&service, "/devices");
    }
}

#[test]
fn the_chart_of_a_young_service_begins_with_its_first_start() {
    let place = place();
    let service = place.start_listening();
    let ids: Vec<_> = (0..51).map(|number| format!("pump-{number:02}")).collect();
    let _devices = Devices::live(service.broker_port(), ids);
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 51.0);
    let browser = Browser::start();
    browser.open_page(&service, "/");
    let fleet = eventually("the chart is asked for", || asked(&browser, "/fleet?").pop());
    let fleet: url::Url = fleet.parse().expect("a URL");
    let from = fleet.query_pairs().find(|(name, _)| name == "from").expect("a time").1;
    let first = api(&service, "/listening")["first_listened_at"].clone();
    let [from, first] = [&*from, first.as_str().expect("it listened")]
        .map(|text| text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time"));
    // It is at least ten seconds long.
    assert!(first - from < chrono::TimeDelta::seconds(10), "{from}, {first}");
    assert_eq!(asked(&browser, "/fleet?").len(), 1);
}

/// With echoes as seldom as by default, so that the moments since the last one can be seen.
#[test]
fn what_the_next_echo_may_prove_is_neither_hatched_nor_missed() {
    let place = place().with("HEARTBEAT__TIMEOUT", "3m").with("MQTT__ECHO_INTERVAL", "5s");
    let service = place.start_listening();
    heartbeat(service.broker_port(), "a", b"");
    // Most of what is drawn would be hatched otherwise.
    service.await_metric("heartbeatd_echo_latency_seconds_count", 2.0);
    let browser = Browser::start();
    let await_its_end = |bar: &str| {
        let last = format!("document.querySelector('{bar} > i:last-child')?.className");
        browser.await_value(&last, &"up".into());
    };
    browser.open_page(&service, "/listening");
    let share = browser.await_text(".spans h2", |text| text.contains('%'));
    assert!(share.starts_with("100 %"), "{share}");
    await_its_end(".big .bar");
    browser.open_page(&service, "/");
    await_its_end(".each .bar");
    browser.open_page(&service, "/devices/a");
    await_its_end(".big .bar");
}

#[test]
fn a_device_shows_the_evidence_and_its_outages() {
    let place = place();
    let service = place.start_listening();
    let devices = Devices::live(service.broker_port(), names(&["pump-1", "pump-2"]));
    let browser = Browser::start();
    browser.open_page(&service, "/devices/pump-2");
    browser.await_text(".verdict", |text| text == "online");
    devices.die(&["pump-2"]);
    browser.await_text(".verdict", |text| text == "offline");
    browser.await_text(".since", |text| text.contains("since"));
    let evidence = browser.await_text(".evidence", |text| text.contains("timeout"));
    assert!(evidence.contains("silence"), "{evidence}");
    browser.await_text(".plain tbody", |text| text.contains("still out"));
    let found_at = "document.querySelector('.plain tbody td.c-2 time').dateTime";
    let found_at = browser.value(found_at).as_str().expect("a time").to_owned();
    let bar = "document.querySelector('.big .bar .unknown') !== null";
    browser.await_value(bar, &true.into());
    drop(devices);
    let _again = Devices::live(service.broker_port(), names(&["pump-2"]));
    browser.await_text(".verdict", |text| text == "online");
    browser.await_text(".plain tbody", |text| !text.contains("still out") && text.contains(" to "));
    // An outage leads to the evidence of then.
    browser.click(".plain tbody a");
    browser.await_text(".crumbs", |text| text.contains("As of"));
    browser.await_text(".evidence", |text| text.starts_with("Offline at"));
    assert!(browser.url().ends_with(&format!("/devices/pump-2?at={found_at}")));
    assert_eq!(browser.text(".verdict"), "offline");
    // It has reported since, so what it said then is not known.
    let facts = browser.text(".facts");
    assert_eq!(facts.matches("not kept").count(), 4, "{facts}");
    browser.click(".crumbs a:last-child");
    browser.await_text(".verdict", |text| text == "online");

    browser.open_page(&service, "/devices/pump-71");
    browser.await_text("main", |text| text.contains("is not registered"));
}

/// Asks for a path with further lines of a head, and returns the head and the body.
fn ask(service: &Service, path: &str, lines: &str) -> (String, String) {
    let mut stream = TcpStream::connect(service.http_address()).expect("HTTP is served");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn the_document_answers_all_addresses_and_its_files_are_kept_by_browsers() {
    // Without a broker the service has nothing else to do.
    let place = place().with("MQTT__URL", "mqtt://127.0.0.1:1");
    let service = place.start();
    let (_, document) = ask(&service, "/", "");
    for path in ["/devices", "/devices?q=a", "/devices/pump-17", "/devices/%2e%2e", "/listening"] {
        let (head, body) = ask(&service, path, "");
        assert!(head.starts_with("http/1.1 200 ") && body == document, "{path}: {head}");
        let policy = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'";
        assert!(head.contains(&format!("content-security-policy: {policy}")), "{head}");
        assert!(head.contains("cache-control: no-cache"), "{head}");
    }
    let script = document.split('"').find(|text| text.ends_with("/app.js")).expect("a script");
    let (head, body) = ask(&service, script, "");
    assert!(head.contains("text/javascript") && head.contains("immutable"), "{head}");
    assert!(body.contains("import "), "{body}");
    let (head, small) = ask(&service, script, "Accept-Encoding: br, gzip;q=0.8\r\n");
    assert!(head.contains("content-encoding: gzip") && small.len() < body.len(), "{head}");
    let (head, _) = ask(&service, script, "Accept-Encoding: gzip;q=0\r\n");
    assert!(!head.contains("content-encoding"), "{head}");

    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
    let (head, body) =
        ask(&service, "/", &format!("If-None-Match: \"x\", {}\r\n", tag.replace("w/", "W/")));
    assert!(head.starts_with("http/1.1 304 ") && body.is_empty(), "{head}");
    for missing in ["/page/app.js", "/page/0123456789abcdef/app.js", "/index.html", "/page/"] {
        let (head, _) = ask(&service, missing, "");
        assert!(head.starts_with("http/1.1 404 "), "{missing}: {head}");
    }
}

/// The colour of what is online, and of a text that is not important.
const COLOURS: &str = "[getComputedStyle(document.querySelector('.count.online .shape')).color, \
    getComputedStyle(document.querySelector('.count .what')).color]";

#[track_caller]
fn assert_nothing_is_green(browser: &Browser) {
    let colours = browser.value(COLOURS);
    assert_eq!(colours[0], colours[1], "what is not proven is as grey as a label");
    assert_eq!(browser.value("document.documentElement.hasAttribute('data-proven')"), json!(false));
}

#[track_caller]
fn assert_green(browser: &Browser) {
    let colours = browser.value(COLOURS);
    assert_ne!(colours[0], colours[1]);
}

#[test]
fn without_the_broker_the_page_says_so_and_nothing_is_green() {
    let mut broker = Mosquitto::start();
    let place = place().with("MQTT__URL", &broker.url());
    let service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, broker.port);
    browser.await_state("listening");
    assert_green(&browser);

    broker.stop();
    browser.await_state("disconnected");
    browser.await_text(SENTENCE, |text| text.contains("unreachable"));
    assert_nothing_is_green(&browser);
    broker.go_on();
    browser.await_state("listening");
    browser.await_text(ONLINE, |text| text == "2");
    // The time without the broker is drawn as such.
    browser.open_page(&service, "/listening");
    browser.await_text(".gaps tbody", |text| !text.is_empty());
    browser.await_value("document.querySelector('.big .bar .unknown') !== null", &true.into());
}

#[test]
fn without_its_echoes_the_page_says_that_nothing_is_proven() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let acl = folder.path().join("acl");
    let all = "topic readwrite #\n";
    fs::write(&acl, all).expect("a file");
    let broker = Mosquitto::start_with(&format!("acl_file {}", acl.display()));
    let place = place().with("MQTT__URL", &broker.url());
    let service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, broker.port);
    browser.await_state("listening");

    fs::write(&acl, "topic readwrite devices/#\ntopic write heartbeatd/#\n").expect("a file");
    broker.reload();
    browser.await_state("unproven");
    browser.await_text(SENTENCE, |text| text.starts_with("Not proven since"));
    assert_nothing_is_green(&browser);
    fs::write(&acl, all).expect("a file");
    broker.reload();
    browser.await_state("listening");
}

#[test]
fn without_the_database_the_page_says_what_waits() {
    let place = place();
    let service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, service.broker_port());
    browser.await_state("listening");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // A transaction that is dropped needs it, too.
    let _entered = runtime.enter();
    let lock = runtime.block_on(lock_sqlite(&place.database_url()));
    browser.await_state("database");
    let sentence =
        browser.await_text(SENTENCE, |text| text.contains("heartbeats of 2 devices wait"));
    assert!(sentence.contains("none of them is lost"), "{sentence}");
    assert_nothing_is_green(&browser);
    // Only who writes has to wait.
    browser.await_text(".advice", |text| text.contains("shown as they were"));
    browser.open_page(&service, "/devices");
    browser.await_text("tbody", |text| text.starts_with('a'));
    browser.open_page(&service, "/");
    runtime.block_on(lock.rollback()).expect("it is released");
    browser.await_state("listening");
    assert_green(&browser);
}

#[test]
fn without_the_file_of_the_database_the_page_says_that_a_restart_is_needed() {
    let place = place();
    let service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, service.broker_port());
    let url = place.database_url();
    let (_, file) = url.split_once("://").expect("a URL");
    let file = file.split('?').next().expect("a path");
    fs::rename(file, format!("{file}.away")).expect("it is there");
    browser.await_state("database");
    let sentence = browser.await_text(SENTENCE, |text| text.contains("restart the service"));
    assert!(sentence.starts_with("The database file is gone: "), "{sentence}");
    browser.await_text(SENTENCE, |text| text.contains("will be lost"));
}

#[test]
fn a_page_that_stays_open_over_a_restart_is_dimmed_and_right_again() {
    let place = place();
    let mut service = place.start_listening();
    let browser = Browser::start();
    let _devices = browser.open_with_two_devices(&service, service.broker_port());
    // A second tab listens through the first.
    browser.new_tab();
    browser.open_page(&service, "/listening");
    browser.await_state("listening");

    service.signal("TERM");
    service.await_exit();
    browser.await_state("stale");
    browser.await_text(SENTENCE, |text| text.starts_with("This page has heard nothing for"));
    // It was told so, and did not have to find out by waiting.
    browser.await_text(".stale .detail", |text| text.starts_with("The service was stopped."));
    assert_eq!(browser.title(), "⚠ Last known: 2 of 2 online.");
    browser
        .await_value("getComputedStyle(document.querySelector('.view')).opacity < 1", &true.into());

    let mut service = place.start_listening();
    browser.await_state("listening");
    browser.close_tab();
    browser.await_state("listening");
    browser.await_text(ONLINE, |text| text == "2");
    heartbeat(service.broker_port(), "c", b"");
    browser.await_text(ONLINE, |text| text == "3");

    // A service that dies says nothing. The question after its stream is not answered.
    service.signal("KILL");
    service.await_exit();
    browser.await_text(".stale .detail", |text| text.starts_with("The service cannot be reached."));
    browser.await_text("h1", |text| text.starts_with("Last known: "));
    assert_nothing_is_green(&browser);
}

#[test]
fn all_tabs_of_a_browser_share_one_stream() {
    let place = place().with("HTTP__MAX_STREAMS", "2");
    let service = place.start_listening();
    let browser = Browser::start();
    for path in ["/", "/devices", "/listening"] {
        browser.open_page(&service, path);
        browser.await_state("listening");
        browser.new_tab();
    }
    heartbeat(service.broker_port(), "a", b"");
    browser.close_tab();
    browser.await_text(ONLINE, |text| text == "1");
    // So one of two is still free.
    http::open_stream(&service);
}

#[test]
fn the_keyboard_reaches_everything() {
    let place = place().with("HEARTBEAT__TIMEOUT", "1h");
    let service = place.start_listening();
    for id in ["pump-1", "pump-2", "pump-3"] {
        heartbeat(service.broker_port(), id, b"");
    }
    let browser = Browser::start();
    browser.open_page(&service, "/");
    browser.await_text(ONLINE, |text| text == "3");
    browser.press("gd");
    browser.await_text("tbody tr:last-child .id", |text| text == "pump-3");
    browser.press("jjjk");
    browser.await_value("document.activeElement.innerText", &"pump-2".into());
    browser.press("\u{E007}");
    browser.await_text("h1 .id", |text| text == "pump-2");
    assert!(browser.url().ends_with("/devices/pump-2"), "{}", browser.url());
    browser.press("gl");
    browser.await_text("h1", |text| text == "Listening");
    browser.press("gf");
    browser.await_text(ONLINE, |text| text == "3");
    browser.press("?");
    browser.await_value("document.querySelector('dialog').open", &true.into());
    browser.press("\u{E00C}");
    browser.await_value("document.querySelector('dialog').open", &false.into());
    browser.press("/");
    browser.await_value("document.activeElement.id", &"search".into());
    // Esc leaves the search as it is, like the list that it filters.
    browser.open_page(&service, "/devices?q=pump-2");
    browser.await_text("tbody", |text| text.starts_with("pump-2"));
    browser.press("/");
    browser.await_value("document.activeElement.id", &"search".into());
    browser.press("\u{E00C}");
    browser.await_value("document.activeElement.id", &"".into());
    assert_eq!(browser.value("document.querySelector('#search').value"), json!("pump-2"));
}

#[test]
fn axe_finds_no_serious_barrier() {
    let place = place();
    let service = place.start_listening();
    let devices = Devices::live(service.broker_port(), names(&["pump-1", "pump-2", "valve-3"]));
    let wrong = br#"{"status":"error","error":"bearing too hot"}"#;
    heartbeat(service.broker_port(), "press-4", wrong);
    service.await_metric(r#"heartbeatd_devices{status="online"}"#, 3.0);
    devices.die(&["pump-2"]);
    service.await_metric(r#"heartbeatd_devices{status="offline"}"#, 1.0);
    for light in [Light::Light, Light::Dark] {
        let browser = Browser::with(light, 1280);
        let dark = "matchMedia('(prefers-color-scheme: dark)').matches";
        let views = [
            ("/", ".each"),
            ("/devices", "tbody"),
            ("/devices/pump-2", ".evidence"),
            ("/listening", ".big .bar"),
        ];
        for (path, whole) in views {
            browser.open_page(&service, path);
            browser.await_value(dark, &(light == Light::Dark).into());
            browser
                .await_value(&format!("document.querySelector('{whole}') !== null"), &true.into());
            assert_eq!(browser.barriers(), Vec::<String>::new(), "{path}, {light:?}");
        }
    }
}

#[test]
fn a_page_without_a_token_asks_for_one_and_then_stays_where_it_was() {
    let token = "correct-horse-battery-staple";
    let place = place().with("HTTP__TOKEN", token);
    let service = place.start_listening();
    let browser = Browser::start();
    browser.open_page(&service, "/listening");
    browser.await_text("h1", |text| text == "A token is needed");
    browser.click("#token");
    browser.press("wrong\u{E007}");
    browser.await_text("#login-trouble", |text| !text.is_empty());
    browser.click("#token");
    browser.press("\u{E003}\u{E003}\u{E003}\u{E003}\u{E003}");
    browser.press(&format!("{token}\u{E007}"));
    browser.await_text("h1", |text| text == "Listening");
    browser.await_state("listening");
    assert!(browser.url().ends_with("/listening"), "{}", browser.url());
    let cookies = browser.value("document.cookie");
    assert_eq!(cookies, json!(""), "no script can read the cookie");
}

/// Logs in with a token, from a page that can be read without one.
fn log_in(browser: &Browser, token: &str) {
    browser.await_value("document.querySelector('[data-login]') !== null", &true.into());
    browser.click("[data-login]");
    browser.click("#token");
    browser.press(&format!("{token}\u{E007}"));
}

#[test]
fn whoever_may_changes_a_device_and_removes_it_on_its_page() {
    let token = "correct-horse-battery-staple";
    let place = place().with("HTTP__TOKEN", token).with("HTTP__PUBLIC", "true");
    let service = place.start_listening();
    heartbeat(service.broker_port(), "pump-1", b"");
    let browser = Browser::start();
    let exists = |selector: &str| format!("document.querySelector('{selector}') !== null");
    browser.open_page(&service, "/devices/pump-1");
    browser.await_value(&exists(".verdict"), &true.into());
    assert_eq!(browser.value(&exists(".change")), json!(false), "nobody is logged in");
    log_in(&browser, token);
    browser.await_value(&exists(".change"), &true.into());

    let trouble = "document.querySelector('#change-trouble').hidden";
    assert_eq!(browser.value(trouble), json!(true));
    browser.click("#timeout");
    browser.press("400000000\u{E007}");
    browser.await_text("#change-trouble", |text| text.contains("from 1 to 315360000"));
    assert_eq!(api(&service, "/devices/pump-1")["timeout_seconds"], Value::Null);
    browser.press(&"\u{E003}".repeat(9));
    browser.press("300\u{E007}");
    browser.await_text(".change [role=status]", |text| text == "It is set.");
    browser.await_text(".facts", |text| text.contains("5 min") && text.contains("its own"));
    assert_eq!(browser.value(trouble), json!(true));
    assert_eq!(api(&service, "/devices/pump-1")["timeout_seconds"], 300);

    // What is typed afterwards is not set, nor is what is no number of seconds.
    for odd in [".5", " min"] {
        browser.press(odd);
        browser.await_text(".change [role=status]", str::is_empty);
        browser.press("\u{E007}");
        browser.await_text("#change-trouble", |text| text.starts_with("A whole number of seconds"));
        browser.press(&"\u{E003}".repeat(odd.len()));
    }
    assert_eq!(api(&service, "/devices/pump-1")["timeout_seconds"], 300);

    // Tab leads from the field over its button to the removal, which asks first.
    let focused = "document.activeElement.innerText";
    let open = "document.querySelector('.change dialog').open";
    browser.press("\u{E004}\u{E004}");
    browser.await_value(focused, &"Remove…".into());
    browser.press("\u{E007}");
    browser.await_value(open, &true.into());
    browser.await_value(focused, &"Keep it".into());
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.press("\u{E00C}");
    browser.await_value(open, &false.into());
    browser.await_value(focused, &"Remove…".into());
    assert_eq!(api(&service, "/devices/pump-1")["id"], "pump-1", "it is kept");
    browser.press("\u{E007}");
    browser.await_value(focused, &"Keep it".into());
    browser.press("\u{E004}\u{E007}");
    browser.await_text("main", |text| text.contains("It is still sending"));
    browser.open_page(&service, "/devices/pump-1");
    browser.await_text("main", |text| text.contains("is not registered"));
}
