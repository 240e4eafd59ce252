//! Three real services in one group on one PostgreSQL, which share the heartbeats of two hundred
//! living devices and of twenty that die before, during and after a fault. No live device ever goes
//! offline, and each dead one is found in time and reported once over all logs.
//!
//! 220 devices in turns over three members: each time a device's heartbeat goes to another one. The
//! tests with 222 let each member hear the same ones for ever, so that a member that has stopped
//! takes its devices with it unless the group notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::LocalBoxFuture;
use heartbeatd::Config;
use heartbeatd::actors::device_registry::{
    DeviceRegistry, Found, JoinError, JoinGroup, Settings, StayEnded,
};
use heartbeatd::clock::{Reading, system_clock};
use heartbeatd::domain::{Gap, GapCause};
use heartbeatd::metrics::Metrics;
use heartbeatd::mqtt::EndSession;
use publishers::RawClient;
use serde_json::{Value, json};
use servers::eventually;
use servers::mosquitto::Mosquitto;

use crate::pair::{DEAD, LIVE, Scene, TIMEOUT};
use crate::support::database::TestDatabase;
use crate::support::fake_broker::{Behaviour, FakeBroker};
use crate::support::http;
use crate::support::service::Place;
use crate::support::waiting::let_pass;

pub const GROUP: &str = "fleet";

pub const MEMBERS: [&str; 3] = ["hall-a", "hall-b", "hall-c"];

/// The longest time that a member that has stopped makes a hole: the row stands still for four
/// looks, an echo and a look may be due, and the broker has to answer.
pub const HOLE: f64 = 4.0 * ECHO_INTERVAL + 2.0;

const ECHO_INTERVAL: f64 = 0.5;

pub fn scene() -> Scene {
    Scene::in_group(&MEMBERS, TestDatabase::postgres(), Some(GROUP))
}

/// The instance that checks, and one that only writes.
pub fn roles(scene: &Scene) -> (usize, usize) {
    let active = scene.await_active(&[0, 1, 2]);
    (active, (active + 1) % 3)
}

pub async fn assert_well(scene: &mut Scene) {
    let active = scene.await_active(&[0, 1, 2]);
    scene.assert_all_is_well(active).await;
}

#[actix_rt::test]
async fn all_members_write_and_one_of_them_checks() {
    let mut scene = scene();
    scene.some_die(4);
    let accepted = "heartbeatd_heartbeats_total";
    let before: Vec<_> = scene.instances.iter().map(|i| i.service.metric(accepted)).collect();
    let_pass(Duration::from_secs(2));
    for (instance, before) in scene.instances.iter().zip(before) {
        assert!(instance.service.metric(accepted) > before, "{:?}", instance.service.log());
    }
    assert_well(&mut scene).await;
    scene.await_listeners(&["hall-a active", "hall-b member", "hall-c member"]);
}

async fn is_killed_and_restarted_after(leads: bool, pause: Option<f64>) {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let victim = if leads { active } else { other };
    scene.some_die(4);
    scene.instances[victim].service.signal("KILL");
    scene.late += HOLE;
    if let Some(pause) = pause {
        let_pass(Duration::from_secs_f64(pause));
        scene.instances[victim].restart();
    }
    scene.endure(6.0);
    let others: Vec<_> = (0..3).filter(|number| pause.is_some() || *number != victim).collect();
    let active = scene.await_active(&others);
    scene.assert_all_is_well(active).await;
}

#[actix_rt::test]
async fn a_member_that_is_killed_is_taken_out_of_the_group() {
    is_killed_and_restarted_after(false, None).await;
}

#[actix_rt::test]
async fn another_member_checks_after_the_one_that_did_is_killed() {
    is_killed_and_restarted_after(true, None).await;
}

#[actix_rt::test]
async fn a_member_that_is_killed_and_comes_back_at_once_joins_again() {
    is_killed_and_restarted_after(false, Some(0.1)).await;
    is_killed_and_restarted_after(true, Some(0.1)).await;
}

#[actix_rt::test]
async fn a_member_that_is_killed_and_comes_back_late_joins_again() {
    is_killed_and_restarted_after(false, Some(6.0)).await;
}

async fn is_stopped_for(leads: bool, seconds: f64) {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let victim = if leads { active } else { other };
    scene.some_die(4);
    scene.instances[victim].service.signal("STOP");
    scene.endure(seconds);
    scene.instances[victim].service.signal("CONT");
    scene.instances[victim].await_proving();
    // Stopped in a transaction, it kept its row until the server ended that.
    scene.late += seconds.min(HOLE) + if seconds > HOLE { 15.0 } else { 0.0 };
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn a_member_that_is_stopped_for_a_moment_takes_no_device_offline() {
    is_stopped_for(false, 0.5).await;
}

#[actix_rt::test]
async fn a_member_that_is_stopped_for_three_seconds_takes_no_device_offline() {
    is_stopped_for(false, 3.0).await;
}

/// Without the rule of the group exactly its third of the devices would go offline.
#[actix_rt::test]
async fn a_member_that_is_stopped_for_longer_than_the_timeout_takes_no_device_offline() {
    is_stopped_for(false, 10.0).await;
}

#[actix_rt::test]
async fn the_one_that_checks_may_be_stopped_for_longer_than_the_timeout() {
    is_stopped_for(true, 10.0).await;
}

/// What it hears in its new stay is not stale: it has a connection of its own.
#[actix_rt::test]
async fn a_member_that_joins_again_makes_no_second_hole() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    let member = &mut scene.instances[other];
    member.place = std::mem::replace(&mut member.place, Place::new()).with("MQTT__SETTLE", "1s");
    member.service.signal("TERM");
    member.restart();
    member.await_proving();
    scene.some_die(4);
    scene.instances[other].service.signal("STOP");
    scene.await_stays(MEMBERS[other], "fenced", 1);
    let goes_on = system_clock().wall;
    scene.instances[other].service.signal("CONT");
    scene.instances[other].await_proving();
    scene.late += HOLE + 15.0;
    assert_well(&mut scene).await;
    // After its stop it listens from its first echo on.
    let is_hole = |gap: &Gap| {
        gap.cause == Some(GapCause::NotRunning)
            && gap.interval.until > goes_on
            && gap.interval.length() > TimeDelta::milliseconds(500)
    };
    let holes: Vec<_> = scene.blind().await.into_iter().filter(is_hole).collect();
    assert!(holes.is_empty(), "{holes:?}");
}

/// Each time it stays out for twice as long, in which its client connects by itself: the session was
/// ended while it was stopped.
#[actix_rt::test]
async fn a_member_that_is_stopped_again_and_again_joins_again_each_time() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    for times in 1..=3 {
        scene.some_die(4);
        scene.instances[other].service.signal("STOP");
        scene.await_stays(MEMBERS[other], "fenced", times);
        scene.instances[other].service.signal("CONT");
        scene.instances[other].await_proving();
        scene.late += HOLE + 15.0;
    }
    assert_well(&mut scene).await;
}

/// Its threads wait for the database, while its connection to the broker lives and is given
/// heartbeats: no keep-alive ever ends that.
#[actix_rt::test]
async fn a_member_that_hangs_and_is_given_heartbeats_is_taken_out_of_the_group() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    scene.some_die(4);
    scene.instances[other].database.swallow();
    scene.endure(10.0);
    scene.await_fenced(MEMBERS[other]);
    scene.instances[other].database.heal();
    scene.late += HOLE + 15.0;
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn members_that_are_cut_off_from_the_broker_are_taken_out_of_the_group() {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let third = 3 - active - other;
    scene.some_die(4);
    scene.instances[other].broker.swallow();
    scene.endure(4.0);
    scene.instances[third].broker.swallow();
    scene.endure(4.0);
    for number in [other, third] {
        scene.await_fenced(MEMBERS[number]);
        scene.instances[number].broker.heal();
        scene.instances[number].await_proving();
    }
    scene.late += 2.0 * HOLE;
    assert_well(&mut scene).await;
}

/// Two of three at once are as one: each is taken out for itself.
#[actix_rt::test]
async fn two_members_that_are_cut_off_from_the_broker_at_once_leave_the_third_to_find_the_dead() {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let cut_off = [active, other];
    scene.some_die(4);
    cut_off.iter().for_each(|number| scene.instances[*number].broker.swallow());
    scene.endure(6.0);
    for number in cut_off {
        scene.await_fenced(MEMBERS[number]);
    }
    scene.late += HOLE;
    scene.await_found(8);
    for number in cut_off {
        scene.instances[number].broker.heal();
        scene.instances[number].await_proving();
    }
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn a_member_that_is_cut_off_from_the_database_is_taken_out_of_the_group() {
    let mut scene = scene();
    let (active, _) = roles(&scene);
    scene.some_die(4);
    scene.instances[active].database.refuse();
    scene.endure(10.0);
    scene.await_fenced(MEMBERS[active]);
    scene.instances[active].database.heal();
    scene.instances[active].await_proving();
    scene.late += HOLE;
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn all_join_again_after_the_broker_was_restarted() {
    let mut scene = scene();
    scene.some_die(4);
    scene.mosquitto.stop();
    let_pass(Duration::from_secs(3));
    scene.mosquitto.go_on();
    scene.instances.iter().for_each(|instance| instance.await_proving());
    scene.late += 3.0 + 10.0 + HOLE;
    assert_well(&mut scene).await;
}

#[actix_rt::test]
async fn a_rolling_restart_leaves_no_hole() {
    let mut scene = scene();
    for number in 0..3 {
        scene.some_die(2);
        scene.instances[number].service.signal("TERM");
        assert_eq!(scene.instances[number].service.await_exit(), Some(0));
        scene.instances[number].restart();
        scene.instances[number].await_proving();
    }
    scene.late += 2.0;
    assert_well(&mut scene).await;
    scene.assert_never_blind().await;
    let states = scene.listeners();
    for name in MEMBERS {
        let left = format!("{name} left");
        assert_eq!(states.iter().filter(|state| **state == left).count(), 1, "{states:?}");
    }
    assert_eq!(states.len(), 2 * MEMBERS.len(), "one row for each stay: {states:?}");
}

#[actix_rt::test]
async fn a_second_process_of_the_same_name_ends_with_78() {
    let mut scene = scene();
    let mut second = scene.instances[1].place.start_with(|command| {
        command.env("HEARTBEATD_MQTT__ECHO_INTERVAL", "2s");
    });
    let code = second.await_exit();
    assert_eq!(code, Some(78), "{:?}", second.log());
    assert_well(&mut scene).await;
}

/// Another client connects by its name, as a member does that believes it to be gone.
#[actix_rt::test]
async fn a_healthy_member_whose_session_is_ended_joins_again_within_seconds() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    let intruder = RawClient::connect(scene.mosquitto.port, MEMBERS[other], None);
    drop(intruder.expect("it connects"));
    let began = Instant::now();
    // The others may be faster than its next connection.
    let ended = ["reconnected", "fenced"].map(|how| format!("{} {how}", MEMBERS[other]));
    let again = format!("{} member", MEMBERS[other]);
    eventually("it has joined again", || {
        let listeners = scene.listeners();
        let has_ended = listeners.iter().any(|listener| ended.contains(listener));
        (has_ended && listeners.contains(&again)).then_some(())
    });
    let took = began.elapsed();
    println!("it was back after {took:?}");
    // The client library looks every 3 s whether it is time to reconnect, and waits a second before.
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    scene.instances[other].await_proving();
    scene.late += HOLE;
    assert_well(&mut scene).await;
}

/// As of a copy of the configuration that watches the same fleet for another purpose.
#[actix_rt::test]
async fn a_group_of_the_same_name_on_another_database_takes_no_heartbeat_away() {
    let mut scene = scene();
    let elsewhere = TestDatabase::postgres();
    let place = member(&scene.mosquitto, &elsewhere, "elsewhere");
    let other = place.start();
    other.await_metric(r#"heartbeatd_devices{status="online"}"#, (LIVE + DEAD) as f64);
    scene.endure(2.0 * TIMEOUT);
    assert_well(&mut scene).await;
    other.await_metric(r#"heartbeatd_devices{status="offline"}"#, DEAD as f64);
    let offline = place.json(&["history", "--to", "offline", "--json"]);
    let offline = offline.as_array().expect("an array").iter();
    let alive = |id: &&str| id.starts_with("live-");
    let ids = offline.map(|change| change["device_id"].as_str().expect("text"));
    assert_eq!(ids.filter(alive).collect::<Vec<_>>(), [] as [&str; 0]);
}

#[actix_rt::test]
async fn a_member_whose_subscription_is_refused_makes_no_hole() {
    let mut scene = scene();
    let refusing = FakeBroker::start(Behaviour { suback: Some(0x87), ..Behaviour::default() });
    let place = Place::new()
        .with("MQTT__URL", &refusing.url())
        .with("MQTT__CLIENT_ID", "hall-d")
        .with("MQTT__SHARE_GROUP", GROUP)
        .with("DATABASE__URL", &scene.database.url)
        .with("MQTT__ECHO_INTERVAL", "250ms");
    let refused = place.start();
    scene.await_stays("hall-d", "refused", 2);
    let blind = "heartbeatd_group_blind_seconds_total";
    let (active, _) = roles(&scene);
    let before = scene.instances[active].service.metric(blind);
    scene.endure(3.0);
    let hole = scene.instances[active].service.metric(blind) - before;
    assert!(hole < 2.0, "{hole} s in {:?}", refused.log());
    let states = scene.listeners();
    let of_it = states.iter().filter(|state| state.starts_with("hall-d"));
    let of_it: Vec<_> = of_it.map(String::as_str).collect();
    let attempts = of_it.iter().filter(|state| **state == "hall-d refused").count();
    assert!(of_it.len() <= attempts + 1, "one row for each attempt: {of_it:?}");
    let log = refused.log().join("\n");
    assert!(log.contains("subscribing again in 10 s"), "{log}");
    assert!(!log.contains("was taken out"), "{log}");
    assert_well(&mut scene).await;
}

fn member(broker: &Mosquitto, database: &TestDatabase, name: &str) -> Place {
    Place::new()
        .with("MQTT__URL", &broker.url())
        .with("MQTT__CLIENT_ID", name)
        .with("MQTT__SHARE_GROUP", GROUP)
        .with("DATABASE__URL", &database.url)
}

#[test]
fn a_member_whose_settle_is_longer_than_a_stop_may_take_stops_in_time() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let mut service = member(&broker, &database, "hall-a").with("MQTT__SETTLE", "20s").start();
    service.await_listening();
    service.signal("TERM");
    let asked = Instant::now();
    assert_eq!(service.await_exit(), Some(0), "{}", service.log().join("\n"));
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    service.await_words("WARN mqtt_ingest", &["mqtt.settle is longer than a stop may wait"]);
}

/// No other member is there to take it out.
#[test]
fn the_stay_of_a_member_that_was_killed_ends_by_its_next_start() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let place = member(&broker, &database, "hall-a").with("MQTT__ECHO_INTERVAL", "500ms");
    let mut killed = place.start();
    killed.await_listening();
    killed.signal("KILL");
    killed.await_exit();
    let restarted = place.start();
    restarted.await_listening();
    eventually("it checks again", || {
        let listed = place.json(&["group", "list", "--all", "--json"]);
        let states = listed.as_array().expect("an array").iter().map(|l| &l["state"]);
        states.eq(["restarted", "active"]).then_some(())
    });
    let listed = place.run(&["group", "list", "--all"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("ended by its next start"), "{listed}");
}

#[test]
fn a_member_that_has_stopped_and_may_not_be_taken_out_is_named_with_the_remedy() {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let [first, second] = ["hall-a", "hall-b"]
        .map(|name| member(&broker, &database, name).with("MQTT__FENCE", "none"));
    let watching = first.start();
    watching.await_listening();
    let mut stopping = second.start();
    stopping.await_listening();
    stopping.await_metric("heartbeatd_echo_latency_seconds_count", 4.0);
    stopping.signal("KILL");
    stopping.await_exit();
    let words = ["mqtt.fence is \"none\"", "heartbeatd group remove", "instance=hall-b"];
    watching.await_words("WARN standby", &words);
}

#[test]
fn a_broker_without_shared_subscriptions_is_told_although_it_grants_one() {
    let broker = FakeBroker::start(Behaviour { has_no_shares: true, ..Behaviour::default() });
    let database = TestDatabase::postgres();
    let place = Place::new()
        .with("MQTT__URL", &broker.url())
        .with("MQTT__CLIENT_ID", "hall-a")
        .with("MQTT__SHARE_GROUP", GROUP)
        .with("DATABASE__URL", &database.url);
    let service = place.start();
    let line = service.await_words("ERROR mqtt_ingest", &["cannot subscribe to $share/"]);
    for part in ["0x9E", "mqtt.share_group should be unset"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert_eq!(broker.subscriptions(), 0);
}

/// The broker still has its session, and gives it heartbeats.
#[actix_rt::test]
async fn a_member_whose_connection_is_lost_while_it_subscribes_again_is_not_refused() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    let member = &scene.instances[other];
    member.broker.swallow();
    member.service.await_words("ERROR mqtt_ingest", &["no echo comes back"]);
    member.broker.die();
    scene.endure(2.0 * TIMEOUT);
    scene.await_fenced(MEMBERS[other]);
    let refused = format!("{} refused", MEMBERS[other]);
    assert!(!scene.listeners().contains(&refused), "{:?}", scene.listeners());
    scene.instances[other].broker.heal();
    assert_well(&mut scene).await;
}

/// 222 devices over three members in turns: each member hears the same 74 for ever.
/// The devices that three members hear in turns, each time another one.
const MANY: u64 = 10_000;

/// The heartbeats of each.
const ROUNDS: u64 = 20;

#[actix_rt::test]
async fn three_members_that_hear_the_same_ten_thousand_devices_lose_no_heartbeat_and_never_deadlock()
 {
    let (broker, database) = (Mosquitto::start(), TestDatabase::postgres());
    let members = MEMBERS.map(|name| {
        // With the intervals of an operator, for a member that only waits for its turn is not stuck.
        let service = member(&broker, &database, name)
            .with("HEARTBEAT__TIMEOUT", "3m")
            .with("MQTT__ECHO_INTERVAL", "5s")
            .start();
        service.await_listening();
        service
    });
    let sum = |metric: &str| members.iter().map(|member| member.metric(metric)).sum::<f64>();
    let mut fleet = publishers::Fleet::connect(broker.port, 1, MANY, 3).expect("it connects");
    let mut last_round = system_clock().wall;
    for round in 0..ROUNDS {
        last_round = system_clock().wall;
        fleet.publish(round).expect("it publishes");
        fleet.await_acknowledged().expect("the broker has them");
    }
    let accepted = "heartbeatd_heartbeats_total";
    eventually("each heartbeat has reached a member", || {
        (sum(accepted) >= (MANY * ROUNDS) as f64).then_some(())
    });
    eventually("all are written", || (sum("heartbeatd_pending_heartbeats") == 0.0).then_some(()));
    assert_eq!(sum(accepted), (MANY * ROUNDS) as f64, "each has reached one");
    for member in &members {
        let share = member.metric(accepted) / (MANY * ROUNDS) as f64;
        assert!((0.2..0.5).contains(&share), "they share the heartbeats: {share}");
        let log = member.log();
        let wrong = log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&String>::new(), "{log:#?}");
    }
    let place = Place::new().with("DATABASE__URL", &database.url);
    let listed = place.json(&["device", "list", "--json"]);
    let listed = listed.as_array().expect("an array");
    assert_eq!(listed.len() as u64, MANY);
    for device in listed {
        let seen = device["last_seen_at"].as_str().expect("it was heard");
        assert!(seen.parse::<DateTime<Utc>>().expect("a time") >= last_round, "{device}");
    }
    // The sessions tell of deadlocks when they end.
    for mut member in members {
        member.signal("TERM");
        assert_eq!(member.await_exit(), Some(0));
    }
    assert_eq!(database.deadlocks().await, 0);
}

#[actix_rt::test]
async fn the_devices_that_always_reach_the_same_member_stay_online_when_it_stops() {
    let mut scene = scene();
    scene.more_live(2);
    let (_, other) = roles(&scene);
    scene.some_die(4);
    scene.instances[other].service.signal("STOP");
    scene.endure(9.0);
    scene.await_fenced(MEMBERS[other]);
    scene.instances[other].service.signal("CONT");
    scene.late += HOLE + 15.0;
    assert_well(&mut scene).await;
}

/// The delivery is handed over and not noted: whoever delivers next does so again, as for a
/// process alone.
#[actix_rt::test]
async fn whoever_delivers_next_goes_on_with_what_was_not_delivered() {
    let mut scene = scene();
    let (active, _) = roles(&scene);
    scene.some_die(DEAD);
    scene.instances[active].service.await_event("INFO alert_sink");
    scene.instances[active].service.signal("KILL");
    let others: Vec<_> = (0..3).filter(|number| *number != active).collect();
    scene.await_active(&others);
    scene.await_each_is_reported_at_least_once();
}

#[actix_rt::test]
async fn a_group_needs_an_external_broker_echoes_and_a_shared_database() {
    let postgres = TestDatabase::postgres();
    let place = || Place::new().with("MQTT__SHARE_GROUP", GROUP);
    let external = |place: Place| place.with("MQTT__URL", "mqtt://127.0.0.1:1");
    for (place, words) in [
        (place().with("DATABASE__URL", &postgres.url), "mqtt.url set to a broker"),
        (external(place()), "database.url set to a PostgreSQL"),
        (
            external(place())
                .with("DATABASE__URL", &postgres.url)
                .with("MQTT__ECHO_INTERVAL", "0s"),
            "mqtt.echo_interval above 0s",
        ),
        (
            external(place()).with("DATABASE__URL", &postgres.url).with("MQTT__VERSION", "3.1.1"),
            "mqtt.version = \"5\"",
        ),
    ] {
        let refused = place.run(&["check-config"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("mqtt.share_group") && said.contains(words), "{said}");
    }
}

#[actix_rt::test]
async fn the_stay_of_an_instance_that_is_gone_for_good_is_ended_by_hand() {
    let mut scene = scene();
    let (_, other) = roles(&scene);
    let place = &scene.instances[0].place;
    let listed = place.json(&["group", "list", "--json"]);
    let listed = listed.as_array().expect("an array").iter();
    let id = listed.clone().find(|listener| listener["instance"] == MEMBERS[other]);
    let id = id.expect("it is there")["id"].to_string();
    assert!(place.run(&["group", "remove", &id]).status.success());
    assert!(!place.run(&["group", "remove", &id]).status.success());
    // It lives, so it joins again.
    scene.await_stays(MEMBERS[other], "removed", 1);
    scene.instances[other].service.await_words("WARN standby", &["ended by hand"]);
    scene.instances[other].await_proving();
    scene.late += HOLE;
    assert_well(&mut scene).await;
}

/// A clock that is three seconds fast.
fn fast_clock() -> Reading {
    let now = system_clock();
    Reading { wall: now.wall + TimeDelta::seconds(3), ..now }
}

/// Has nobody to end a session of, and nothing to hear of its own stay.
struct Bystander;

impl EndSession for Bystander {
    fn end_session(&self, client: &str) -> LocalBoxFuture<'static, Result<(), String>> {
        panic!("{client} has not stopped")
    }
}

impl Actor for Bystander {
    type Context = Context<Self>;
}

impl Handler<StayEnded> for Bystander {
    type Result = ();

    fn handle(&mut self, ended: StayEnded, _: &mut Context<Self>) {
        panic!("{ended:?}");
    }
}

/// A member that hangs before it looks again could not say it any more.
#[actix_rt::test]
async fn a_member_says_with_its_first_row_how_far_its_clock_is_off() {
    let database = TestDatabase::postgres();
    let commands = database.open().await;
    let mut config = Config::default();
    config.mqtt.share_group = Some(GROUP.to_owned());
    let settings = Settings::from(&config);
    let store = commands.clone().in_a_group();
    let found = Found::read(&store, &settings).await.expect("it reads nothing");
    let registry = DeviceRegistry::new(settings, store, found, Arc::new(Metrics::new()))
        .in_a_group(Arc::new(Bystander))
        .with_clock(fast_clock)
        .start();
    let ended = Bystander.start();
    let joined = loop {
        let ended = ended.clone().recipient();
        let join = JoinGroup { connection: 1, connected_at: fast_clock().wall, ended };
        match registry.send(join).await.expect("it lives") {
            // The machine is busy.
            Err(JoinError::ClockUnknown) => (),
            joined => break joined,
        }
    };
    joined.expect("it joins");
    let listeners = commands.listeners().await.expect("it reads");
    let offset = listeners.last().expect("it has joined").peer.clock.offset;
    assert!((offset - TimeDelta::seconds(3)).abs() < TimeDelta::milliseconds(100), "{offset}");
}

/// The length of all these stretches of time, in milliseconds.
fn length_of_all(stretches: &Value) -> i64 {
    let time =
        |text: &Value| text.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let length = |stretch: &Value| {
        let (from, to) = (time(&stretch["from"]), time(&stretch["to"]).or(time(&stretch["until"])));
        (to.expect("a time") - from.expect("a time")).num_milliseconds()
    };
    stretches.as_array().expect("an array").iter().map(length).sum()
}

fn millis(seconds: &Value) -> i64 {
    (seconds.as_f64().expect("a number") * 1000.0).round() as i64
}

/// A gap is told once of the group, whichever members it is of, and the time that was not proven yet
/// when the device was found is told as well.
#[actix_rt::test]
async fn what_was_listened_to_and_the_gaps_make_up_the_silence() {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let third = 3 - active - other;
    scene.some_die(1);
    [other, third].iter().for_each(|number| scene.instances[*number].service.signal("STOP"));
    let_pass(Duration::from_secs_f64(2.0 * TIMEOUT));
    [other, third].iter().for_each(|number| scene.instances[*number].service.signal("CONT"));
    scene.await_found(1);
    let instance = &scene.instances[active];
    let get = |path: &str| http::send(&instance.service, "GET", path, &[], None).ok();
    let device = get("/api/v1/devices/dead-00");
    let evidence = &device["evidence"];
    let told = millis(&evidence["listened_seconds"]) + length_of_all(&evidence["gaps"]);
    assert_eq!(told, millis(&evidence["silent_seconds"]), "{evidence:#}");
    let both = |gap: &Value| {
        [other, third].iter().all(|number| {
            gap["instances"].as_array().expect("an array").contains(&json!(MEMBERS[*number]))
        })
    };
    let gaps = evidence["gaps"].as_array().expect("an array");
    assert_eq!(gaps.iter().filter(|gap| both(gap)).count(), 1, "{gaps:#?}");
    let words = device["not_counted"].as_array().expect("an array");
    assert!(words.last().expect("one").to_string().contains("at the check"), "{words:#?}");
    assert_eq!(words.len(), gaps.len(), "{device:#}");
    let shown = instance.place.json(&["device", "show", "dead-00", "--json"]);
    assert_eq!(length_of_all(&shown["evidence"]["gaps"]), length_of_all(&evidence["gaps"]));
    let listening = get("/api/v1/listening");
    let told = length_of_all(&listening["intervals"]) + length_of_all(&listening["gaps"]);
    let from = DateTime::parse_from_rfc3339(listening["listed_from"].as_str().expect("a time"));
    let to = DateTime::parse_from_rfc3339(listening["to"].as_str().expect("a time"));
    let whole = (to.expect("a time") - from.expect("a time")).num_milliseconds();
    // The newest seconds are no gap while their echoes are awaited.
    assert!((0..5_000).contains(&(whole - told)), "{listening:#}");
    let listened = length_of_all(&listening["intervals"]);
    assert_eq!(millis(&listening["listened_seconds"]), listened, "{listening:#}");
}

#[actix_rt::test]
async fn it_is_told_whose_a_gap_is() {
    let mut scene = scene();
    let (active, other) = roles(&scene);
    let told = [MEMBERS[other]];
    let place =
        http::send(&scene.instances[active].service, "GET", "/api/v1/events", &[], None).ok();
    let before = place["next"].as_str().expect("a place").to_owned();
    scene.some_die(1);
    let_pass(Duration::from_millis(1_500));
    scene.instances[other].service.signal("KILL");
    scene.await_fenced(MEMBERS[other]);
    scene.await_found(1);
    let instance = &scene.instances[active];
    let get = |path: &str| http::send(&instance.service, "GET", path, &[], None).ok();
    let its_gap = |of: &Value| {
        let mut gaps = of["gaps"].as_array().expect("an array").iter();
        gaps.find(|gap| gap["instances"] == json!(told)).cloned()
    };
    let in_words = |gap: &Value| {
        let words = gap["sentence"].as_str().expect("words");
        assert!(words.ends_with(&format!(" ({})", MEMBERS[other])), "{words}");
    };
    let listening = get("/api/v1/listening");
    in_words(&its_gap(&listening).expect("it is listed"));
    assert!(its_gap(&get("/api/v1/fleet")).is_some());
    let device = get("/api/v1/devices/dead-00");
    assert!(its_gap(&device["evidence"]).is_some(), "{device:#}");
    let gap = eventually("it is an event", || {
        let events = get(&format!("/api/v1/events?limit=1000&after={before}"));
        let events = events["items"].as_array().expect("an array").iter();
        let mut gaps = events.filter(|event| event["type"] == "gap").map(|event| &event["data"]);
        gaps.find(|gap| gap["instances"] == json!(told)).cloned()
    });
    in_words(&gap);
    let shown = instance.place.json(&["device", "show", "dead-00", "--json"]);
    assert!(its_gap(&shown["evidence"]).is_some(), "{shown:#}");
    let shown = instance.place.run(&["device", "show", "dead-00"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let of_it = |line: &str| line.ends_with(&format!("({})", MEMBERS[other]));
    assert!(shown.lines().any(of_it), "{shown}");
}
