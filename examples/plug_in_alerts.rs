//! A custom alert sink: an actor that handles `DevicesOffline`.
//!
//! This one prints a line for each device that went offline or came back; yours would call a
//! pager. Run `cargo run --example plug_in_alerts`, send heartbeats, then stop sending them.

use std::collections::HashSet;

use actix::prelude::*;
use heartbeatd::actors::alert_sink::{AlertError, DevicesOffline, DevicesRecovered};
use heartbeatd::actors::on_own_thread;
use heartbeatd::domain::IdempotencyKey;
use heartbeatd::{App, Config};

/// The sink. It remembers the keys of what it has handled, because it may get a transition twice.
/// Yours may pass the key on to a pager that remembers it.
#[derive(Default)]
struct Pager(HashSet<IdempotencyKey>);

impl Actor for Pager {
    type Context = Context<Self>;
}

impl Handler<DevicesOffline> for Pager {
    type Result = Result<(), AlertError>;

    fn handle(&mut self, offline: DevicesOffline, _: &mut Context<Self>) -> Self::Result {
        for transition in offline.transitions {
            if self.0.insert(transition.key()) {
                println!("page somebody: {} is offline", transition.device_id);
            }
        }
        // After an error the transitions would be delivered again.
        Ok(())
    }
}

impl Handler<DevicesRecovered> for Pager {
    type Result = Result<(), AlertError>;

    fn handle(&mut self, recovered: DevicesRecovered, _: &mut Context<Self>) -> Self::Result {
        for recovery in recovered.recoveries {
            println!("stand down: {} is back", recovery.device_id);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    heartbeatd::cli::init_logger();
    heartbeatd::panics::end_the_process();
    let config = Config::load(None)?;
    actix_rt::System::new().block_on(async {
        let pager = on_own_thread("pager", Pager::default);
        let app = App::build(config).alert_sink(pager.clone().recipient());
        let app = app.recovery_sink(pager.recipient()).start().await?;
        actix_rt::signal::ctrl_c().await?;
        app.drain().await?;
        Ok(())
    })
}
