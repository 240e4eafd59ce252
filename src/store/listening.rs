//! The listening intervals that listeners have proven, and that their successors continue
//! from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use entity::listening_interval::Model;
use futures::TryStreamExt;
use sea_orm::{
    DatabaseTransaction, DbBackend, DbErr, FromQueryResult, QueryResult, Statement, StreamTrait,
    Value,
};

use super::interference::Point;
use super::rows::{self, Columns, Type};
use super::values::at_most;
use super::{DeviceStore, Result, millis, time};
use crate::domain::coverage::{MAX_INTERVALS, MAX_WIDTH};
use crate::domain::{Change, ClockOffset, Entry, GapCause, Interval, Listened, Stay};

/// Matches the intervals of listener `$1`, and those of earlier ones of the same instance.
const OWN: &str = "(listener = $1 OR listener IN (SELECT other.id FROM listener AS own \
                   JOIN listener AS other ON other.instance = own.instance WHERE own.id = $1))";

/// The columns of a stay.
const STAY: &str = "listener.id, instance, share_group, share_group IS NOT NULL AS is_member, \
                    timeline, joined_at, left_at, left_how, clock_offset_ms, clock_spread_ms, \
                    topic, broker, entry_urls";

/// The ways to leave of which a stay's own instance has dated the end.
const BY_ITSELF: [&str; 4] = ["left", "refused", "restarted", "reconnected"];

const LISTENED: Columns =
    &[("started_at", Type::Integer), ("ended_at", Type::Integer), ("gap_cause", Type::Text)];

/// The changes to a listener's proofs since the last save.
#[derive(Clone, Debug, Default)]
pub struct Proven {
    /// The listener, by its number.
    pub listener: i64,
    /// The intervals that change; `None` if none does.
    pub change: Option<Change>,
    /// The instant after which nothing that other instances have proven counts any more, if it
    /// has to be saved.
    pub others_cut: Option<DateTime<Utc>>,
    /// The entries of the journal since then.
    pub journal: Vec<Entry>,
}

impl Proven {
    /// True if there is nothing to save.
    pub(super) fn is_nothing(&self) -> bool {
        self.change.is_none() && self.others_cut.is_none() && self.journal.is_empty()
    }

    /// The newest instant that is proven once this is saved; `None` if it does not change.
    pub(super) fn proven_until(&self) -> Option<DateTime<Utc>> {
        let Change { from, intervals, .. } = self.change.as_ref()?;
        Some(intervals.last().map_or(*from, |newest| newest.interval.until))
    }
}

impl DeviceStore {
    /// The stays of all listeners, as far as they have listened between `from` and `until` or
    /// have not left, and those of members of share groups that lasted in that time. If there are
    /// more than [`MAX_INTERVALS`] intervals, only the newest.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn stays(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<Stay>> {
        self.newest_stays((from, until), MAX_INTERVALS).await
    }

    /// The stays of all listeners, oldest first, with the newest `limit` of the intervals in a
    /// window. It reads no others: those of a listener are disjoint, so at most one that began
    /// before the window reaches into it.
    ///
    /// The limit takes away no stay that has not left, and none of a member of a share group:
    /// without its proofs less counts, but without the member more would. Of the time outside of
    /// the window not all members are read, so that their proofs of it are left out.
    ///
    /// # Errors
    ///
    /// If the database fails, or the row of a member of a share group cannot be read.
    pub async fn newest_stays(
        &self,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        limit: usize,
    ) -> Result<Vec<Stay>> {
        // Whatever the clocks of members show, as far as they may differ.
        let counted = Interval { from, until }.widened(MAX_WIDTH);
        let members = counted.widened(MAX_WIDTH);
        // There may be thousands that were refused, each of which would cost a look at the index.
        const MAY_HAVE_PROVEN: &str = "(left_how IS NULL OR left_how <> 'refused')";
        // Raw, because the builder has no condition in a join. In one statement, so that stays and
        // intervals are of one moment.
        const RANGE: &str = "proven.listener = listener.id \
             AND proven.ended_at >= $1 AND proven.started_at <= $2 \
             AND proven.started_at >= COALESCE(\
                 (SELECT max(earlier.started_at) FROM listening_interval AS earlier \
                  WHERE earlier.listener = listener.id AND earlier.started_at < $1), $1)";
        let joined = match self.backend() {
            // One range of the key after the other, whatever the statistics say.
            DbBackend::Postgres => format!(
                "JOIN LATERAL (SELECT * FROM listening_interval AS proven WHERE {RANGE} OFFSET 0) \
                 AS proven ON true"
            ),
            // One listener after the other.
            _ => format!("CROSS JOIN listening_interval AS proven ON {RANGE}"),
        };
        let sql = format!(
            "SELECT {STAY}, NULL AS listener, NULL AS started_at, NULL AS ended_at, \
                    NULL AS gap_cause \
             FROM listener WHERE left_at IS NULL OR (share_group IS NOT NULL \
                 AND joined_at <= $4 AND left_at >= $3) \
             UNION ALL SELECT * FROM (\
                 SELECT {STAY}, proven.listener, proven.started_at, proven.ended_at, \
                        proven.gap_cause \
                 FROM listener {joined} WHERE {MAY_HAVE_PROVEN} \
                 ORDER BY proven.started_at DESC LIMIT {limit}\
             ) AS newest"
        );
        let times = [from, until, members.from, members.until];
        let values = times.map(|time| Value::from(millis(time)));
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        self.read("read the coverage", async |db| {
            let fate = self.pass(|| Point::Statement(statement.sql.clone())).await?;
            // Row by row, because a row takes ten times the memory of what it says.
            let mut rows = fate.tell(db.stream_raw(statement.clone()).await?)?;
            let mut stays: BTreeMap<i64, Stay> = BTreeMap::new();
            while let Some(row) = rows.try_next().await? {
                let Some(stay) = self.known_stay(&row)? else { continue };
                // An interval that cannot be read proves nothing.
                let listened = self.readable("a listening interval", read_interval(&row)).flatten();
                let listened = match stay.share_group {
                    Some(_) => listened.and_then(|listened| listened.within(&counted)),
                    None => listened,
                };
                stays.entry(stay.listener).or_insert(stay).listened.extend(listened);
            }
            for stay in stays.values_mut() {
                stay.listened.sort_unstable_by_key(|listened| listened.interval.from);
            }
            Ok(stays.into_values().collect())
        })
        .await
    }

    /// The stay in a row, without its intervals. `None` if it cannot be read and hears everything,
    /// because then it only proves nothing.
    fn known_stay(&self, row: &QueryResult) -> Result<Option<Stay>, DbErr> {
        let stay = read_stay(row);
        if stay.is_err() && row.try_get::<bool>("", "is_member")? {
            return stay.map(Some);
        }
        Ok(self.readable("a listener", stay))
    }

    /// The intervals in which the listeners of `instance` were listening between `from` and
    /// `until`, oldest first.
    ///
    /// # Errors
    ///
    /// If the database fails.
    #[doc(hidden)]
    pub async fn listened(
        &self,
        instance: &str,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Listened>> {
        let stays = self.stays(from, until).await?.into_iter();
        let own = stays.filter(|stay| stay.instance == instance);
        let mut listened: Vec<_> = own.flat_map(|stay| stay.listened).collect();
        listened.sort_by_key(|listened| listened.interval.from);
        Ok(listened)
    }

    /// The time at which any instance began to listen, as far as it is kept. `None` if none ever
    /// did. Reads one interval of each listener.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn first_listened(&self) -> Result<Option<DateTime<Utc>>> {
        // Raw, because the first of each listener is found by the primary key.
        let sql = "SELECT min(began) AS began FROM (SELECT (SELECT min(started_at) \
             FROM listening_interval WHERE listening_interval.listener = listener.id) AS began \
             FROM listener) AS firsts";
        self.read("read the beginning of the coverage", async |db| {
            let row = self.select(db, sql, []).await?.pop();
            Ok(row.map(|row| time("began", &row)).transpose()?.flatten())
        })
        .await
    }

    /// Saves the coverage in the transaction that writes the heartbeats received during
    /// it.
    pub(super) async fn save_listened(
        &self,
        transaction: &DatabaseTransaction,
        proven: &Proven,
    ) -> Result<(), DbErr> {
        self.count_save(transaction, proven.proven_until()).await?;
        if let Some(cut) = proven.others_cut {
            self.cut_others(transaction, proven.listener, cut).await?;
        }
        if let Some(change) = &proven.change {
            self.save_change(transaction, proven.listener, change).await?;
        }
        self.write_journal(transaction, proven.journal.iter().cloned()).await
    }

    /// Forgets what other instances have proven after an instant.
    async fn cut_others(
        &self,
        transaction: &DatabaseTransaction,
        listener: i64,
        cut: DateTime<Utc>,
    ) -> Result<(), DbErr> {
        // Raw, because both have the same condition.
        let values = || [listener.into(), millis(cut).into()];
        let forget = format!("DELETE FROM listening_interval WHERE NOT {OWN} AND started_at > $2");
        self.execute(transaction, &forget, values()).await?;
        let shorten = format!(
            "UPDATE listening_interval SET ended_at = $2 WHERE NOT {OWN} AND ended_at > $2"
        );
        self.execute(transaction, &shorten, values()).await?;
        Ok(())
    }

    /// Saves what changes of the intervals of a listener, and of earlier ones of the same
    /// instance.
    async fn save_change(
        &self,
        transaction: &DatabaseTransaction,
        listener: i64,
        Change { from, is_set_back, intervals }: &Change,
    ) -> Result<(), DbErr> {
        let values = || [listener.into(), millis(*from).into()];
        if *is_set_back {
            let cut = format!(
                "UPDATE listening_interval SET ended_at = $2 WHERE {OWN} AND ended_at > $2 \
                 AND started_at = (SELECT max(started_at) FROM listening_interval \
                                   WHERE {OWN} AND started_at < $2)"
            );
            self.execute(transaction, &cut, values()).await?;
        }
        let forget = format!("DELETE FROM listening_interval WHERE started_at >= $2 AND {OWN}");
        // Raw, because 10,000 intervals are more parameters than SQLite takes.
        let save = format!(
            "WITH listened AS ({rows}) \
             INSERT INTO listening_interval (listener, started_at, ended_at, gap_cause) \
             SELECT $2, started_at, ended_at, gap_cause FROM listened",
            rows = rows::select(self.backend(), "$1", LISTENED),
        );
        let rows = intervals.iter().map(|Listened { interval, after }| {
            let cause = after.map(GapCause::as_str);
            [millis(interval.from).into(), millis(interval.until).into(), cause.into()]
        });
        self.execute(transaction, &forget, values()).await?;
        self.execute(transaction, &save, [rows::bind(rows), listener.into()]).await?;
        Ok(())
    }

    /// Deletes up to `limit` of the oldest intervals that ended before `before`, and the
    /// listeners that left before and have none. Returns the number of deleted intervals.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn prune_listened(&self, before: DateTime<Utc>, limit: u64) -> Result<u64> {
        // Raw, because the builder has no pairs of columns.
        let prune = "DELETE FROM listening_interval WHERE (listener, started_at) IN \
             (SELECT listener, started_at FROM listening_interval \
              WHERE ended_at < $1 ORDER BY started_at LIMIT $2)";
        // A member of a group counts as long as an interval is kept that reaches into its stay.
        let forget = "DELETE FROM listener WHERE left_at < $1 AND NOT EXISTS \
             (SELECT 1 FROM listening_interval WHERE listening_interval.listener = listener.id) \
             AND (share_group IS NULL OR NOT EXISTS \
                 (SELECT 1 FROM listening_interval WHERE started_at < listener.left_at)) \
             AND id NOT IN (SELECT instance.listener FROM instance \
              WHERE instance.listener IS NOT NULL)";
        let limit = i64::try_from(at_most(limit)).unwrap_or(i64::MAX);
        self.write("prune the coverage", async |transaction| {
            let before = millis(before);
            let pruned = self.execute(transaction, prune, [before.into(), limit.into()]).await?;
            self.execute(transaction, forget, [before.into()]).await?;
            Ok(pruned)
        })
        .await
    }
}

fn read_stay(row: &QueryResult) -> Result<Stay, DbErr> {
    let clock = ClockOffset {
        offset: super::exclusive::delta(row.try_get("", "clock_offset_ms")?),
        spread: super::exclusive::delta(row.try_get("", "clock_spread_ms")?),
    };
    Ok(Stay {
        listener: row.try_get("", "id")?,
        instance: row.try_get("", "instance")?,
        clock,
        share_group: row.try_get("", "share_group")?,
        timeline: row.try_get("", "timeline")?,
        subscription: super::exclusive::read_subscription(row)?,
        // A time that is none is as early, or as late, as can be.
        joined_at: time("joined_at", row)?.unwrap_or(DateTime::<Utc>::MIN_UTC),
        left_at: time("left_at", row)?,
        ended_by_itself: row
            .try_get::<Option<String>>("", "left_how")?
            .is_some_and(|how| BY_ITSELF.contains(&how.as_str())),
        listened: Vec::new(),
    })
}

/// The interval in a row, if it has one.
fn read_interval(row: &QueryResult) -> Result<Option<Listened>, DbErr> {
    if row.try_get::<Option<i64>>("", "listener")?.is_none() {
        return Ok(None);
    }
    Model::from_query_result(row, "").map(|interval| Some(interval.into()))
}

impl From<Model> for Listened {
    fn from(row: Model) -> Self {
        let until = row.ended_at.0;
        // An interval whose start is not a time proves nothing.
        let from = DateTime::from_timestamp_millis(row.started_at).unwrap_or(until);
        Self { interval: Interval { from, until }, after: row.gap_cause.map(GapCause::from) }
    }
}

impl From<entity::listening_interval::GapCause> for GapCause {
    fn from(cause: entity::listening_interval::GapCause) -> Self {
        use entity::listening_interval::GapCause as Saved;
        match cause {
            Saved::NotRunning => Self::NotRunning,
            Saved::Disconnected => Self::Disconnected,
            Saved::NoEcho => Self::NoEcho,
            Saved::Stopped => Self::Stopped,
            Saved::Shed => Self::Shed,
            Saved::ShutOut => Self::ShutOut,
            Saved::ClockStep => Self::ClockStep,
        }
    }
}
