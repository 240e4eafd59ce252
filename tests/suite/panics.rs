//! A panic in an actor ends the process with 70 and names the actor.
//!
//! Each test runs itself again in another process, which panics.

use std::process::Command;

use actix::prelude::*;
use chrono::{DateTime, Utc};
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline};
use heartbeatd::actors::on_own_thread;
use heartbeatd::clock::system_clock;
use heartbeatd::panics::this_actor;
use heartbeatd::{App, Config, cli, panics};
use servers::process::run_to_end;

const CHILD: &str = "SUITE_PANIC_CHILD";

/// Runs `child` in another process and checks that its panic ends that with 70.
fn assert_ends_the_process(test: &str, actor: &str, child: impl AsyncFnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        cli::init_logger();
        panics::end_the_process();
        actix_rt::System::new().block_on(async {
            child().await;
            std::future::pending::<()>().await;
        });
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = Command::new(std::env::current_exe().expect("it runs"));
    child
        .args(["--exact", "--nocapture", &format!("panics::{test}")])
        .env(CHILD, "1")
        .current_dir(folder.path());
    let out = run_to_end(&mut child);
    let log = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(70), "{log}");
    let line = log.lines().find(|line| line.contains("panicked: on purpose"));
    let line = line.unwrap_or_else(|| panic!("no such line in {log}"));
    assert!(line.contains(&format!("actor={actor}")), "{line}");
}

fn config() -> Config {
    let mut config = Config::default();
    config.mqtt.embedded.listen = ([127, 0, 0, 1], 0).into();
    config.http.listen = heartbeatd::config::Listen::Off;
    config.heartbeat.check_interval =
        crate::support::fleet::non_zero(std::time::Duration::from_millis(10));
    config
}

#[test]
fn a_panic_in_the_ticker_names_it() {
    fn broken() -> heartbeatd::clock::Reading {
        assert!(this_actor() != Some("ticker"), "on purpose");
        system_clock()
    }
    assert_ends_the_process("a_panic_in_the_ticker_names_it", "ticker", async || {
        let mut config = config();
        config.mqtt.url = Some("mqtt://127.0.0.1:1".parse().expect("a URL"));
        App::build(config).clock(broken).start().await.expect("it starts");
    });
}

#[test]
fn a_panic_in_a_custom_sink_names_it() {
    struct Broken;
    impl Actor for Broken {
        type Context = Context<Self>;
    }
    impl Handler<DevicesOffline> for Broken {
        type Result = Result<(), AlertError>;
        fn handle(&mut self, _: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
            panic!("on purpose")
        }
    }
    assert_ends_the_process("a_panic_in_a_custom_sink_names_it", "pager", async || {
        use heartbeatd::domain::{Coverage, Cutoff, Cutoffs, Heartbeat};
        use heartbeatd::store::{DeviceStore, Grounds, OpenMode, RecordingRules, StaleFrom};
        let url = config().database.url;
        let store = DeviceStore::open(url.reveal(), OpenMode::Create).await.expect("it opens");
        let id = "pump".parse().expect("an id");
        let heartbeat = Heartbeat::parse(id, b"", system_clock().wall);
        let rules = RecordingRules {
            auto_register: true,
            room: 1,
            registrations: 1,
            max_clock_skew: Default::default(),
        };
        store.update_last_seen(&[heartbeat], rules, &Default::default()).await.expect("it writes");
        // Leaves an outbox as of an earlier run, which the first check delivers.
        let timeout = std::time::Duration::from_secs(180);
        let default = Cutoff { timeout, instant: Some(DateTime::<Utc>::MAX_UTC) };
        let cutoffs = Cutoffs { default, own: vec![] };
        let from = StaleFrom::default();
        let stale = store.get_stale_devices(&cutoffs, &from, 10).await.expect("it reads").devices;
        let coverage = Coverage::new(timeout);
        let grounds = Grounds { cutoffs: &cutoffs, coverage: &coverage, instance: "heartbeatd" };
        store.mark_devices_offline(&stale, grounds, system_clock().wall).await.expect("it writes");
        let sink = on_own_thread("pager", || Broken);
        App::build(config()).alert_sink(sink.recipient()).start().await.expect("it starts");
    });
}
