//! The stays of listeners.

use sea_orm::entity::prelude::*;

/// One row per stay: from its beginning, before anything is subscribed to, until the listener
/// left or was taken for gone.
#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "listener")]
pub struct Model {
    /// The number of the listener, which grows and is never reused.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The instance's `mqtt.client_id`.
    pub instance: String,
    /// A random number of the process, so that two of one name are told apart. 0 for what was
    /// there before there were listeners.
    pub incarnation: i64,
    /// The group that shares the heartbeats; `None` if it hears all of them.
    pub share_group: Option<String>,
    /// The timeline of the database when it joined; empty if the database has none.
    pub timeline: String,
    /// The beginning of the stay.
    pub joined_at: ChronoUnixTimestampMillis,
    /// Its end; `None` while it may be listening.
    pub left_at: Option<ChronoUnixTimestampMillis>,
    /// The way it ended: `left`; `fenced` by another instance; `restarted` or `reconnected`, by the
    /// next process of this name or the next connection of this one; `taken_over` by a service
    /// alone; `refused` by the broker; `forgotten` by the database; `removed` by hand.
    pub left_how: Option<String>,
    /// The instance that took over from it.
    pub fenced_by: Option<String>,
    /// The number of its flushes and looks at the others.
    pub saves: i64,
    /// The newest instant that it has proven; of the active one, in the database.
    pub proven_until: Option<ChronoUnixTimestampMillis>,
    /// Its clock minus the database's.
    pub clock_offset_ms: i64,
    /// The most by which that has changed during the stay.
    pub clock_spread_ms: i64,
    /// The topic of heartbeats that it listens to; `None` in rows of earlier versions, as in the
    /// columns that follow.
    pub topic: Option<String>,
    /// The broker; `None` also for the embedded one.
    pub broker: Option<String>,
    /// The nodes of a cluster at which devices connect, in order, with a space between two.
    pub entry_urls: Option<String>,
    /// The default timeout of devices.
    pub timeout_ms: Option<i64>,
    /// The time between two checks.
    pub check_interval_ms: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
