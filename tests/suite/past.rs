//! The past that the API shows: windows and their bounds, and a device as of an instant.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::database::TestDatabase;
use crate::support::http::{Answer, get};
use crate::support::service::{Place, Service};
use heartbeatd::clock::system_clock;

/// A service without a broker, whose database has this past.
fn start(place: Place, past: &str) -> (Place, Service) {
    let place = place.with("MQTT__URL", "mqtt://127.0.0.1:1");
    assert!(place.run(&["device", "add", "pump"]).status.success());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    runtime.block_on(database.execute(past));
    let service = place.start();
    (place, service)
}

fn now() -> DateTime<Utc> {
    system_clock().wall
}

/// A time as the API spells it.
fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[track_caller]
fn assert_refused(answer: &Answer, name: &str, words: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid-parameter"), "{name}");
    let errors = &answer.json()["errors"];
    assert_eq!(errors[0]["pointer"], format!("/query/{name}"), "{answer:?}");
    assert!(answer.body.contains(words), "no {words}: {answer:?}");
}

#[test]
fn a_window_that_makes_no_sense_is_refused_with_what_would() {
    let (_place, service) = start(Place::new(), "");
    for path in ["/fleet", "/listening", "/devices/pump/timeline"] {
        for (query, name, words) in [
            ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "from", "before `to`"),
            ("from=2026-01-03T00:00:00Z&to=2026-01-02T00:00:00Z", "from", "before `to`"),
            ("from=2999-01-01T00:00:00Z", "from", "before now"),
            ("to=2999-01-01T00:00:00Z", "to", "nothing is known about the future; it is 20"),
            ("to=1969-12-31T23:59:59Z", "to", "in 1970 or later"),
            ("from=0001-01-01T00:00:00Z", "from", "in 1970 or later"),
            ("from=2020-01-01T00:00:00Z", "from", "at most 90 days is expected"),
        ] {
            let answer = get(&service, &format!("/api/v1{path}?{query}"));
            assert_refused(&answer, name, words);
        }
        let (longest, ahead) = (now() - TimeDelta::days(90), now() + TimeDelta::hours(1));
        for query in [
            format!("from={}&to={}", text(longest), text(now() - TimeDelta::seconds(1))),
            // The clock of a client may be ahead.
            format!("to={}", text(ahead)),
            "from=1970-01-01T00:00:00Z&to=1970-01-02T00:00:00Z".to_owned(),
        ] {
            get(&service, &format!("/api/v1{path}?{query}")).ok();
        }
    }
    for path in ["/transitions", "/outages"] {
        let query = "from=2026-01-02T00:00:00Z&until=2026-01-02T00:00:00Z";
        let answer = get(&service, &format!("/api/v1{path}?{query}"));
        assert_refused(&answer, "from", "before `until`");
        // A list has no length.
        let query = "from=0001-01-01T00:00:00Z&until=9999-01-01T00:00:00Z";
        get(&service, &format!("/api/v1{path}?{query}")).ok();
    }
    let query = "silent_from=2026-01-03T00:00:00Z&silent_until=2026-01-02T00:00:00Z";
    let answer = get(&service, &format!("/api/v1/outages?{query}"));
    assert_refused(&answer, "silent_from", "before `silent_until`");
}

#[test]
fn a_device_that_was_removed_is_named_as_such_with_the_place_of_its_history() {
    let now = now();
    let (place, service) = start(Place::new(), &fallen_and_returned(now));
    let then = text(now - TimeDelta::minutes(60));
    let show = |id: &str, at: &str| get(&service, &format!("/api/v1/devices/{id}{at}"));
    let database = TestDatabase::at(&place.path().join("heartbeatd.db"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    assert!(place.run(&["device", "add", "pumq"]).status.success());
    assert!(place.run(&["device", "remove", "pump"]).status.success());
    for at in ["", &format!("?at={then}")] {
        for forgotten in [false, true] {
            if forgotten {
                // As after a day.
                runtime.block_on(database.execute("DELETE FROM device_removal"));
            }
            let gone = show("pump", at);
            assert_eq!((gone.status, gone.problem().as_str()), (404, "unknown-device"));
            let said = gone.json()["detail"].as_str().expect("words").to_owned();
            assert!(said.contains("is not registered any more: it was removed at 20"), "{said}");
            let (_, link) = said.split_once(" is at ").expect(&said);
            let kept = get(&service, link).ok();
            assert_eq!(kept["items"].as_array().map(Vec::len), Some(3), "{kept}");
        }
    }
    let never = show("pum", &format!("?at={then}"));
    assert!(never.body.contains("did you mean"), "{never:?}");

    assert!(place.run(&["device", "add", "pump"]).status.success());
    show("pump", "").ok();
    let before = show("pump", &format!("?at={then}"));
    assert_eq!(before.status, 404);
    assert!(before.body.contains("and is registered again since 20"), "{before:?}");
    let early = show("pumq", &format!("?at={then}"));
    assert!(early.body.contains("was not registered then; it is since 20"), "{early:?}");
}

#[test]
fn a_month_may_be_asked_for_even_if_less_is_kept() {
    let (_place, service) = start(Place::new().with("HISTORY__RETENTION", "1d"), "");
    let window = |days| {
        let from = text(now() - TimeDelta::days(days));
        get(&service, &format!("/api/v1/devices/pump/timeline?from={from}"))
    };
    window(30).ok();
    assert_refused(&window(32), "from", "at most 31 days is expected");
}

#[test]
fn of_too_many_intervals_the_newest_are_read_and_the_answer_says_from_when() {
    let begin = now() - TimeDelta::days(24);
    let millis = begin.timestamp_millis();
    // More than 20,000 times a minute of listening, with 40 s between them.
    let (_place, service) = start(
        Place::new(),
        &format!(
            "WITH RECURSIVE number(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM number \
               WHERE n < 20009) \
             INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
             SELECT 1000, {millis} + n * 100000, {millis} + n * 100000 + 60000, 'no_echo' \
             FROM number; {STAY}\
             UPDATE device SET status = 'online', registered_at = {millis}, \
               last_seen_at = {millis} + 20009 * 100000 + 60000;"
        ),
    );
    let from = text(now() - TimeDelta::days(30));
    let known_from = text(begin + TimeDelta::seconds(10 * 100));
    let listening = get(&service, &format!("/api/v1/listening?from={from}")).ok();
    assert_eq!(listening["from"], from);
    assert_eq!(listening["known_from"], known_from);
    assert_eq!(listening["listed_from"], text(begin + TimeDelta::seconds((20_010 - 1000) * 100)));
    assert_eq!(listening["listened_seconds"], json!(20_000.0 * 60.0));
    let length = |name: &str| listening[name].as_array().expect("a list").len();
    assert_eq!((length("intervals"), length("gaps")), (1000, 1000));
    assert_eq!(listening["more"], 19_000);

    let timeline = format!("/api/v1/devices/pump/timeline?from={from}&buckets=1");
    let timeline = get(&service, &timeline).ok();
    assert_eq!(timeline["known_from"], known_from);
    assert_eq!(timeline["buckets"][0]["up_ms"], 20_000 * 60_000);
    // A shorter window is known as a whole.
    let to = text(begin + TimeDelta::seconds(50 * 100));
    let listening = get(&service, &format!("/api/v1/listening?from={from}&to={to}")).ok();
    let begin = json!(text(begin));
    assert_eq!((&listening["known_from"], &listening["listed_from"]), (&begin, &begin));
    assert_eq!((&listening["from"], &listening["first_listened_at"]), (&json!(from), &begin));
    assert_eq!(listening["listened_seconds"], json!(50.0 * 60.0));
}

/// The earlier stay to which the intervals belong.
const STAY: &str = "INSERT INTO listener (id, instance, incarnation, joined_at, left_at, left_how) \
    VALUES (1000, 'heartbeatd', 1, 0, 1, 'left'); ";

/// A device that was offline for ten minutes an hour ago, after a gap of two minutes, and was
/// heard a minute ago.
fn fallen_and_returned(now: DateTime<Utc>) -> String {
    let minutes_ago = |minutes: i64| (now - TimeDelta::minutes(minutes)).timestamp_millis();
    let [registered, heard, silent, lost, again, found, returned, last] =
        [120, 110, 70, 69, 67, 60, 50, 1].map(minutes_ago);
    format!(
        "UPDATE device SET status = 'error', registered_at = {registered}, last_seen_at = {last}, \
           uptime_seconds = 7, error = 'hot', timeout_seconds = 240; \
         INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) VALUES \
           (1000, {registered}, {lost}, NULL), \
           (1000, {again}, {last}, 'disconnected'); {STAY}\
         INSERT INTO status_transition (device_id, from_status, to_status, at, last_seen_at, \
           timeout_ms, listened_ms, instance, ended_at, delivered_at) VALUES \
           ('pump', 'provisioning', 'online', {heard}, {heard}, NULL, NULL, NULL, NULL, 0), \
           ('pump', 'online', 'offline', {found}, {silent}, 240000, 480000, 'heartbeatd', \
             {returned}, 0), \
           ('pump', 'offline', 'error', {returned}, {returned}, NULL, NULL, NULL, NULL, 0);"
    )
}

#[test]
fn a_device_is_shown_as_of_an_instant_with_the_evidence_of_then() {
    let now = now();
    let (_place, service) = start(Place::new(), &fallen_and_returned(now));
    let minutes_ago = |minutes: i64| text(now - TimeDelta::minutes(minutes));
    let show = |at: &str| get(&service, &format!("/api/v1/devices/pump?at={at}"));
    let ago = |minutes: i64| show(&minutes_ago(minutes)).ok();

    // The times of an outage are usable as they stand.
    let outages = get(&service, "/api/v1/outages?device=pump").ok();
    let found_at = outages["items"][0]["found_at"].as_str().expect("a time");
    let fallen = show(found_at).ok();
    assert_eq!((&fallen["status"], &fallen["at"]), (&json!("offline"), &json!(minutes_ago(60))));
    assert_eq!(fallen["last_seen_at"], minutes_ago(70));
    assert_eq!(fallen["outage"]["ended_at"], minutes_ago(50));
    assert_eq!(fallen["evidence"]["listened_seconds"], 480.0);
    let gap = json!({
        "from": minutes_ago(69), "to": minutes_ago(67), "cause": "disconnected", "instances": [],
    });
    assert_eq!(fallen["evidence"]["gaps"], json!([gap]));
    let sentence = fallen["sentence"].as_str().expect("words");
    assert!(sentence.starts_with("offline at 20"), "{sentence}");
    assert!(sentence.contains("8 min of its 10 min of silence"), "{sentence}");
    // What it reports now is not what it reported then.
    assert_eq!((&fallen["uptime_seconds"], &fallen["error"]), (&Value::Null, &Value::Null));
    assert_eq!(fallen["report_kept"], false);

    // While it was silent and not found yet.
    let silent = ago(66);
    assert_eq!((&silent["status"], &silent["late"]), (&json!("online"), &json!(false)));
    assert_eq!(silent["evidence"]["listened_seconds"], 120.0);
    assert_eq!(
        (&silent["outage"], &silent["last_seen_at"]),
        (&Value::Null, &json!(minutes_ago(70)))
    );
    let sentence = silent["sentence"].as_str().expect("words");
    assert!(sentence.ends_with("not more than its timeout of 4 min"), "{sentence}");
    assert_eq!(ago(64)["late"], true);
    let sentence = ago(61)["sentence"].as_str().expect("words").to_owned();
    assert!(sentence.ends_with("the next check took it offline"), "{sentence}");

    // Heartbeats are not kept, only the last one.
    for minutes in [100, 50, 30] {
        let then = ago(minutes);
        assert_eq!((&then["last_seen_at"], &then["late"]), (&Value::Null, &Value::Null), "{then}");
        assert_eq!((&then["evidence"], &then["report_kept"]), (&Value::Null, &json!(false)));
        let sentence = then["sentence"].as_str().expect("words");
        assert!(sentence.ends_with("last heartbeat until then is not kept"), "{sentence}");
    }
    let new = ago(115);
    assert_eq!((&new["status"], &new["sequence"]), (&json!("provisioning"), &Value::Null));
    assert!(new["sentence"].as_str().is_some_and(|s| s.ends_with("never heard until then")));
    let recent = show(&text(now)).ok();
    assert_eq!((&recent["status"], &recent["error"]), (&json!("error"), &json!("hot")));
    assert_eq!((&recent["report_kept"], &new["report_kept"]), (&json!(true), &json!(true)));
    assert_eq!(recent["evidence"]["silent_seconds"], 60.0);
    assert_eq!(get(&service, "/api/v1/devices/pump").ok()["at"], Value::Null);

    // Before the first start there was nothing to know, and nothing to miss.
    for path in ["/listening", "/fleet", "/devices/pump/timeline"] {
        let answer = get(&service, &format!("/api/v1{path}")).ok();
        let known_from = (&answer["known_from"], &answer["first_listened_at"]);
        assert_eq!(known_from, (&json!(minutes_ago(120)), &json!(minutes_ago(120))), "{path}");
        if let Some(gaps) = answer["gaps"].as_array() {
            let oldest = gaps.last().map(|gap| &gap["from"]);
            assert_eq!(oldest, Some(&json!(minutes_ago(69))), "{answer}");
            // Nothing is connected, so no echo is awaited.
            assert_eq!(gaps[0]["to"], answer["to"], "{answer}");
        }
    }

    let early = show(&minutes_ago(121));
    assert_eq!((early.status, early.problem().as_str()), (404, "unknown-device"));
    assert!(early.body.contains("was not registered then"), "{early:?}");
    for (at, words) in [
        ("2999-01-01T00:00:00Z", "a time that has passed"),
        ("1969-12-31T23:59:59Z", "in 1970 or later"),
        ("2020-01-01T00:00:00Z", "within the last 90 days"),
        ("yesterday", "a time such as"),
    ] {
        assert_refused(&show(at), "at", words);
    }
}
