//! `/summary`: if the service may be believed, and how the fleet is. From memory, so it answers
//! while the database is away.

use super::{Answer, Context};
use crate::board::Snapshot;
use crate::domain::{ServiceState, Status};
use crate::views::{Burst, ClockStepView, Counts, Health, State, Summary, SummaryView};

/// The maximum number of bursts that are listed.
const BURSTS: usize = 10;

pub(super) fn show(context: &Context) -> Answer {
    Answer::ok(&view(context))
}

pub(super) fn view(context: &Context) -> SummaryView {
    let now = (context.clock)();
    let snapshot = context.board.snapshot(now);
    let count = |status| snapshot.counts.get(&status).copied().unwrap_or_default();
    let devices = Counts {
        provisioning: count(Status::Provisioning),
        online: count(Status::Online),
        offline: count(Status::Offline),
        error: count(Status::Error),
    };
    let state = state(snapshot.told.state);
    let ready_in = snapshot.ready_in.filter(|_| state == State::Warming);
    SummaryView::from(Summary {
        state,
        since: snapshot.told.since,
        as_of: snapshot.as_of,
        now: now.wall,
        started_at: context.started_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: context.settings.instance().to_owned(),
        devices,
        total: devices.total(),
        late: snapshot.late,
        heartbeats_per_second: (snapshot.heartbeats_per_second * 10.0).round() / 10.0,
        pending_heartbeats: snapshot.pending_heartbeats as u64,
        undelivered_alerts: snapshot.undelivered_alerts,
        bursts: bursts(&snapshot),
        timeout_seconds: context.settings.timeout().as_secs_f64(),
        check_interval_seconds: context.check_interval.as_secs_f64(),
        ready_in_seconds: ready_in.map(|time| time.as_secs_f64()),
        broker: broker(&snapshot),
        database: Health {
            ok: snapshot.database.is_ok(),
            error: snapshot.database.as_ref().err().cloned(),
        },
        clock_step: snapshot.clock_step.map(|step| ClockStepView {
            at: step.at,
            by_seconds: step.by.num_milliseconds() as f64 / 1000.0,
        }),
        fleet_silent_seconds: snapshot.fleet_silent.map(|time| time.as_secs_f64()),
        detail: snapshot.told.detail,
    })
}

fn state(state: ServiceState) -> State {
    match state {
        ServiceState::Database => State::Database,
        ServiceState::Disconnected => State::Disconnected,
        ServiceState::Unproven => State::Unproven,
        ServiceState::Shedding => State::Shedding,
        ServiceState::FleetSilent => State::FleetSilent,
        ServiceState::Warming => State::Warming,
        ServiceState::Listening => State::Listening,
    }
}

fn bursts(snapshot: &Snapshot) -> Vec<Burst> {
    let shown = snapshot.bursts.iter().take(BURSTS);
    shown
        .map(|burst| Burst {
            found_at: burst.found_at,
            devices: burst.devices,
            since: burst.silent_since,
        })
        .collect()
}

fn broker(snapshot: &Snapshot) -> Health {
    match &snapshot.broker {
        Ok(()) => Health { ok: true, error: None },
        Err(why) => Health { ok: false, error: why.clone() },
    }
}
