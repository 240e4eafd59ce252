//! The page in states that neither the broker nor the database has caused, each made by a real
//! fault: a clock that is set, a fleet that falls silent, messages that are thrown away, a long
//! timeout after the first start, and another instance that writes.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::support::browser::{Browser, ONLINE, SENTENCE, names};
use crate::support::database::TestDatabase;
use crate::support::service::{Place, Service};
use publishers::{Devices, flood};
use servers::eventually;
use servers::mosquitto::{Mosquitto, heartbeat};

/// The wall clock of one process, by Debian's libfaketime. Its monotonic clock goes on.
struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    fn of(place: &Place) -> Self {
        let folders = fs::read_dir("/usr/lib").expect("a folder");
        let library = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
        let paths = folders.map(|folder| library(folder.expect("it reads").path()));
        let library = paths.into_iter().find(|path| path.exists());
        let library = library.expect("libfaketime in /usr/lib/*");
        let clock = Self { file: place.path().join("clock"), library };
        clock.set("+0");
        clock
    }

    fn start(&self, place: &Place) -> Service {
        place.start_with(|command| {
            command
                .env("LD_PRELOAD", &self.library)
                .env("FAKETIME_TIMESTAMP_FILE", &self.file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        })
    }

    /// Sets it to this much before or after the time of the machine.
    fn set(&self, ahead: &str) {
        // Whoever reads it gets the old or the new content, never a part.
        let new = self.file.with_extension("new");
        fs::write(&new, ahead).expect("a file");
        fs::rename(&new, &self.file).expect("a file");
    }
}

#[test]
fn a_clock_that_is_set_is_told_and_takes_no_device_offline() {
    let browser = Browser::start();
    let place = Place::new();
    let clock = WallClock::of(&place);
    let service = clock.start(&place);
    service.await_listening();
    let devices = browser.open_with_two_devices(&service, service.broker_port());
    browser.await_state("listening");
    assert_eq!(browser.value("document.querySelector('.aside')"), json!(null));

    let checks = "heartbeatd_check_duration_seconds_count";
    for (ahead, told) in [
        ("-3600", "The clock was set back by 1 h."),
        ("+3600", "The clock was set forward by 2 h."),
        ("+0", "The clock was set back by 1 h."),
    ] {
        clock.set(ahead);
        browser.await_text(".aside .sentence", |text| text == told);
        // The time in which a device that is wrongly missed would go offline.
        service.await_metric(checks, service.metric(checks) + 8.0);
        browser.await_state("listening");
        browser.await_text(ONLINE, |text| text == "2");
    }
    let log = service.log();
    let set = |line: &&String| line.contains("the clock was set");
    let told: Vec<_> = log.iter().filter(set).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].contains("set back by 1 h;"), "{told:#?}");
    let offline = || place.json(&["history", "--json"]).as_array().expect("an array").clone();
    let fell = |row: &serde_json::Value| row["to"] == "offline";
    assert!(!offline().iter().any(fell), "{:?}", offline());
    devices.die(&["b"]);
    browser.await_text(".each li.offline", |text| text.contains('b'));
}

#[test]
fn a_fleet_that_falls_silent_is_told_from_a_service_that_hears_nothing() {
    let browser = Browser::start();
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "20s");
    let service = place.start_listening();
    let devices = browser.open_with_two_devices(&service, service.broker_port());
    drop(devices);
    browser.await_state("fleet_silent");
    let told = |text: &str| text.starts_with("Nobody has been heard for ");
    browser.await_text(SENTENCE, told);
    browser.await_text(".detail", |text| text.contains("yet echoes come back"));
    heartbeat(service.broker_port(), "a", b"");
    browser.await_text(SENTENCE, |text| !told(text));
}

#[test]
fn a_service_that_has_not_listened_for_a_timeout_yet_says_when_it_can_find_a_device() {
    let browser = Browser::start();
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "40s");
    let service = place.start_listening();
    let _devices = Devices::live(service.broker_port(), names(&["a", "b"]));
    browser.open_page(&service, "/");
    browser.await_state("warming");
    let sentence = browser.await_text(SENTENCE, |text| text.contains("started"));
    assert!(sentence.contains(" s"), "{sentence}");
    browser.await_state("listening");
}

#[test]
fn messages_that_are_thrown_away_are_told_until_that_is_past() {
    let browser = Browser::start();
    let broker = Mosquitto::start();
    // Long enough that nobody counts as silent after the flood.
    let place = Place::new().with("HEARTBEAT__TIMEOUT", "5m");
    let place = place.with("MQTT__MAX_BACKLOG", "1").with("MQTT__URL", &broker.url());
    let service = place.start_listening();
    browser.open_page(&service, "/");
    browser.await_state("warming");
    flood(broker.port, "flood", 100, 20, "");
    browser.await_state("shedding");
    let sentence = browser.await_text(SENTENCE, |text| text.starts_with("Messages are being"));
    assert!(sentence.starts_with("Messages are being discarded."), "{sentence}");
    browser.await_state("warming");
}

#[test]
fn a_standby_says_so_and_a_page_that_is_open_sees_it_take_over() {
    let browser = Browser::start();
    let broker = Mosquitto::start();
    let database = TestDatabase::postgres();
    let [first, second] = ["hall-a", "hall-b"].map(|name| {
        Place::new()
            .with("MQTT__URL", &broker.url())
            .with("MQTT__CLIENT_ID", name)
            .with("DATABASE__URL", &database.url)
    });
    let mut active = first.start();
    active.await_listening();
    let standby = second.start();
    standby.await_event("INFO standby active=");
    let _devices = Devices::live(broker.port, names(&["a", "b"]));
    browser.open_page(&standby, "/");
    browser.await_state("standby");
    browser.await_text(SENTENCE, |text| text.starts_with("Standing by."));
    browser.await_text(".detail", |text| text == "hall-a is active.");
    active.signal("KILL");
    active.await_exit();
    eventually("it takes over", || (standby.metric("heartbeatd_active") > 0.0).then_some(()));
    browser.await_state("listening");
    browser.await_text(ONLINE, |text| text == "2");
}
