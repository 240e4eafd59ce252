//! `/healthz` tells if the process is alive, `/readyz` if it does its work.
//!
//! Both ask the actors instead of reading flags, because an answer proves that their event
//! loops run.

use actix::prelude::*;
use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;

use super::{ANSWER_TIMEOUT, State};
use crate::actors::device_registry::ReportHealth;
use crate::actors::mqtt_ingest::{Listening, ReportListening};
use crate::board::FleetSilence;

/// Answers 200 if the registry and the ingest answer, and 503 if one of them is stuck, which
/// is a reason to restart the process. A missing broker or database is not.
pub(super) async fn healthz(state: Data<State>) -> HttpResponse {
    let registry = state.registry.send(ReportHealth).timeout(ANSWER_TIMEOUT);
    let ingest = state.ingest.send(ReportListening).timeout(ANSWER_TIMEOUT);
    match futures::join!(registry, ingest) {
        (Ok(_), Ok(_)) => HttpResponse::Ok().body("ok\n"),
        (Err(error), _) => stuck("device_registry", &error),
        (_, Err(error)) => stuck("mqtt_ingest", &error),
    }
}

fn stuck(actor: &str, error: &MailboxError) -> HttpResponse {
    HttpResponse::ServiceUnavailable().body(format!("{actor} does not answer: {error}\n"))
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    broker: &'static str,
    database: String,
    checks: String,
    fleet: String,
}

/// Answers 200 if heartbeats provably arrive and can be written and silent devices are
/// found, and otherwise 503. The body says why.
pub(super) async fn readyz(state: Data<State>) -> HttpResponse {
    let registry = state.registry.send(ReportHealth).timeout(ANSWER_TIMEOUT);
    let ingest = state.ingest.send(ReportListening).timeout(ANSWER_TIMEOUT);
    let (health, listening) = futures::join!(registry, ingest);
    let broker = match listening {
        Ok(Listening::Subscribed) => "subscribed",
        Ok(Listening::Unproven) => "subscribed, but no echo comes back",
        Ok(Listening::LacksEntry) => {
            "connected, but no echo comes back through a node of mqtt.entry_urls"
        }
        Ok(Listening::Incomplete) => {
            "subscribed, but not everybody is heard: messages are thrown away, or devices kept out"
        }
        Ok(Listening::Connected) => "connected, not subscribed",
        Ok(Listening::Disconnected) => "disconnected",
        Err(_) => "unknown: mqtt_ingest does not answer",
    };
    let (database, checks, silent) = match health {
        Ok(health) => (health.database, health.checks, health.fleet_silent),
        Err(error) => {
            let unknown = format!("unknown: device_registry does not answer: {error}");
            (Err(unknown.clone()), Err(unknown), None)
        }
    };
    let ready = broker == "subscribed" && database.is_ok() && checks.is_ok();
    let said = |state: Result<(), String>| state.map_or_else(|why| why, |()| "ok".to_owned());
    let (database, checks) = (said(database), said(checks));
    // The fleet itself may be dead, so the service is still ready.
    let fleet = silent.map_or("ok".to_owned(), |FleetSilence { lasts, advice }| {
        let lasts = crate::duration::human(lasts);
        format!("no device has been heard for {lasts} although echoes come back: {advice}")
    });
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(Readiness { ready, broker, database, checks, fleet })
}
