//! Services on one database that are configured differently. One that listens to something else than
//! another one takes no part, so that no live device goes offline because of it.

use std::time::Duration;

use chrono::TimeDelta;
use heartbeatd::clock::system_clock;
use heartbeatd::store::StoreError;
use publishers::Devices;
use serde_json::Value;
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};

use crate::interleavings::member;
use crate::support::database::TestDatabase;
use crate::support::http;
use crate::support::service::{Place, Service};
use crate::support::waiting::let_pass;

const DEVICES: &str = "devices/+/heartbeat";
const HALLS: &str = "halls/+/heartbeat";

/// The silence after which a device is offline, and an instance that has left counts as gone.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The same where an instance has to be back within it, on a busy machine.
const LONG: Duration = Duration::from_secs(10);

const BARRED: &str = "WARN standby instance=hall-a";
const STANDING_BY: &str = "INFO standby active=";
const CHECKED: &str = "heartbeatd_check_duration_seconds_count";
const ECHOED: &str = "heartbeatd_echo_latency_seconds_count";

const LIVE: [&str; 3] = ["pump-1", "pump-2", "pump-3"];
const ALL_ONLINE: [&str; 3] = ["pump-1 online", "pump-2 online", "pump-3 online"];

/// A broker and a database.
struct Scene {
    broker: Mosquitto,
    database: TestDatabase,
}

impl Scene {
    fn new() -> Self {
        Self { broker: Mosquitto::start(), database: TestDatabase::postgres() }
    }

    fn place(&self, name: &str, topic: &str) -> Place {
        Place::new()
            .with("MQTT__URL", &self.broker.url())
            .with("MQTT__CLIENT_ID", name)
            .with("MQTT__TOPIC", topic)
            .with("DATABASE__URL", &self.database.url)
    }

    fn live(&self) -> Devices {
        Devices::live(self.broker.port, LIVE.map(str::to_owned))
    }
}

fn in_group(place: Place, group: Option<&str>) -> Place {
    match group {
        Some(group) => place.with("MQTT__SHARE_GROUP", group).with("MQTT__SETTLE", "0s"),
        None => place,
    }
}

/// Starts an instance and waits until it proves what it hears.
fn start(place: &Place) -> Service {
    let service = place.start();
    service.await_listening();
    await_more(&service, ECHOED, 4.0);
    service
}

/// Waits for so many more of what is counted.
fn await_more(service: &Service, counter: &str, more: f64) {
    service.await_metric(counter, service.metric(counter) + more);
}

fn await_taking_part(service: &Service) {
    eventually("it takes part", || (service.metric("heartbeatd_barred") == 0.0).then_some(()));
}

fn summary(service: &Service) -> Value {
    http::send(service, "GET", "/api/v1/summary", &[], None).ok()
}

/// Waits until an instance says that it takes no part because of a key, and asserts that it says so
/// everywhere. Returns the line.
fn assert_barred(service: &Service, key: &str, values: [&str; 2]) -> String {
    let [here, there] = values;
    let words = [format!("its {key} is {here}, that of \"hall-a\""), format!("is {there}, and")];
    let line = service.await_words(BARRED, &words.each_ref().map(String::as_str));
    service.await_metric("heartbeatd_barred", 1.0);
    assert_eq!(service.metric("heartbeatd_active"), 0.0);
    let (code, body) = service.get("/readyz");
    assert!(code == 503 && body.contains(key), "{code} {body}");
    let summary = summary(service);
    assert_eq!(summary["state"], "barred", "{summary:#}");
    assert!(summary["detail"].as_str().expect("it has a reason").contains(key), "{summary:#}");
    line
}

/// The instances that have not left, as `instance state`.
fn listeners(place: &Place) -> Vec<String> {
    let listed = place.json(&["group", "list", "--json"]);
    let listed = listed.as_array().expect("an array").iter();
    let text = |listener: &Value, key: &str| listener[key].as_str().unwrap_or("?").to_owned();
    listed.map(|l| format!("{} {}", text(l, "instance"), text(l, "state"))).collect()
}

fn went_offline(place: &Place) -> Vec<String> {
    let history = place.json(&["history", "--json"]);
    let changes = history.as_array().expect("an array").iter();
    let offline = changes.filter(|change| change["to"] == "offline");
    offline.map(|change| change["device_id"].as_str().expect("text").to_owned()).collect()
}

/// The same for members of a group and for instances without one.
fn an_instance_with_another_topic_takes_no_device_offline(
    first_group: Option<&str>,
    second_group: Option<&str>,
) {
    let scene = Scene::new();
    let patient = |place: Place| place.with("HEARTBEAT__TIMEOUT", &format!("{}s", LONG.as_secs()));
    let place = patient(in_group(scene.place("hall-a", DEVICES), first_group));
    let mut first = start(&place);
    let devices = scene.live();
    place.await_statuses(&ALL_ONLINE);
    let second = patient(in_group(scene.place("hall-b", HALLS), second_group)).start();
    eventually("it takes part or it does not", || {
        let takes_part = listeners(&place).len() > 1;
        (takes_part || second.metric("heartbeatd_barred") > 0.0).then_some(())
    });

    first.signal("KILL");
    first.await_exit();
    let_pass(LONG + TIMEOUT);
    assert_eq!(went_offline(&place), Vec::<String>::new(), "{}", second.log().join("\n"));
    let topics = ["\"halls/+/heartbeat\"", "\"devices/+/heartbeat\""];
    let line = assert_barred(&second, "mqtt.topic", topics);
    assert!(line.contains("heartbeatd group remove"), "{line}");
    let mut first = start(&place);
    first.await_metric("heartbeatd_active", 1.0);
    assert_barred(&second, "mqtt.topic", topics);

    first.signal("TERM");
    assert_eq!(first.await_exit(), Some(0), "{}", first.log().join("\n"));
    let first = start(&place);
    first.await_metric("heartbeatd_active", 1.0);
    assert_barred(&second, "mqtt.topic", topics);
    await_more(&first, CHECKED, 1.2 * LONG.as_secs_f64() / 0.5);
    assert_eq!(went_offline(&place), Vec::<String>::new(), "{}", first.log().join("\n"));
    devices.die(&LIVE[..1]);
    place.await_statuses(&["pump-1 offline", "pump-2 online", "pump-3 online"]);
    let said = second.events(BARRED).into_iter();
    let said: Vec<_> = said.filter(|line| !line.contains(" seconds=")).collect();
    assert_eq!(said.len(), 1, "once, besides the reminders: {said:?}");
}

#[test]
fn an_instance_with_another_topic_than_the_active_one_takes_no_device_offline() {
    an_instance_with_another_topic_takes_no_device_offline(None, None);
}

#[test]
fn a_member_with_another_topic_than_its_group_takes_no_device_offline() {
    an_instance_with_another_topic_takes_no_device_offline(Some("fleet"), Some("fleet"));
}

#[test]
fn a_member_with_another_topic_than_an_instance_without_a_group_takes_no_device_offline() {
    an_instance_with_another_topic_takes_no_device_offline(None, Some("fleet"));
}

/// The embedded broker has devices of its own. Of two such instances the one that is there is right,
/// also if it was killed and comes back.
#[test]
fn an_instance_with_the_embedded_broker_and_one_with_another_never_take_each_others_place() {
    let scene = Scene::new();
    let external = scene.place("hall-a", DEVICES);
    let embedded =
        Place::new().with("MQTT__CLIENT_ID", "hall-b").with("DATABASE__URL", &scene.database.url);
    let mut first = start(&external);
    await_taking_part(&first);
    first.signal("KILL");
    first.await_exit();
    let mut second = embedded.start();
    assert_eq!(second.await_exit(), Some(69), "{:?}", second.log());
    second
        .await_words("ERROR heartbeatd", &["mqtt.url", "the embedded broker", &scene.broker.url()]);
    let id = external.json(&["group", "list", "--json"])[0]["id"].to_string();
    assert!(external.run(&["group", "remove", &id]).status.success());

    let second = embedded.start_listening();
    let first = external.start();
    first.await_words("WARN standby instance=hall-b", &["mqtt.url", "the embedded broker"]);
    first.await_metric("heartbeatd_barred", 1.0);
    drop(second);
}

#[test]
fn an_instance_that_knows_of_fewer_nodes_takes_no_part() {
    let scene = Scene::new();
    let other_node = Mosquitto::start();
    let entries = format!("{}, {}", scene.broker.url(), other_node.url());
    let place = scene.place("hall-a", DEVICES).with("MQTT__ENTRY_URLS", &entries);
    let first = place.start();
    first.await_metric("heartbeatd_active", 1.0);
    let second = scene.place("hall-b", DEVICES).start();
    let mut nodes = [scene.broker.url(), other_node.url()];
    nodes.sort();
    let nodes = format!("[{:?}, {:?}]", nodes[0], nodes[1]);
    assert_barred(&second, "mqtt.entry_urls", ["[]", &nodes]);
}

/// The first one that is started with the new topic waits until those with the old one have ended,
/// and until they would have been back.
fn a_change_of_the_topic_goes_round(group: Option<&str>) {
    let scene = Scene::new();
    let places = |topic| ["hall-a", "hall-b"].map(|name| in_group(scene.place(name, topic), group));
    let mut services = places(HALLS).each_ref().map(start);
    let devices = scene.live();
    let places = places(DEVICES);
    services[0].signal("TERM");
    services[0].await_exit();
    services[0] = places[0].start();
    let words = ["that of \"hall-b\"", "to change it for all, stop those"];
    services[0].await_words("WARN standby instance=hall-b", &words);
    services[1].signal("TERM");
    services[1].await_exit();
    services[1] = places[1].start();
    services.iter().for_each(await_taking_part);
    for service in &services {
        service.await_listening();
        await_more(service, ECHOED, 4.0);
    }
    places[0].await_statuses(&ALL_ONLINE);
    assert_eq!(listeners(&places[0]).len(), 2);
    let active = services.iter().find(|service| service.metric("heartbeatd_active") > 0.0);
    let active = active.expect("one is active");
    await_more(active, CHECKED, 1.5 * TIMEOUT.as_secs_f64() / 0.5);
    assert_eq!(went_offline(&places[0]), Vec::<String>::new(), "{}", active.log().join("\n"));
    devices.die(&LIVE[..1]);
    places[0].await_statuses(&["pump-1 offline", "pump-2 online", "pump-3 online"]);
}

#[test]
fn the_topic_of_a_pair_is_changed_one_after_the_other() {
    a_change_of_the_topic_goes_round(None);
}

#[test]
fn the_topic_of_a_group_is_changed_one_after_the_other() {
    a_change_of_the_topic_goes_round(Some("fleet"));
}

/// Both have lost their power, so that neither has left.
#[test]
fn a_group_whose_members_were_killed_is_started_with_another_topic() {
    let scene = Scene::new();
    let places =
        |topic| ["hall-a", "hall-b"].map(|name| in_group(scene.place(name, topic), Some("fleet")));
    let mut services = places(HALLS).each_ref().map(start);
    for service in &mut services {
        service.signal("KILL");
        service.await_exit();
    }
    let _devices = scene.live();
    let places = places(DEVICES);
    let services = places.each_ref().map(Place::start);
    places[0].await_statuses(&ALL_ONLINE);
    services.iter().for_each(await_taking_part);
}

#[test]
fn whoever_was_removed_keeps_nobody_out() {
    let scene = Scene::new();
    let place = scene.place("hall-a", DEVICES);
    let mut first = start(&place);
    first.signal("KILL");
    first.await_exit();
    let second = scene.place("hall-b", HALLS).start();
    let line = second.await_event(BARRED);
    let (_, rest) = line.split_once("heartbeatd group remove ").expect(&line);
    let id = rest.split_whitespace().next().expect("a number");
    assert_eq!(listeners(&place), ["hall-a active"]);
    let removed = place.run(&["group", "remove", id]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    second.await_metric("heartbeatd_active", 1.0);
    await_taking_part(&second);
    let shown = place.run(&["group", "list"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("TOPIC") && shown.contains(HALLS), "{shown}");
}

/// It may be back in a moment.
#[actix_rt::test]
async fn whoever_left_less_than_the_timeout_ago_keeps_others_out_unless_it_was_removed() {
    let database = TestDatabase::postgres();
    let store = database.open().await.standing_by();
    for (seconds, how, keeps_out) in
        [(5, "left", true), (25, "left", true), (35, "left", false), (5, "removed", false)]
    {
        database.execute("DELETE FROM listener").await;
        let first = store.join(&member("hall-a", DEVICES, None)).await.expect("it is alone");
        let at = system_clock().wall - TimeDelta::seconds(seconds);
        assert!(store.leave(first, how, at).await.expect("it writes"));
        let joined = store.join(&member("hall-b", HALLS, None)).await;
        let is_kept_out = matches!(&joined, Err(StoreError::Clash(clash)) if clash.left.is_some());
        assert_eq!(is_kept_out, keeps_out, "{how} {seconds} s ago: {joined:?}");
        assert_eq!(joined.is_ok(), !keeps_out, "{how} {seconds} s ago: {joined:?}");
    }
}

/// It does not say to what it listens.
#[actix_rt::test]
async fn an_instance_of_an_earlier_version_keeps_nobody_out() {
    let scene = Scene::new();
    let _first = start(&scene.place("hall-a", DEVICES));
    scene.database.execute("UPDATE listener SET topic = NULL").await;
    let second = scene.place("hall-b", HALLS).start();
    second.await_event(STANDING_BY);
    assert_eq!(second.metric("heartbeatd_barred"), 0.0);
}

#[test]
fn a_difference_that_makes_no_proof_untrue_is_told_once() {
    let scene = Scene::new();
    let _first = start(&scene.place("hall-a", DEVICES));
    let second = scene.place("hall-b", DEVICES).with("HEARTBEAT__TIMEOUT", "5s").start();
    let third = scene.place("hall-c", DEVICES);
    let words = ["heartbeat.timeout is 5s here and 3s there"];
    let line = second.await_words(BARRED, &words);
    assert!(!line.contains("check_interval") && !line.contains("mqtt."), "{line}");
    second.await_event(STANDING_BY);
    await_more(&second, ECHOED, 8.0);
    assert_eq!(second.events(BARRED).len(), 1);
    // Of each other one, and not of each of its stays.
    for _ in 0..2 {
        let third = third.start();
        third.await_event(STANDING_BY);
        await_more(&second, ECHOED, 8.0);
    }
    assert_eq!(second.events("WARN standby instance=hall-c").len(), 1);
}

/// A device that has gone over to the new topic earlier was not silent while the service still
/// listened to the old one.
#[test]
fn what_was_listened_to_before_the_topic_was_changed_is_no_silence() {
    let broker = Mosquitto::start();
    let timeout = format!("{}s", LONG.as_secs());
    let place = Place::new().with("MQTT__URL", &broker.url()).with("HEARTBEAT__TIMEOUT", &timeout);
    let mut service = start(&place);
    heartbeat(broker.port, "pump-1", b"");
    place.await_statuses(&["pump-1 online"]);
    // Most of the timeout, so that it would be over long before the whole of it has passed again.
    await_more(&service, ECHOED, 0.7 * LONG.as_secs_f64() / 0.2);
    service.signal("TERM");
    assert_eq!(service.await_exit(), Some(0));
    let place = place.with("MQTT__TOPIC", HALLS);
    let changed_at = system_clock().wall;
    let service = place.start();
    place.await_statuses(&["pump-1 offline"]);
    let history = place.json(&["history", "--json"]);
    let mut changes = history.as_array().expect("an array").iter();
    let offline = changes.find(|change| change["to"] == "offline").expect("it is one");
    let at: chrono::DateTime<chrono::Utc> =
        offline["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    let took = at - changed_at;
    let log = service.log().join("\n");
    assert!(took.to_std().is_ok_and(|took| took > LONG), "after {took} in\n{log}");
}
