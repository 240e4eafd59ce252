//! The page when something is wrong, and when it wants a token.

use super::{DRAWN, LOOKS, View, is_there, keep, place, small, start, take_in};
use crate::support::browser::Browser;
use crate::support::database::lock_sqlite;
use servers::eventually;
use servers::mosquitto::Mosquitto;

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_without_the_broker() {
    let broker = Mosquitto::start();
    let place = place().with("MQTT__URL", &broker.url());
    let service = start(&place, small::past);
    drop(broker);
    let refused = || service.get("/api/v1/summary").1.contains("refused").then_some(());
    eventually("it is known why the broker cannot be reached", refused);
    take_in(&service, "disconnected", &[View::at("/", "blind", ".each .bar > i")]);
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_without_the_database() {
    let place = place();
    let service = start(&place, small::past);
    let _devices = small::live(service.broker_port());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // A transaction that is dropped needs it, too.
    let _entered = runtime.enter();
    let _lock = runtime.block_on(lock_sqlite(&place.database_url()));
    let away = || {
        let (_, summary) = service.get("/api/v1/summary");
        let lasts = summary.split_once("The database has been away for ")?.1;
        (!lasts.starts_with("less than")).then_some(())
    };
    eventually("the database has been away for a while", away);
    take_in(&service, "database", &[View::at("/", "database", ".each .bar > i")]);
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_a_page_that_is_cut_off() {
    let place = place();
    let mut service = start(&place, small::past);
    for (light, width, end) in LOOKS {
        let browser = Browser::with(light, width);
        browser.open(&format!("http://{}/", service.http_address()));
        browser.await_state("listening");
        browser.await_value(&is_there(".each .bar > i"), &true.into());
        browser.await_value(DRAWN, &true.into());
        service.signal("KILL");
        service.await_exit();
        browser.await_state("stale");
        keep(&browser, &View::at("/", "cut-off", ".banner.stale"), end);
        service = place.start();
        service.await_listening();
    }
}

#[test]
#[ignore = "writes into docs; scripts/screenshots.sh runs it"]
fn pictures_of_the_login() {
    let place = place().with("HTTP__TOKEN", "correct-horse-battery-staple");
    let service = place.start();
    service.await_listening();
    take_in(&service, "login", &[View::at("/", "login", "#token")]);
}
