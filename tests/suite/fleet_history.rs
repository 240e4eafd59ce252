//! Samples of the fleet: one for a check, at most one in ten seconds.

use heartbeatd::domain::Status;

use crate::specification::on_both_databases;
use crate::support::database::{TestDatabase, patient_reader};
use crate::support::fleet::{Fleet, at};

on_both_databases! {
    checks_keep_samples_of_the_fleet_and_a_chart_gets_the_last_of_each_stretch
}

async fn checks_keep_samples_of_the_fleet_and_a_chart_gets_the_last_of_each_stretch(
    database: TestDatabase,
) {
    let fleet = Fleet::on(database).await;
    let reader = patient_reader(&fleet.store).await;
    fleet.heartbeats(&["a", "b"], "", at(0)).await;
    for second in [1, 5, 130, 150] {
        fleet.check(at(second)).await;
    }
    fleet.heartbeat("b", "", at(150)).await;
    fleet.check(at(190)).await;
    let bounds = [0, 100, 150, 200, 300].map(at);
    let samples = reader.fleet(&bounds).await.expect("it reads");
    let told = |sample: &Option<heartbeatd::store::FleetSample>| {
        sample.as_ref().map(|sample| {
            let count = |status| sample.counts[&status];
            let seconds = (sample.at - at(0)).num_seconds();
            (seconds, count(Status::Online), count(Status::Offline), sample.late)
        })
    };
    assert_eq!(
        samples.iter().map(told).collect::<Vec<_>>(),
        [Some((1, 2, 0, Some(0))), Some((130, 2, 0, Some(2))), Some((190, 1, 1, Some(0))), None,]
    );

    // After 30 days a sample is deleted with the next one.
    let day = 24 * 60 * 60;
    fleet.check(at(31 * day)).await;
    let bounds = [at(0), at(300), at(32 * day)];
    let samples = reader.fleet(&bounds).await.expect("it reads");
    assert_eq!(samples.iter().map(|sample| sample.is_some()).collect::<Vec<_>>(), [false, true]);
}
