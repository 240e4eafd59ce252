//! The pictures in docs/images: a real service and a real browser, and devices whose past is made
//! up. Each view is there by day and by night, on a desk and on a telephone.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::browser::{Browser, Light};
use crate::support::database::TestDatabase;
use crate::support::service::{Place, Service};
use heartbeatd::clock::system_clock;

mod beats;
pub mod large;
mod long;
pub mod past;
mod several;
mod small;
mod trouble;

const DESK: u32 = 1280;
const PHONE: u32 = 360;

/// The lights and the widths in which each view is shown, and the end of the picture's name.
const LOOKS: [(Light, u32, &str); 4] = [
    (Light::Light, DESK, ""),
    (Light::Dark, DESK, "-dark"),
    (Light::Light, PHONE, "-phone"),
    (Light::Dark, PHONE, "-phone-dark"),
];

/// A view of the page.
struct View<'a> {
    /// The beginning of the pictures' names.
    name: &'a str,
    path: &'a str,
    /// The selector of the link that leads on from there to the view, if it is not there itself.
    link: Option<&'a str>,
    /// The selector of what the page shows once it has its answers.
    shows: &'a str,
}

impl<'a> View<'a> {
    fn at(path: &'a str, name: &'a str, shows: &'a str) -> Self {
        Self { name, path, link: None, shows }
    }
}

/// True once everything is drawn: the letters, each bar and the chart.
const DRAWN: &str = "document.fonts.status === 'loaded' \
    && [...document.querySelectorAll('.bar')].every((bar) => bar.firstElementChild) \
    && [...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('canvas'))";

/// Keeps pictures of views of a service that listens.
fn take(service: &Service, views: &[View<'_>]) {
    take_in(service, "listening", views);
}

/// Keeps pictures of views of a service in a state.
fn take_in(service: &Service, state: &str, views: &[View<'_>]) {
    for (light, width, end) in LOOKS {
        let browser = Browser::with(light, width);
        for view in views {
            browser.open(&format!("http://{}{}", service.http_address(), view.path));
            browser.await_state(state);
            if let Some(link) = view.link {
                browser.await_value(&is_there(link), &true.into());
                // No click, which would leave a pointer there.
                let address =
                    browser.value(&format!("document.querySelector({}).href", json!(link)));
                browser.open(address.as_str().expect("a link"));
            }
            keep(&browser, view, end);
        }
    }
}

/// Keeps a picture of what a browser shows, once it shows all of the view.
fn keep(browser: &Browser, view: &View<'_>, end: &str) {
    browser.await_value(&is_there(view.shows), &true.into());
    browser.await_value(DRAWN, &true.into());
    let picture = folder().join(format!("{}{end}.png", view.name));
    std::fs::write(picture, browser.screenshot()).expect("the picture is written");
}

/// The expression that is true if an element is there.
fn is_there(selector: &str) -> String {
    format!("document.querySelector({}) !== null", json!(selector))
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Starts a service on a database to which SQL has given a past.
fn start_with(place: &Place, database: &TestDatabase, past: impl Fn(i64) -> String) -> Service {
    let mut service = place.start();
    service.await_listening();
    service.signal("TERM");
    service.await_exit();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(database.execute(&past(system_clock().wall.timestamp_millis())));
    let service = place.start();
    service.await_listening();
    service
}

/// The same with the file that a place has.
pub fn start(place: &Place, past: impl Fn(i64) -> String) -> Service {
    let file = TestDatabase::at(&place.path().join("heartbeatd.db"));
    start_with(place, &file, past)
}

/// A service as it is by default.
fn place() -> Place {
    Place::new()
        .with("HEARTBEAT__TIMEOUT", "3m")
        .with("HEARTBEAT__CHECK_INTERVAL", "1m")
        .with("MQTT__ECHO_INTERVAL", "2s")
}
