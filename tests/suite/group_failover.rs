//! A group of three whose PostgreSQL is restarted under load, or fails over to a standby server.
//!
//! The group's name at the broker has the timeline of the database in it. After a failover the
//! members leave one another in the old group and meet again in the new one, and whoever does not
//! notice it keeps the old one to itself.

use servers::eventually;
use servers::postgresql::Shutdown;

use crate::failover::{AWAY, Site, a_restart_costs_nothing_but_time};
use crate::group::{GROUP, HOLE, MEMBERS};
use crate::pair::{Instance, TIMEOUT};
use crate::support::service::Place;
use crate::support::waiting::let_pass;

/// The group on the timeline of the standby server that was promoted.
const MOVED: &str = "fleet.00000002";

/// The longest time until all have noticed that the database is back, and are members again: a
/// second, two connections and an echo, on a busy machine.
const REJOINED: f64 = 6.0;

fn site() -> Site {
    Site::in_group(&MEMBERS, Some(GROUP))
}

impl Site {
    /// The instances that have not left, with the groups that they are in.
    fn joined(&self) -> Vec<String> {
        let place = Place::new().with("DATABASE__URL", &self.scene.database.url);
        let listed = place.json(&["group", "list", "--json"]);
        let listed = listed.as_array().expect("an array").iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
        let joined = listed.map(|l| format!("{} in {}", text(&l["instance"]), text(&l["group"])));
        let mut joined: Vec<_> = joined.collect();
        joined.sort();
        joined
    }

    /// Waits until these have moved, and nobody is left in the old group.
    fn await_moved(&self, instances: &[&str]) {
        let expected: Vec<_> = instances.iter().map(|name| format!("{name} in {MOVED}")).collect();
        eventually("all have moved", || (self.joined() == expected).then_some(()));
    }

    /// Asserts that the failover costs about so much and no more.
    async fn assert_blind_for(&self, seconds: f64) {
        let (blind, log) = (self.scene.longest_blind().await, self.scene.log().join("\n"));
        println!("blind for {blind} s, where {seconds} s are the least");
        assert!(blind >= 0.5 * seconds && blind <= seconds + REJOINED, "{blind} s in\n{log}");
    }

    /// Asserts that nobody says that nothing was lost.
    fn assert_each_says_what_it_throws_away(&self) {
        for instance in &self.scene.instances {
            let log = instance.service.log();
            let thrown_away = instance.service.events("WARN standby heartbeats=");
            assert_eq!(thrown_away.len(), 1, "{log:?}");
            let kept = instance.service.events("INFO device_registry seconds= heartbeats=");
            assert_eq!(kept, Vec::<String>::new(), "{log:?}");
        }
    }

    /// Asserts that each member is given heartbeats.
    fn assert_all_hear(&self) {
        let accepted = "heartbeatd_heartbeats_total";
        for instance in &self.scene.instances {
            instance.service.await_metric(accepted, instance.service.metric(accepted) + 1.0);
        }
    }
}

async fn a_restart_costs_a_group_nothing_but_time(shutdown: Shutdown) {
    let (_server, scene) = a_restart_costs_nothing_but_time(&MEMBERS, Some(GROUP), shutdown).await;
    // None was taken out of the group, and none has lost anything.
    let states = scene.listeners();
    assert_eq!(states, ["hall-a active", "hall-b member", "hall-c member"]);
}

#[actix_rt::test]
async fn a_restart_of_the_server_costs_a_group_nothing_but_time() {
    a_restart_costs_a_group_nothing_but_time(Shutdown::Fast).await;
}

#[actix_rt::test]
async fn a_crash_of_the_server_costs_a_group_nothing_but_time() {
    a_restart_costs_a_group_nothing_but_time(Shutdown::Immediate).await;
}

/// Everything is thrown away that was not written when the server went, because a member may have
/// joined whose row the new one lacks.
#[actix_rt::test]
async fn a_failover_without_loss_costs_a_group_the_time_until_it_meets_again() {
    let mut site = site();
    site.scene.some_die(4);
    site.scene.instances.iter().for_each(|instance| instance.database.refuse());
    site.standby.await_caught_up(&site.primary);
    site.primary.kill();
    site.fail_over();
    site.await_moved(&MEMBERS);
    let well = site.await_settled();
    site.assert_all_hear();
    site.scene.assert_all_is_well(well).await;
    site.assert_blind_for(AWAY).await;
    site.assert_each_says_what_it_throws_away();
}

/// The time whose commits are lost: shorter than the timeout, so that no alert is among them.
const LOST: f64 = 2.0;

#[actix_rt::test]
async fn what_a_failover_loses_does_not_count_for_a_group() {
    const { assert!(LOST < TIMEOUT) };
    let mut site = site();
    site.lose_the_primary_with(LOST);
    site.fail_over();
    site.await_moved(&MEMBERS);
    let well = site.await_settled();
    site.assert_all_hear();
    site.scene.assert_all_is_well(well).await;
    site.assert_blind_for(LOST + AWAY).await;
    site.assert_each_says_what_it_throws_away();
    for instance in &site.scene.instances {
        assert_eq!(instance.service.get("/readyz").0, 200, "{:?}", instance.service.log());
    }
}

#[actix_rt::test]
async fn a_failover_that_loses_offline_transitions_has_a_group_report_those_devices_again() {
    site().reports_again_what_is_lost();
}

/// The row of a member is lost, and it does not notice: it is in nobody's list. In the group of the
/// others it would be given a quarter of the heartbeats.
#[actix_rt::test]
async fn a_member_whose_row_is_lost_while_it_is_stopped_keeps_the_old_group_to_itself() {
    let mut site = site();
    site.standby.await_caught_up(&site.primary);
    site.standby.stop_receiving();
    let (broker, database) = (&site.scene.mosquitto, &site.scene.database);
    // The broker keeps its session for longer than the test lasts.
    let patient = |place: Place| place.with("MQTT__KEEP_ALIVE", "5m");
    let lost = Instance::start_with(broker, database, "hall-d", Some(GROUP), patient);
    lost.await_proving();
    lost.service.signal("STOP");
    site.primary.kill();
    site.fail_over();
    site.await_moved(&MEMBERS);
    site.assert_all_hear();
    assert!(!site.scene.listeners().iter().any(|row| row.starts_with("hall-d")), "it is lost");
    // Whoever was given its part would be missed by then.
    site.scene.endure(2.0 * TIMEOUT);
    assert_eq!(site.scene.offline_alive(), Vec::<String>::new());

    lost.database.redirect(site.standby.port());
    lost.service.signal("CONT");
    site.scene.instances.push(lost);
    site.await_moved(&["hall-a", "hall-b", "hall-c", "hall-d"]);
    site.assert_all_hear();
    let well = site.await_settled();
    site.scene.assert_all_is_well(well).await;
}

/// The broker does not say that the member is in another group than the others. Its stay is ended
/// without a connection in its name, which would throw out what it has joined since.
async fn is_stopped_during_a_failover(leads: bool) {
    let mut site = site();
    let active = site.scene.await_active(&[0, 1, 2]);
    let stopped = if leads { active } else { (active + 1) % 3 };
    site.scene.some_die(4);
    site.standby.await_caught_up(&site.primary);
    site.scene.instances[stopped].service.signal("STOP");
    site.primary.kill();
    site.fail_over();
    let others: Vec<_> = (0..3).filter(|number| *number != stopped).collect();
    let names: Vec<_> = others.iter().map(|number| MEMBERS[*number]).collect();
    site.await_moved(&names);
    site.scene.await_fenced(MEMBERS[stopped]);
    site.scene.await_active(&others);
    let sessions_ended = || {
        let fences = "heartbeatd_fences_total";
        others
            .iter()
            .map(|number| site.scene.instances[*number].service.metric(fences))
            .sum::<f64>()
    };
    assert_eq!(sessions_ended(), 1.0);
    site.scene.instances[stopped].service.signal("CONT");
    site.await_moved(&MEMBERS);
    let_pass(std::time::Duration::from_secs(1));
    site.scene.late += HOLE;
    let well = site.await_settled();
    site.assert_all_hear();
    site.scene.assert_all_is_well(well).await;
}

#[actix_rt::test]
async fn a_member_that_is_stopped_during_a_failover_joins_again() {
    is_stopped_during_a_failover(false).await;
}

#[actix_rt::test]
async fn another_member_checks_after_a_failover_during_which_the_one_that_did_is_stopped() {
    is_stopped_during_a_failover(true).await;
}
