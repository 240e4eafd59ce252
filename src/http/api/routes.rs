//! All paths of the API, with what each needs and takes. The router, the check of parameters
//! and the OpenAPI document read this one table.

use super::access::Need;
use super::parameters::{Parameter, Takes};

/// Something that the API does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Summary,
    Devices,
    Device,
    Timeline,
    Listening,
    Fleet,
    Events,
    EventStream,
    Register,
    Change,
    Remove,
    Transitions,
    Outages,
    WhoAmI,
    Login,
    Logout,
    OpenApi,
}

/// A method of a path.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) operation: Operation,
    pub(super) method: &'static str,
    /// Below `/api/v1`; a segment in braces is any text.
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    pub(super) needs: Need,
    /// The parameters of the query.
    pub(super) parameters: &'static [Parameter],
    /// The schema of the body, if it takes one.
    pub(super) body: Option<&'static str>,
    /// The schema of the answer, if it has one.
    pub(super) answer: Option<&'static str>,
}

const LIMIT: Parameter = Parameter {
    name: "limit",
    takes: Takes::Number { least: 1, most: 1000, default: 100 },
    about: "The maximum number of items",
};

const CURSOR: Parameter = Parameter {
    name: "cursor",
    takes: Takes::Cursor,
    about: "The `next` of an earlier answer; the other parameters have to be the same",
};

const FROM: Parameter = Parameter {
    name: "from",
    takes: Takes::Time,
    about: "The beginning: only what happened at this time or later",
};

const TO: Parameter = Parameter {
    name: "to",
    takes: Takes::Time,
    about: "The end of the window, by default now; it begins at `from`, by default a day before. \
            It is at most as long as history.retention, or a month",
};

const BUCKETS: Parameter = Parameter {
    name: "buckets",
    takes: Takes::Number { least: 1, most: 400, default: 96 },
    about: "The maximum number of parts of the window",
};

const UNTIL: Parameter =
    Parameter { name: "until", takes: Takes::Time, about: "Only what happened before this time" };

const fn get(
    operation: Operation,
    path: &'static str,
    about: &'static str,
    parameters: &'static [Parameter],
    answer: &'static str,
) -> Route {
    let (method, needs, body) = ("GET", Need::Read, None);
    Route { operation, method, path, about, needs, parameters, body, answer: Some(answer) }
}

const fn write(
    operation: Operation,
    method: &'static str,
    path: &'static str,
    about: &'static str,
    body: Option<&'static str>,
    answer: &'static str,
) -> Route {
    let (needs, parameters) = (Need::Operate, &[]);
    Route { operation, method, path, about, needs, parameters, body, answer: Some(answer) }
}

/// A route that anybody may ask.
const fn anybody(route: Route) -> Route {
    Route { needs: Need::Nothing, ..route }
}

/// All routes.
pub(super) const ROUTES: &[Route] = &[
    get(
        Operation::Summary,
        "/summary",
        "If the service may be believed, and how the fleet is; also without the database",
        &[],
        "Summary",
    ),
    get(
        Operation::Devices,
        "/devices",
        "Devices in the order of their ids",
        &[
            Parameter {
                name: "status",
                takes: Takes::Statuses,
                about: "Only devices with this status; may be given several times",
            },
            Parameter {
                name: "late",
                takes: Takes::Flag,
                about: "Only late devices: more than two thirds of their timeouts were listened \
                        to since their last heartbeats; or only those that are not",
            },
            Parameter {
                name: "q",
                takes: Takes::Text(130),
                about: "Only devices whose ids begin with this. With `*` for any text at the \
                        beginning or in the middle it is a pattern for the whole id, in which `?` \
                        is any one character, and the search has a time limit",
            },
            LIMIT,
            CURSOR,
        ],
        "DevicePage",
    ),
    get(
        Operation::Device,
        "/devices/{id}",
        "A device, with the evidence for its status",
        &[Parameter {
            name: "at",
            takes: Takes::Time,
            about: "The device and the evidence as of this time, such as the `found_at` of an \
                    outage; null is what is not kept of it",
        }],
        "DeviceDetail",
    ),
    get(
        Operation::Timeline,
        "/devices/{id}/timeline",
        "How long a device was up, offline and in error, in milliseconds of each part of a \
         window",
        &[FROM, TO, BUCKETS],
        "Timeline",
    ),
    write(
        Operation::Register,
        "PUT",
        "/devices/{id}",
        "Registers a device, or sets the timeout of one that is registered",
        Some("DeviceChange"),
        "DeviceDetail",
    ),
    write(
        Operation::Change,
        "PATCH",
        "/devices/{id}",
        "Sets the timeout of a device",
        Some("DeviceChange"),
        "DeviceDetail",
    ),
    write(
        Operation::Remove,
        "DELETE",
        "/devices/{id}",
        "Removes a device; its history stays",
        None,
        "Removed",
    ),
    get(
        Operation::Transitions,
        "/transitions",
        "Status changes, the newest first",
        &[
            Parameter {
                name: "device",
                takes: Takes::DeviceId,
                about: "Only changes of this device",
            },
            Parameter { name: "to", takes: Takes::Status, about: "Only changes to this status" },
            FROM,
            UNTIL,
            LIMIT,
            CURSOR,
        ],
        "TransitionPage",
    ),
    get(
        Operation::Outages,
        "/outages",
        "Outages, the newest first",
        &[
            Parameter {
                name: "device",
                takes: Takes::DeviceId,
                about: "Only outages of this device",
            },
            Parameter {
                name: "open",
                takes: Takes::Flag,
                about: "Only outages that last, or only those that have ended",
            },
            Parameter {
                name: "found_at",
                takes: Takes::Time,
                about: "Only outages that the check of this time found",
            },
            Parameter {
                name: "silent_from",
                takes: Takes::Time,
                about: "Only outages whose silence began at this time or later",
            },
            Parameter {
                name: "silent_until",
                takes: Takes::Time,
                about: "Only outages whose silence began before this time",
            },
            FROM,
            UNTIL,
            LIMIT,
            CURSOR,
        ],
        "OutagePage",
    ),
    get(
        Operation::Listening,
        "/listening",
        "When the service was provably listening, and why it was not",
        &[FROM, TO],
        "Listening",
    ),
    get(
        Operation::Fleet,
        "/fleet",
        "The number of devices in each status over time",
        &[FROM, TO, BUCKETS],
        "Fleet",
    ),
    get(
        Operation::Events,
        "/events",
        "What has happened, in order",
        &[
            Parameter {
                name: "after",
                takes: Takes::Place,
                about: "The `id` of an event, or the `next` of an earlier answer; without it the \
                        answer is the place after the newest event",
            },
            LIMIT,
            Parameter {
                name: "wait",
                takes: Takes::Seconds(30),
                about: "The seconds to wait for an event if there is none",
            },
        ],
        "EventPage",
    ),
    Route {
        answer: None,
        ..get(
            Operation::EventStream,
            "/events/stream",
            "Events as they happen; continues after the header Last-Event-ID",
            &[Parameter {
                name: "summary",
                takes: Takes::Word(&["1s"]),
                about: "A summary every second instead of the events",
            }],
            "",
        )
    },
    anybody(get(Operation::WhoAmI, "/whoami", "What the request may do", &[], "WhoAmI")),
    anybody(write(
        Operation::Login,
        "POST",
        "/login",
        "Exchanges a token for a cookie",
        Some("Login"),
        "WhoAmI",
    )),
    anybody(write(Operation::Logout, "POST", "/logout", "Removes the cookie", None, "WhoAmI")),
    anybody(get(Operation::OpenApi, "/openapi.json", "This document", &[], "OpenApi")),
];

impl Route {
    /// True if the request may change something. It then needs to come from its own origin.
    pub(super) fn writes(&self) -> bool {
        self.method != "GET"
    }

    /// True if the request has a body.
    pub(super) fn takes_body(&self) -> bool {
        self.body.is_some()
    }
}

/// The routes of a path, one for each method, and the encoded text in place of `{id}`.
pub(super) fn at(path: &str) -> (impl Iterator<Item = &'static Route>, Option<&str>) {
    let matching = ROUTES.iter().filter(move |route| matches(route.path, path).is_some());
    let id = ROUTES.iter().find_map(|route| matches(route.path, path)).flatten();
    (matching, id)
}

/// `None` if the path is another one, else the text in place of the braces, if there are any.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<Option<&'p str>> {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    let mut id = None;
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return Some(id),
            (Some(pattern), Some(segment)) if pattern.starts_with('{') => id = Some(segment),
            (Some(pattern), Some(segment)) if pattern == segment => (),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> (Vec<&str>, Option<&str>) {
        let (routes, id) = at(path);
        (routes.map(|route| route.method).collect(), id)
    }

    #[test]
    fn a_path_leads_to_its_routes() {
        assert_eq!(found("/devices"), (vec!["GET"], None));
        let methods = vec!["GET", "PUT", "PATCH", "DELETE"];
        for id in ["pump-17", ".", "..", "a%2Fb", ""] {
            assert_eq!(found(&format!("/devices/{id}")), (methods.clone(), Some(id)));
        }
        for unknown in ["", "/", "/devices/", "/device", "/devices/a/b", "devices", "/SUMMARY"] {
            let (methods, _) = found(unknown);
            assert!(methods.is_empty() || unknown == "/devices/", "{unknown}: {methods:?}");
        }
    }
}
