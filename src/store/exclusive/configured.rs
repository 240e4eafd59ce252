//! The configuration of instances as their rows of table `listener` have it, and the decision
//! whether one may take part.
//!
//! Instances on one database have to listen to the same: what one of them has proven counts for all
//! devices, also for those that it never hears. So one that listens to something else than another
//! one does not join, whichever of them is wrong.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};

use super::delta;
use super::listener::{COLUMNS, Listener, Member, read_listener};
use crate::domain::{Configured, Difference, Subscription};
use crate::duration::human;
use crate::store::{DeviceStore, millis};

/// The columns of a configuration.
pub(super) const CONFIGURED: &str = "topic, broker, entry_urls, timeout_ms, check_interval_ms";

/// The key of the advisory lock by which instances join one after the other on PostgreSQL, so that
/// none overlooks another: "listener" in ASCII.
const JOINING_LOCK: i64 = i64::from_be_bytes(*b"listener");

/// Another instance that listens to something else, so that this one does not take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The other instance, by its `mqtt.client_id`.
    pub instance: String,
    /// The number of its stay.
    pub listener: i64,
    /// The difference.
    pub difference: Difference,
    /// For one that has left lately.
    pub left: Option<LeftLately>,
}

/// An instance that has left, and may be back in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftLately {
    /// The time since it left.
    pub ago: Duration,
    /// The time after which it counts as gone.
    pub gone_in: Duration,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, listener, difference: Difference { key, here, there }, left } = self;
        write!(
            f,
            "this instance does not take part: its {key} is {here}, that of {instance:?} on the same \
             database is {there}, and what one of them hears would count for devices that it never \
             hears; give both the same {key}, or each a database of its own; "
        )?;
        match left {
            None => write!(
                f,
                "to change it for all, stop those that have the old value; if {instance:?} is gone \
                 for good: heartbeatd group remove {listener}"
            ),
            Some(LeftLately { ago, gone_in }) => write!(
                f,
                "{instance:?} left {} ago, and if nothing with the old value comes back, this one \
                 takes part in {}",
                human(*ago),
                human(*gone_in)
            ),
        }
    }
}

impl Member {
    /// The values of the columns [`CONFIGURED`].
    pub(super) fn configured(&self) -> [Value; 5] {
        let configured = self.configured.as_ref();
        let subscription = configured.map(|configured| &configured.subscription);
        let in_millis =
            |time: Option<chrono::TimeDelta>| Value::from(time.map(|t| t.num_milliseconds()));
        [
            subscription.map(|subscription| subscription.topic.as_str()).into(),
            subscription.and_then(|subscription| subscription.broker.as_deref()).into(),
            subscription.map(|subscription| subscription.entry_urls.join(" ")).into(),
            in_millis(configured.map(|configured| configured.timeout)),
            in_millis(configured.map(|configured| configured.check_interval)),
        ]
    }
}

/// The subscription in a row; `None` if it is of an earlier version.
pub(in crate::store) fn read_subscription(
    row: &QueryResult,
) -> Result<Option<Subscription>, DbErr> {
    let Some(topic) = row.try_get::<Option<String>>("", "topic")? else { return Ok(None) };
    let entry_urls = row.try_get::<Option<String>>("", "entry_urls")?.unwrap_or_default();
    let entry_urls = entry_urls.split_whitespace().map(str::to_owned).collect();
    Ok(Some(Subscription { topic, broker: row.try_get("", "broker")?, entry_urls }))
}

pub(super) fn read_configured(row: &QueryResult) -> Result<Option<Configured>, DbErr> {
    let Some(subscription) = read_subscription(row)? else { return Ok(None) };
    let time = |column| row.try_get::<Option<i64>>("", column).map(Option::unwrap_or_default);
    let (timeout, check_interval) = (time("timeout_ms")?, time("check_interval_ms")?);
    let (timeout, check_interval) = (delta(timeout), delta(check_interval));
    Ok(Some(Configured { subscription, timeout, check_interval }))
}

impl DeviceStore {
    /// Waits for its turn to join, which lasts until the transaction ends, and looks for another
    /// instance that listens to something else. What counts of each is its newest stay, if that
    /// lasts or ended less than the timeout ago: an instance that is started again comes back, and
    /// must find its place as it was. Somebody who has removed it knows that it does not.
    pub(super) async fn clash(
        &self,
        transaction: &DatabaseTransaction,
        member: &Member,
        now: DateTime<Utc>,
    ) -> Result<Option<Clash>, DbErr> {
        let Some(own) = &member.configured else { return Ok(None) };
        if self.backend() == DbBackend::Postgres {
            let lock = format!("SELECT pg_advisory_xact_lock({JOINING_LOCK})");
            transaction.execute_unprepared(&lock).await?;
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM listener LEFT JOIN instance ON instance.id = 1 \
             WHERE listener.instance <> $1 AND (left_at IS NULL \
                 OR (left_at BETWEEN $2 AND $3 AND coalesce(left_how, '') <> 'removed')) \
             AND listener.id = (SELECT max(newest.id) FROM listener AS newest \
                 WHERE newest.instance = listener.instance) \
             ORDER BY listener.id"
        );
        let span = |by| Value::from(millis(by));
        let earliest = now.checked_sub_signed(own.timeout).unwrap_or(DateTime::<Utc>::MIN_UTC);
        // One that has left in the future has a clock that says nothing.
        let latest = now.checked_add_signed(own.timeout).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let values = [member.instance.as_str().into(), span(earliest), span(latest)];
        let rows = self.select(transaction, &sql, values).await?;
        let others = rows.iter().map(read_listener).collect::<Result<Vec<_>, DbErr>>()?;
        let clashes = others.into_iter().filter_map(|other| Clash::between(own, other, now));
        // One that has not left stays in the way for longer.
        Ok(clashes.min_by_key(|clash| clash.left.map(|left| std::cmp::Reverse(left.gone_in))))
    }
}

impl Clash {
    fn between(own: &Configured, other: Listener, now: DateTime<Utc>) -> Option<Self> {
        let theirs = other.peer.configured?;
        let difference = own.subscription.differs_from(&theirs.subscription)?;
        let left = other.left_at.map(|left_at| LeftLately {
            ago: (now - left_at).to_std().unwrap_or_default(),
            gone_in: (left_at + own.timeout - now).to_std().unwrap_or_default(),
        });
        Some(Self { instance: other.peer.instance, listener: other.peer.id, difference, left })
    }
}
