//! Several instances on one PostgreSQL: a pair, of which one stands by, and a group, whose members
//! share the heartbeats.

use super::past::{self, DAY, Gap, HOUR, MINUTE};
use super::{View, place, small, start_with, take, take_in};
use crate::support::database::TestDatabase;
use crate::support::service::{Place, Service};
use servers::mosquitto::Mosquitto;

/// The instances of a pair. The second name is as long as names may be in the field.
const PAIR: [&str; 2] = ["hall-a", "heartbeatd-hamburg-hall-3-gateway-2"];

const GROUP: &str = "fleet";

/// The members of a group, and their gaps.
const MEMBERS: [(&str, &[Gap]); 3] = [
    ("hall-a", &[(10 * HOUR, 23 * MINUTE, "disconnected")]),
    ("hall-b", &[(6 * DAY, 12 * MINUTE, "not_running"), (5 * HOUR, 4 * MINUTE, "no_echo")]),
    ("heartbeatd-hamburg-hall-3-gateway-2", &[(5 * HOUR, 6 * MINUTE, "no_echo")]),
];

/// The place of an instance.
fn instance(name: &str, broker: &Mosquitto, database: &TestDatabase) -> Place {
    place()
        .with("MQTT__URL", &broker.url())
        .with("MQTT__CLIENT_ID", name)
        .with("DATABASE__URL", &database.url)
}

/// Lets another instance join those that are there.
fn join(place: &Place) -> Service {
    let service = place.start();
    service.await_listening();
    service
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_pair() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let places = PAIR.map(|name| instance(name, &broker, &database));
    let _devices = small::live(broker.port);
    let _active = start_with(&places[0], &database, |now| {
        let mut sql = String::new();
        past::stay(&mut sql, now, PAIR[0], None, &past::GAPS);
        let away = [(8 * DAY, 3 * HOUR, "not_running"), (10 * HOUR, 23 * MINUTE, "disconnected")];
        past::stay(&mut sql, now, PAIR[1], None, &away);
        small::fleet(&mut sql, now);
        sql
    });
    let standby = join(&places[1]);
    let views = [
        View::at("/", "standby", ".each .bar > i"),
        View::at("/listening", "standby-listening", "#listeners"),
    ];
    take_in(&standby, "standby", &views);
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_group() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let member = |name| {
        instance(name, &broker, &database)
            .with("MQTT__SHARE_GROUP", GROUP)
            .with("MQTT__SETTLE", "0s")
    };
    let places = MEMBERS.map(|(name, _)| member(name));
    let active = start_with(&places[0], &database, |now| {
        let mut sql = String::new();
        for (name, gaps) in MEMBERS {
            past::stay(&mut sql, now, name, Some(GROUP), gaps);
        }
        small::fleet(&mut sql, now);
        sql
    });
    let _members = [join(&places[1]), join(&places[2])];
    let _devices = small::live(broker.port);
    let device = format!("/devices/{}", small::SILENT);
    let views = [
        View::at("/listening", "group", "#listeners"),
        View::at(&device, "group-device", ".listened-by"),
    ];
    take(&active, &views);
}
