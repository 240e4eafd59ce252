//! A real browser, headless, driven over WebDriver.

use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::service::Service;
use publishers::Devices;
use servers::process::{Running, free_port, program};
use servers::{POLL, eventually};

/// One browser at a time: each takes two processors for itself.
static TURN: Mutex<()> = Mutex::new(());

/// The number of devices that are online, on the first screen.
pub const ONLINE: &str = ".count.online .n";

/// The sentence that says whether the service may be believed, and how the fleet is.
pub const SENTENCE: &str = ".banner .sentence";

/// The time within which a page shows what has changed, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The light in which pages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    Light,
    Dark,
}

/// The names of devices.
pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A browser with one window.
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    _driver: Running,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser with a window of 1280 by 1110 pixels.
    pub fn start() -> Self {
        Self::with(Light::Light, 1280)
    }

    /// Starts a browser with a window of this width, in pixels.
    pub fn with(light: Light, width: u32) -> Self {
        let turn = TURN.lock();
        let port = free_port();
        let driver =
            Command::new(program("chromedriver", "chromium-driver", &["/usr/lib/chromium"]))
                .arg(format!("--port={port}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("chromedriver starts");
        let driver = Running(driver);
        // A browser that root starts has no sandbox to go into.
        let scheme = if light == Light::Dark { 0 } else { 1 };
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={},1110", width.max(500)),
            format!("--blink-settings=preferredColorScheme={scheme}"),
        ];
        let mut options = json!({ "args": arguments });
        if width < 500 {
            // No window is that narrow, but a telephone is.
            let metrics = json!({ "width": width, "height": 900, "pixelRatio": 1.5 });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let capabilities = json!({ "goog:chromeOptions": options });
        let capabilities = capabilities.as_object().expect("an object").clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let url = format!("http://127.0.0.1:{port}");
        eventually("chromedriver listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities).connect(&url).await
        });
        let client = Some(client.expect("chromium starts"));
        Self { runtime, client, _driver: driver, _turn: turn }
    }

    fn run<T, E: std::fmt::Debug>(&self, future: impl Future<Output = Result<T, E>>) -> T {
        self.runtime.block_on(future).expect("the browser answers")
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the end")
    }

    pub fn open(&self, url: &str) {
        self.run(self.client().goto(url));
    }

    /// Opens a path of the page of a service.
    pub fn open_page(&self, service: &Service, path: &str) {
        self.open(&format!("http://{}{path}", service.http_address()));
    }

    /// Opens the first screen of a service to which two devices publish at a port, *a* and *b*, and
    /// waits until it shows them.
    #[track_caller]
    pub fn open_with_two_devices(&self, service: &Service, port: u16) -> Devices {
        let devices = Devices::live(port, names(&["a", "b"]));
        self.open_page(service, "/");
        self.await_text(ONLINE, |text| text == "2");
        devices
    }

    pub fn url(&self) -> String {
        self.run(self.client().current_url()).to_string()
    }

    pub fn title(&self) -> String {
        self.run(self.client().title())
    }

    pub fn back(&self) {
        self.run(self.client().back());
    }

    /// Opens a further tab, and goes to it.
    pub fn new_tab(&self) {
        let window = self.run(self.client().new_window(true));
        self.run(self.client().switch_to_window(window.handle));
    }

    /// Closes the tab, and goes to the first one.
    pub fn close_tab(&self) {
        self.run(self.client().close_window());
        let windows = self.run(self.client().windows());
        let first = windows.into_iter().next().expect("another tab");
        self.run(self.client().switch_to_window(first));
    }

    /// The value of an expression.
    pub fn value(&self, expression: &str) -> Value {
        self.run(self.client().execute(&format!("return {expression}"), Vec::new()))
    }

    /// The text that an element shows; empty if it is not there.
    pub fn text(&self, selector: &str) -> String {
        let text = format!("document.querySelector({})?.innerText ?? ''", json!(selector));
        self.value(&text).as_str().unwrap_or_default().trim().to_owned()
    }

    /// Waits until an element shows a text that is as wanted, and returns it.
    #[track_caller]
    pub fn await_text(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait(selector, || {
            let text = self.text(selector);
            if wanted(&text) { Ok(text) } else { Err(text) }
        })
    }

    /// Waits until an expression has a value.
    #[track_caller]
    pub fn await_value(&self, expression: &str, wanted: &Value) {
        self.wait(expression, || {
            let value = self.value(expression);
            if value == *wanted { Ok(()) } else { Err(value.to_string()) }
        });
    }

    /// Waits until the page is in a state, as the `data-state` of its root says.
    #[track_caller]
    pub fn await_state(&self, state: &str) {
        self.await_value("document.documentElement.dataset.state", &state.into());
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match look() {
                Ok(found) => return found,
                Err(seen) => {
                    let late = std::time::Instant::now() > deadline;
                    assert!(
                        !late,
                        "{what} is still {seen:?} on {}:\n{}",
                        self.url(),
                        self.text("body")
                    );
                }
            }
            std::thread::park_timeout(POLL);
        }
    }

    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.run(self.client().find(Locator::Css(selector)));
        self.run(element.click());
    }

    /// Types keys, wherever the focus is.
    pub fn press(&self, keys: &str) {
        let mut actions = KeyActions::new("keys".into());
        for value in keys.chars() {
            actions = actions.then(KeyAction::Down { value }).then(KeyAction::Up { value });
        }
        self.run(self.client().perform_actions(actions));
    }

    /// A picture of the window, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        self.run(self.client().screenshot())
    }

    /// The barriers for people with disabilities that axe-core finds serious or critical.
    pub fn barriers(&self) -> Vec<String> {
        let file = axe();
        let axe = std::fs::read_to_string(&file).unwrap_or_else(|error| {
            panic!("{}: {error}; scripts/test.sh brings it", file.display())
        });
        self.run(self.client().execute(&axe, Vec::new()));
        let ask = "const done = arguments[0];\
            axe.run().then(({ violations }) => done(violations\
              .filter(({ impact }) => ['serious', 'critical'].includes(impact))\
              .map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`)));";
        let found = self.run(self.client().execute_async(ask, Vec::new()));
        serde_json::from_value(found).expect("texts")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver would not end its browser when it is killed.
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(client.close());
        }
    }
}

/// The file of axe-core. It is not part of the repository: scripts/test.sh brings it.
fn axe() -> PathBuf {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_heartbeatd"));
    let target = binary.ancestors().nth(2).expect("target/debug/heartbeatd");
    target.join("tools/axe.min.js")
}
