//! A PostgreSQL that is restarted under load, and a failover to a standby server: with and
//! without the loss of what was committed, for one service and for a pair. `group_failover` has
//! the same for a group.
//!
//! Two hundred devices live, as in `pair`, and twenty die before, during and after the fault.

use std::process::Output;
use std::time::Duration;

use crate::pair::{PAIR, Scene, TIMEOUT};
use crate::support::database::TestDatabase;
use crate::support::service::Place;
use crate::support::waiting::let_pass;
use heartbeatd::domain::Gap;
use servers::eventually;
use servers::log::is_event;
use servers::postgresql::{Cluster, PostgreSql, Shutdown};

/// The database has lost what a service had written.
const FORGOTTEN: &str = "WARN standby heartbeats=";

/// Seconds for which the database is away.
pub const AWAY: f64 = 3.0;

/// A server whose standby follows it, and services on a database in it.
pub struct Site {
    pub primary: PostgreSql,
    pub standby: PostgreSql,
    pub scene: Scene,
}

impl Site {
    fn of(names: &[&str]) -> Self {
        Self::in_group(names, None)
    }

    /// The same with members of a group, if there is one.
    pub fn in_group(names: &[&str], group: Option<&str>) -> Self {
        let primary = PostgreSql::start();
        let standby = primary.standby();
        let scene = Scene::in_group(names, TestDatabase::on(&primary), group);
        Self { primary, standby, scene }
    }

    /// Lets the services write for a while what the standby does not get, and the primary's
    /// machine be lost then.
    pub fn lose_the_primary_with(&mut self, seconds: f64) {
        // Without any proof before it there is no gap, but only a later beginning.
        eventually("something is proven", || {
            let place = Place::new().with("DATABASE__URL", &self.scene.database.url);
            let listed = place.json(&["group", "list", "--json"]);
            listed[0]["proven_until"].is_string().then_some(())
        });
        self.standby.await_caught_up(&self.primary);
        self.standby.stop_receiving();
        self.scene.endure(seconds);
        self.primary.kill();
        self.scene.late += seconds;
    }

    /// Makes the standby the primary, and leads the services to it.
    pub fn fail_over(&mut self) {
        self.scene.endure(AWAY);
        self.standby.promote();
        for instance in &self.scene.instances {
            instance.database.redirect(self.standby.port());
            instance.database.heal();
        }
        self.scene.database = self.scene.database.moved_to(&self.standby);
        // A statement that was on its way may have to time out.
        self.scene.late += AWAY + 5.0;
    }

    /// Waits until one instance is active and goes on being it, and returns which.
    pub fn await_settled(&self) -> usize {
        let instances = &self.scene.instances;
        let writes = |&number: &usize| instances[number].service.metric("heartbeatd_active") > 0.0;
        let active = || (0..instances.len()).filter(writes).collect::<Vec<_>>();
        eventually("one instance writes", || {
            let before = active();
            let_pass(Duration::from_secs(1));
            (before.len() == 1 && active() == before).then(|| before[0])
        })
    }

    pub fn forgotten(&self) -> usize {
        let lost = |line: &&String| line.contains("does not have what this service has written");
        self.scene.log().iter().filter(lost).count()
    }

    /// Asserts that about so many seconds do not count as listened to, because their proofs are
    /// lost.
    pub async fn assert_not_listened_for(&self, seconds: f64) {
        // What an instance throws away ends with the next echo, so a gap of it may be of any cause.
        let blind = self.scene.blind().await;
        let millis = |gap: &Gap| (gap.interval.until - gap.interval.from).num_milliseconds();
        let lost = blind.iter().map(millis).sum::<i64>() as f64 / 1000.0;
        assert!(lost > 0.5 * seconds, "{lost} s of {seconds} s: {blind:?}");
    }

    /// Lets commits be lost with which a device was found, and expects it to be reported again.
    pub fn reports_again_what_is_lost(mut self) {
        self.standby.await_caught_up(&self.primary);
        self.standby.stop_receiving();
        self.scene.some_die(1);
        self.await_reports_of("dead-00", 1);
        let_pass(Duration::from_secs(1));
        self.primary.kill();
        self.fail_over();
        self.await_reports_of("dead-00", 2);
        assert_eq!(self.scene.offline_alive(), Vec::<String>::new());
    }

    fn await_reports_of(&self, device: &str, times: usize) {
        let reported = format!("INFO alert_sink device={device}");
        eventually("it is reported", || {
            let log = self.scene.log();
            (log.iter().filter(|line| is_event(line, &reported)).count() == times).then_some(())
        });
    }
}

pub async fn a_restart_costs_nothing_but_time(
    names: &[&str],
    group: Option<&str>,
    shutdown: Shutdown,
) -> (PostgreSql, Scene) {
    let mut server = PostgreSql::start();
    let mut scene = Scene::in_group(names, TestDatabase::on(&server), group);
    scene.some_die(4);
    server.stop(shutdown);
    scene.endure(AWAY);
    server.start_again();
    scene.late += AWAY + 5.0;
    let well = scene.await_active(&(0..names.len()).collect::<Vec<_>>());
    scene.assert_all_is_well(well).await;
    scene.assert_never_blind().await;
    scene.assert_nothing_lost().await;
    (server, scene)
}

#[actix_rt::test]
async fn a_restart_of_the_server_costs_one_service_nothing_but_time() {
    a_restart_costs_nothing_but_time(&PAIR[..1], None, Shutdown::Fast).await;
}

#[actix_rt::test]
async fn a_crash_of_the_server_costs_one_service_nothing_but_time() {
    a_restart_costs_nothing_but_time(&PAIR[..1], None, Shutdown::Immediate).await;
}

#[actix_rt::test]
async fn a_restart_of_the_server_costs_a_pair_nothing_but_time() {
    a_restart_costs_nothing_but_time(&PAIR, None, Shutdown::Fast).await;
}

#[actix_rt::test]
async fn a_crash_of_the_server_costs_a_pair_nothing_but_time() {
    a_restart_costs_nothing_but_time(&PAIR, None, Shutdown::Immediate).await;
}

async fn a_failover_without_loss_costs_nothing_but_time(names: &[&str]) {
    let mut site = Site::of(names);
    site.scene.some_die(4);
    site.scene.instances.iter().for_each(|instance| instance.database.refuse());
    site.standby.await_caught_up(&site.primary);
    site.primary.kill();
    site.fail_over();
    let well = site.await_settled();
    site.scene.assert_all_is_well(well).await;
    site.scene.assert_never_blind().await;
    site.scene.assert_nothing_lost().await;
    assert_eq!(site.forgotten(), 0, "{:?}", site.scene.log());
}

#[actix_rt::test]
async fn a_failover_without_loss_costs_one_service_nothing_but_time() {
    a_failover_without_loss_costs_nothing_but_time(&PAIR[..1]).await;
}

#[actix_rt::test]
async fn a_failover_without_loss_costs_a_pair_nothing_but_time() {
    a_failover_without_loss_costs_nothing_but_time(&PAIR).await;
}

/// The time whose commits are lost. It is shorter than the timeout, so that no alert is among
/// them, which would be delivered twice.
const LOST: f64 = 2.0;

async fn what_a_failover_loses_does_not_count(names: &[&str]) {
    const { assert!(LOST < TIMEOUT) };
    let mut site = Site::of(names);
    site.lose_the_primary_with(LOST);
    site.fail_over();
    eventually("the loss is noticed", || (site.forgotten() > 0).then_some(()));
    let well = site.await_settled();
    site.scene.assert_all_is_well(well).await;
    // A standby may have kept in memory what the database has lost, and then it is written again.
    if names.len() == 1 {
        site.assert_not_listened_for(LOST).await;
    }
    let active = &site.scene.instances[well].service;
    assert_eq!(active.get("/readyz").0, 200, "{:?}", site.scene.log());
    let said = site.scene.instances[0].service.events(FORGOTTEN);
    assert_eq!(said.len(), 1, "{said:#?} in {:#?}", site.scene.log());
}

#[actix_rt::test]
async fn what_a_failover_loses_does_not_count_for_one_service() {
    what_a_failover_loses_does_not_count(&PAIR[..1]).await;
}

#[actix_rt::test]
async fn what_a_failover_loses_does_not_count_for_a_pair() {
    what_a_failover_loses_does_not_count(&PAIR).await;
}

/// The transitions and their acknowledgements are lost with the commits: the devices are found
/// and reported again.
#[actix_rt::test]
async fn a_failover_that_loses_offline_transitions_reports_those_devices_again() {
    Site::of(&PAIR[..1]).reports_again_what_is_lost();
}

fn errors(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[actix_rt::test]
async fn a_standby_server_is_read_by_commands_and_refused_by_the_service() {
    let primary = PostgreSql::start();
    let database = TestDatabase::on(&primary);
    let place = Place::new().with("DATABASE__URL", &database.url);
    assert!(place.run(&["device", "add", "pump"]).status.success());
    let standby = primary.standby();
    standby.await_caught_up(&primary);
    let place = Place::new().with("DATABASE__URL", &database.moved_to(&standby).url);
    place.await_statuses(&["pump provisioning"]);
    for command in [&["run"][..], &["device", "add", "valve"]] {
        let out = place.run(command);
        let said = errors(&out);
        assert_eq!(out.status.code(), Some(69), "{command:?}: {said}");
        assert!(said.contains("the server is a standby, which only reads"), "{command:?}: {said}");
    }
}

/// With `synchronous_commit = off` the server confirms what it writes up to 30 s later.
#[actix_rt::test]
async fn what_was_confirmed_survives_a_crash_although_the_servers_default_does_not_promise_it() {
    let lazy = Cluster::create().set("synchronous_commit", "off").set("wal_writer_delay", "10s");
    let mut server = lazy.start();
    let place = Place::new().with("DATABASE__URL", &TestDatabase::on(&server).url);
    for device in ["first", "last"] {
        assert!(place.run(&["device", "add", device]).status.success());
    }
    server.restart(Shutdown::Immediate);
    place.await_statuses(&["first provisioning", "last provisioning"]);
}
