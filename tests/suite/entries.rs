//! A service on a broker of two nodes, which are two mosquittos joined by a bridge. It is subscribed
//! at the first one. Devices connect to either, and the nodes lose each other or one ends.

use std::time::Instant;

use publishers::Devices;
use servers::mosquitto::Mosquitto;
use servers::{eventually, log::is_event};

use crate::pair::blind_for_no_busy_machine;
use crate::support::database::TestDatabase;
use crate::support::events::{ENTRY_BACK, ENTRY_LEFT_OUT, ENTRY_MISSING};
use crate::support::proxy::Proxy;
use crate::support::service::{Place, Service};

/// The devices at the second node.
const FAR: [&str; 3] = ["far-1", "far-2", "far-3"];

/// The timeout in seconds, and the echoes in it.
const TIMEOUT: f64 = 3.0;
const ECHOES: f64 = TIMEOUT / 0.2;

const ANSWERING: &str = r#"heartbeatd_entries{state="answering"}"#;
const MISSING: &str = r#"heartbeatd_entries{state="missing"}"#;
const GONE: &str = r#"heartbeatd_entries{state="gone"}"#;
const ECHOED: &str = "heartbeatd_echo_latency_seconds_count";
const CHECKED: &str = "heartbeatd_check_duration_seconds_count";

struct Cluster {
    near: Mosquitto,
    far: Mosquitto,
    /// The way between them.
    link: Proxy,
}

impl Cluster {
    /// Each node passes everything on to the other, at QoS 0: what is published while they are cut
    /// off from each other is lost.
    fn start() -> Self {
        let near = Mosquitto::start();
        let link = Proxy::to(near.port);
        let far = Mosquitto::start_with(&format!(
            "connection near\naddress 127.0.0.1:{}\ntopic # both 0\nbridge_attempt_unsubscribe \
             false\nnotifications false\ncleansession true\nkeepalive_interval 5\n\
             restart_timeout 1",
            link.port
        ));
        Self { near, far, link }
    }

    /// A place for a service that is subscribed at the near node.
    fn place(&self) -> Place {
        Place::new().with("MQTT__URL", &self.near.url())
    }

    /// The same, which knows of both nodes.
    fn place_with_entries(&self) -> Place {
        let entries = format!("{}, {}", self.near.url(), self.far.url());
        self.place().with("MQTT__ENTRY_URLS", &entries)
    }
}

fn await_online(place: &Place, ids: &[&str]) {
    let expected: Vec<_> = ids.iter().map(|id| format!("{id} online")).collect();
    place.await_statuses(&expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Waits for so many more of what is counted.
fn await_more(service: &Service, counter: &str, more: f64) {
    service.await_metric(counter, service.metric(counter) + more);
}

/// The ids that went offline, oldest first.
fn went_offline(place: &Place) -> Vec<String> {
    let history = place.json(&["history", "--json"]);
    let changes = history.as_array().expect("an array").iter();
    let offline = changes.filter(|change| change["to"] == "offline");
    offline.map(|change| change["device_id"].as_str().expect("text").to_owned()).collect()
}

fn live(port: u16, ids: &[&str]) -> Devices {
    Devices::live(port, ids.iter().map(|id| (*id).to_owned()))
}

#[test]
fn nobody_goes_offline_while_the_nodes_are_cut_off_from_each_other() {
    let cluster = Cluster::start();
    let place = cluster.place_with_entries();
    let service = place.start();
    service.await_metric(ANSWERING, 1.0);
    let devices = live(cluster.far.port, &FAR);
    await_online(&place, &FAR);

    cluster.link.refuse();
    let line = service.await_event(ENTRY_MISSING);
    let url = cluster.far.url();
    assert!(line.contains(&url) && line.contains("can be reached"), "{line}");
    assert_eq!(service.metric("heartbeatd_listening"), 0.0);
    let (code, body) = service.get("/readyz");
    assert!(code == 503 && body.contains("mqtt.entry_urls"), "{code} {body}");
    // The own node's come back all the time, and the other one's devices live on unheard.
    await_more(&service, ECHOED, 3.0 * ECHOES);
    await_more(&service, CHECKED, 2.0);
    assert_eq!(went_offline(&place), Vec::<String>::new());
    assert_eq!((service.metric(MISSING), service.metric(GONE)), (1.0, 0.0));

    cluster.link.heal();
    service.await_event(ENTRY_BACK);
    service.await_metric("heartbeatd_listening", 1.0);
    await_more(&service, ECHOED, 2.0 * 2.0 * ECHOES);
    await_more(&service, CHECKED, 2.0);
    assert_eq!(went_offline(&place), Vec::<String>::new(), "{}", service.log().join("\n"));
    let said = service.events(ENTRY_MISSING).into_iter();
    let said: Vec<_> = said.filter(|line| !line.contains(" seconds=")).collect();
    assert_eq!(said.len(), 1, "once, besides the reminders: {said:?}");
    devices.die(&FAR[..1]);
    place.await_statuses(&["far-1 offline", "far-2 online", "far-3 online"]);
}

fn nobody_goes_offline_by_several_instances(group: Option<&str>) {
    let cluster = Cluster::start();
    let database = TestDatabase::postgres();
    let places = ["hall-a", "hall-b"].map(|name| {
        let place = cluster.place_with_entries().with("MQTT__CLIENT_ID", name);
        let place = place.with("DATABASE__URL", &database.url);
        match group {
            Some(group) => place.with("MQTT__SHARE_GROUP", group).with("MQTT__SETTLE", "0s"),
            None => place,
        }
    });
    let services = places.each_ref().map(|place| {
        let service = place.start();
        service.await_listening();
        await_more(&service, ECHOED, 4.0);
        service
    });
    let devices = live(cluster.far.port, &FAR);
    await_online(&places[0], &FAR);

    cluster.link.refuse();
    for service in &services {
        service.await_event(ENTRY_MISSING);
        await_more(service, ECHOED, 3.0 * ECHOES);
    }
    assert_eq!(went_offline(&places[0]), Vec::<String>::new());
    cluster.link.heal();
    for service in &services {
        service.await_event(ENTRY_BACK);
        await_more(service, ECHOED, 2.0 * 2.0 * ECHOES);
    }
    assert_eq!(went_offline(&places[0]), Vec::<String>::new());
    devices.die(&FAR[..1]);
    places[0].await_statuses(&["far-1 offline", "far-2 online", "far-3 online"]);
}

#[test]
fn nobody_goes_offline_by_a_pair_while_the_nodes_are_cut_off_from_each_other() {
    nobody_goes_offline_by_several_instances(None);
}

#[test]
fn nobody_goes_offline_by_a_group_while_the_nodes_are_cut_off_from_each_other() {
    nobody_goes_offline_by_several_instances(Some("fleet"));
}

/// A group of two that is subscribed at the near node. The second one reaches the far node by a
/// way of its own.
struct Pair {
    cluster: Cluster,
    database: TestDatabase,
    way: Proxy,
    places: [Place; 2],
    services: [Service; 2],
}

impl Pair {
    /// With a timeout that is much longer than a member that has stopped is waited for.
    fn in_a_group() -> Self {
        let (cluster, database) = (Cluster::start(), TestDatabase::postgres());
        let way = Proxy::to(cluster.far.port);
        let nodes = [cluster.far.url(), format!("mqtt://127.0.0.1:{}", way.port)];
        let places = ["hall-a", "hall-b"].map(|name| {
            let far = &nodes[usize::from(name == "hall-b")];
            let place = cluster
                .place()
                .with("MQTT__ENTRY_URLS", &format!("{}, {far}", cluster.near.url()))
                .with("MQTT__CLIENT_ID", name)
                .with("MQTT__SHARE_GROUP", "fleet")
                .with("MQTT__SETTLE", "0s")
                .with("MQTT__ECHO_INTERVAL", "500ms")
                .with("HEARTBEAT__TIMEOUT", "8s");
            place.with("DATABASE__URL", &database.url)
        });
        let services = places.each_ref().map(|place| {
            let service = place.start();
            await_proving(&service);
            service
        });
        Self { cluster, database, way, places, services }
    }

    /// Waits until a stay of this instance has ended in this way.
    fn await_stay(&self, instance: &str, how: &str) {
        eventually("a stay has ended", || {
            let listed = self.places[0].json(&["group", "list", "--all", "--json"]);
            let mut listed = listed.as_array().expect("an array").iter();
            listed.find(|l| l["instance"] == instance && l["state"] == how).map(|_| ())
        });
    }

    fn log(&self) -> String {
        self.services.each_ref().map(|service| service.log().join("\n")).join("\n")
    }
}

fn await_proving(service: &Service) {
    service.await_listening();
    await_more(service, ECHOED, 2.0 * 4.0);
}

/// It is as a member that has stopped, and is no member until it reaches the node again.
#[test]
fn a_member_that_alone_cannot_reach_a_node_blinds_the_group_until_it_is_taken_out_of_it() {
    let pair = Pair::in_a_group();
    let devices = live(pair.cluster.far.port, &FAR);
    await_online(&pair.places[0], &FAR);
    pair.way.refuse();
    pair.await_stay("hall-b", "fenced");
    let [well, lacks] = &pair.services;
    lacks.await_event(ENTRY_MISSING);
    assert_eq!(well.events(ENTRY_MISSING), Vec::<String>::new());
    await_more(well, ECHOED, 4.0);

    let blind = "heartbeatd_group_blind_seconds_total";
    // The hole until it was taken out is counted by a look after that.
    well.await_metric(blind, 1.0);
    let (before, began) = (well.metric(blind), Instant::now());
    devices.die(&FAR[..1]);
    pair.places[0].await_statuses(&["far-1 offline", "far-2 online", "far-3 online"]);
    let hole = well.metric(blind) - before;
    // On a busy machine the other one has left the node out by then, and leaves holes like any that
    // joins. If it had stayed in the group, all of that time would be one.
    let took = began.elapsed().as_secs_f64();
    assert!(hole < took / 2.0, "{hole} s of {took} s in\n{}", pair.log());

    pair.way.heal();
    lacks.await_event(ENTRY_BACK);
    lacks.await_metric("heartbeatd_listening", 1.0);
    await_more(lacks, ECHOED, 2.0 * 4.0);
    devices.die(&FAR[1..2]);
    pair.places[0].await_statuses(&["far-1 offline", "far-2 offline", "far-3 online"]);
}

#[actix_rt::test]
async fn members_that_come_and_go_leave_no_hole_although_each_echo_goes_in_at_several_nodes() {
    let mut pair = Pair::in_a_group();
    let devices = live(pair.cluster.far.port, &FAR);
    await_online(&pair.places[0], &FAR);
    for number in [1, 0] {
        pair.services[number].signal("TERM");
        assert_eq!(pair.services[number].await_exit(), Some(0), "{}", pair.log());
        pair.services[number] = pair.places[number].start();
        await_proving(&pair.services[number]);
    }
    assert_eq!(blind_for_no_busy_machine(&pair.database).await, [], "{}", pair.log());
    devices.die(&FAR[..1]);
    pair.places[0].await_statuses(&["far-1 offline", "far-2 online", "far-3 online"]);
}

/// Without the list the same fault takes devices offline that live: the test above can fail.
#[test]
fn a_service_that_knows_of_one_node_believes_its_echoes() {
    let cluster = Cluster::start();
    let place = cluster.place();
    let service = place.start();
    service.await_listening();
    let _devices = live(cluster.far.port, &FAR);
    await_online(&place, &FAR);
    cluster.link.refuse();
    place.await_statuses(&["far-1 offline", "far-2 offline", "far-3 offline"]);
    assert_eq!(service.metric("heartbeatd_listening"), 1.0);
}

#[test]
fn a_node_that_ends_is_left_out_after_the_timeout_and_counts_again_when_it_is_back() {
    let mut cluster = Cluster::start();
    let place = cluster.place_with_entries();
    let service = place.start();
    service.await_metric(ANSWERING, 1.0);
    let near = ["near-1", "near-2"];
    let devices = live(cluster.near.port, &near);
    await_online(&place, &near);

    cluster.far.stop();
    devices.die(&near[..1]);
    let line = service.await_event(ENTRY_MISSING);
    assert!(!line.contains("can be reached"), "{line}");
    let line = service.await_event(ENTRY_LEFT_OUT);
    assert!(line.contains(&cluster.far.url()), "{line}");
    service.await_metric(GONE, 1.0);
    service.await_metric("heartbeatd_listening", 1.0);
    place.await_statuses(&["near-1 offline", "near-2 online"]);
    let log = eventually("the alert is logged", || {
        let log = service.log();
        log.iter().any(|line| is_event(line, "INFO alert_sink device=near-1")).then_some(log)
    });
    let place_of = |event| log.iter().position(|line| is_event(line, event));
    let (left_out, alert) = (place_of(ENTRY_LEFT_OUT), place_of("INFO alert_sink device=near-1"));
    assert!(left_out < alert, "only then: {}", log.join("\n"));

    cluster.far.go_on();
    service.await_event(ENTRY_BACK);
    service.await_metric(ANSWERING, 1.0);
    let _far = live(cluster.far.port, &FAR[..1]);
    place.await_statuses(&["far-1 online", "near-1 offline", "near-2 online"]);
    await_more(&service, ECHOED, 2.0 * 2.0 * ECHOES);
    assert_eq!(went_offline(&place), ["near-1"], "{}", service.log().join("\n"));
    assert_eq!(service.events(ENTRY_LEFT_OUT).len(), 1);
}
