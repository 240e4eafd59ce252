//! Stops the actors in the order in which nothing is lost.

use std::time::Duration;

use actix::prelude::*;
use futures::future::join;
use log::warn;
use tokio::time::{Instant, sleep, timeout_at};

use crate::actors::courier::{self, Courier};
use crate::actors::device_registry::{DeviceRegistry, Flush, RegistryHealth, ReportHealth};
use crate::actors::mqtt_ingest::{Disconnect, MqttIngest};
use crate::actors::ticker::{self, Ticker};
use crate::app::AppError;
use crate::store::StoreError;

/// The actors that have to stop in order.
pub struct Draining {
    /// Stops first, so that no further check begins.
    pub ticker: Addr<Ticker>,
    /// Lets the delivery under way finish.
    pub courier: Addr<Courier>,
    /// Hands over what it has received.
    pub ingest: Addr<MqttIngest>,
    /// Writes what was handed over.
    pub registry: Addr<DeviceRegistry>,
}

impl Draining {
    /// Stops checking and listening, lets the delivery under way finish and writes what
    /// was received, with a pause of `again` after each failed attempt.
    ///
    /// # Errors
    ///
    /// If what was received could not be written before `deadline`.
    pub async fn run(self, deadline: Instant, again: Duration) -> Result<(), AppError> {
        let ended = |stopped| match stopped {
            // An actor that is already gone has stopped too.
            Ok(()) | Err(MailboxError::Closed) => Ok(()),
            Err(timeout) => Err(AppError::Mailbox(timeout)),
        };
        ended(self.ticker.send(ticker::Stop).await)?;
        // The sink may finish its delivery while the rest is written.
        let delivery = timeout_at(deadline, self.courier.send(courier::Stop));
        let writing = async {
            self.ingest.send(Disconnect).await?;
            write_what_is_left(&self.registry, deadline, again).await
        };
        let (delivered, written) = join(delivery, writing).await;
        match delivered {
            Ok(stopped) => ended(stopped)?,
            Err(_elapsed) => warn!(
                target: "heartbeatd",
                "the alert sink did not reply to its last delivery, which will be repeated"
            ),
        }
        written
    }
}

/// Writes the buffer, and retries if the database refuses it.
async fn write_what_is_left(
    registry: &Addr<DeviceRegistry>,
    deadline: Instant,
    again: Duration,
) -> Result<(), AppError> {
    let mut why = "no answer from the database".to_owned();
    loop {
        match timeout_at(deadline, registry.send(Flush)).await {
            Ok(flushed) => match flushed? {
                Ok(()) => return Ok(()),
                // Waiting would not change this.
                Err(error @ (StoreError::TakenOver { .. } | StoreError::FileReplaced { .. })) => {
                    return Err(error.into());
                }
                Err(error) => why = error.to_string(),
            },
            Err(_elapsed) => {
                let RegistryHealth { pending: heartbeats, database, .. } =
                    registry.send(ReportHealth).await?;
                return Err(AppError::NotWritten {
                    heartbeats,
                    why: database.err().unwrap_or(why),
                });
            }
        }
        sleep(again).await;
    }
}
