//! The page on a telephone, with the largest numbers and with ids, names and texts that are as long
//! as they may be and have nowhere to end a line.

use serde_json::json;

use crate::pictures::large::MILLION;
use crate::pictures::past::{self, DAY, HOUR, MINUTE, Outage};
use crate::pictures::start;
use crate::support::browser::{Browser, Light};

/// The ends of the lines that are outside of the window, or of the box that cuts them.
const OUTSIDE: &str = "((wide) => [...document.querySelectorAll('body *')].filter((one) => { \
    const { right, width } = one.getBoundingClientRect(); \
    const cut = one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1; \
    const shown = width > 0 && !one.closest('.unseen, .skip, .chart, input'); \
    return shown && (right > wide + 0.5 || cut); \
    }).map((one) => one.outerHTML.slice(0, 120)))";

/// The counts that reach into the next one.
const OVERLAPPING: &str = "[...document.querySelectorAll('.count > *')].filter((one) => \
    one.getBoundingClientRect().right > one.parentElement.getBoundingClientRect().right + 0.5\
    ).map((one) => one.parentElement.innerText)";

/// The SQL of a past with the largest numbers, and with the longest texts for the device `id`.
fn long_past(now: i64, id: &str) -> String {
    let mut sql = MILLION.past(now);
    past::device(&mut sql, now, id, now, 7);
    let timeout = MILLION.timeout();
    for (days, hours) in [(80, 1_000), (30, 400)] {
        let (at, blind) = (now - days * DAY, 23 * MINUTE);
        Outage { id, at, timeout, blind, ended: Some(at + hours * HOUR) }.add(&mut sql);
    }
    let at = now - 10 * HOUR + 35 * MINUTE;
    Outage { id, at, timeout, blind: 23 * MINUTE, ended: None }.add(&mut sql);
    let (error, payload_error) = ("E".repeat(1024), "P".repeat(256));
    sql += &format!(
        "UPDATE device SET error = '{error}', payload_error = '{payload_error}', \
         timeout_seconds = 315360000, clock_skew_ms = -86399000 * 9999, \
         uptime_seconds = 9007199254740991, free_memory = 9007199254740991 WHERE id = '{id}';"
    );
    let gaps = [(10 * HOUR, 23 * MINUTE, "disconnected"), (5 * HOUR, 4 * MINUTE, "no_echo")];
    past::stay(&mut sql, now, &"i".repeat(64), None, &gaps);
    sql
}

#[test]
fn on_a_telephone_nothing_is_outside_of_the_window_or_cut() {
    let id = "W".repeat(128);
    let place = MILLION.place().with("MQTT__CLIENT_ID", &"n".repeat(64));
    let service = start(&place, |now| long_past(now, &id));
    let device = format!("/devices/{id}");
    let views = [
        ("/", ".chart canvas"),
        ("/devices?status=offline&status=error", "tbody td"),
        (&format!("/devices?q={}", "W".repeat(127)), "tbody td"),
        (&device, ".plain tbody"),
        (&format!("{device}?at=2000-01-01"), "main"),
        (&format!("/devices/{}", "w".repeat(128)), ".empty"),
        ("/listening", "#listeners"),
        ("/missing", ".empty"),
    ];
    for width in [360, 700] {
        let browser = Browser::with(Light::Light, width);
        for (path, whole) in views {
            browser.open(&format!("http://{}{path}", service.http_address()));
            browser.await_state("listening");
            let there = format!("document.querySelector({}) !== null", json!(whole));
            browser.await_value(&there, &true.into());
            let outside = browser.value(&format!("{OUTSIDE}({width})"));
            assert_eq!(outside, json!([]), "{path} at {width}");
            assert_eq!(browser.value(OVERLAPPING), json!([]), "{path} at {width}");
        }
    }
}
