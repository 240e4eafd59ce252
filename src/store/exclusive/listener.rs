//! The rows of listeners: joining, looking at one another, and leaving.
//!
//! What is written here needs no right to write.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};

use super::configured::{CONFIGURED, Clash, read_configured};
use super::delta;
use crate::clock::{Clock, system_clock};
use crate::domain::standby::{ClockMeter, Peer, Sight};
use crate::domain::{ClockOffset, Configured, GroupMark};
use crate::store::timeline::of_column;
use crate::store::{DeviceStore, Result, StoreError, millis, time};

/// The migration with which listeners came.
pub(super) const MIGRATION: &str = "m20261126_000016_create_listener";

/// A process that is going to listen.
#[derive(Clone, Debug)]
pub struct Member {
    /// The instance, by its `mqtt.client_id`.
    pub instance: String,
    /// A random number of the process.
    pub incarnation: i64,
    /// The time between two looks at the others.
    pub interval: std::time::Duration,
    /// The group that it shares the heartbeats with, if it does.
    pub share_group: Option<String>,
    /// Its configuration, as far as others have to know of it; `None` if it does not say.
    pub configured: Option<Configured>,
}

/// The stay of a member that has joined its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedGroup {
    /// The number of the listener.
    pub listener: i64,
    /// The mark of the database, which is a part of the group's name at the broker.
    pub mark: GroupMark,
}

impl Member {
    /// The number of a new process.
    pub fn new_incarnation() -> i64 {
        // Positive, so that it is the same number everywhere.
        (super::random() >> 1).cast_signed()
    }
}

/// The report of a listener about itself when it looks at the others.
#[derive(Clone, Debug)]
pub struct Beat {
    /// The listener.
    pub listener: i64,
    /// The newest instant that it has proven, unless it writes. What the active one has proven
    /// is noted when it is saved.
    pub proven_until: Option<DateTime<Utc>>,
    /// Others that count as gone.
    pub gone: Vec<Peer>,
}

/// A listener, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The listener as a standby sees it.
    pub peer: Peer,
    /// True if it has the right to write.
    pub is_active: bool,
    /// The beginning of its stay.
    pub joined_at: Option<DateTime<Utc>>,
    /// The end of its stay.
    pub left_at: Option<DateTime<Utc>>,
    /// The way it left.
    pub left_how: Option<String>,
    /// The instance that took over from it.
    pub fenced_by: Option<String>,
}

pub(super) const COLUMNS: &str = "listener.id, listener.instance, incarnation, share_group, timeline, \
                       joined_at, left_at, left_how, \
                       fenced_by, saves, proven_until, clock_offset_ms, clock_spread_ms, \
                       topic, broker, entry_urls, timeout_ms, check_interval_ms, \
                       (SELECT max(started_at) FROM listening_interval \
                        WHERE listening_interval.listener = listener.id) AS proven_since, \
                       instance.listener AS active";

impl DeviceStore {
    /// Begins the stay of a listener, and returns its number. Without a service that stands by
    /// it is the only one, so that the stays of others end.
    ///
    /// # Errors
    ///
    /// If the database fails; [`StoreError::Clash`] if another instance listens to something else.
    pub async fn join(&self, member: &Member) -> Result<i64> {
        let alone = self.exclusive.as_ref().is_none_or(|own| !own.stands_by);
        // On SQLite nobody else can come back, and whoever starts may listen to something else.
        let others_may_live = !alone || self.backend() == DbBackend::Postgres;
        let store = self.for_commands();
        let joined = store
            .write("join the listeners", async |transaction| {
                let at = system_clock().wall;
                if others_may_live && let Some(clash) = store.clash(transaction, member, at).await?
                {
                    return Ok(Err(clash));
                }
                let joined = store.insert_listener(transaction, member, None, at).await?;
                if alone {
                    // A member of a group may still have been given heartbeats until now.
                    let close = "UPDATE listener SET left_at = CASE WHEN share_group IS NULL \
                                 THEN coalesce(proven_until, joined_at) ELSE $2 END, \
                                 left_how = CASE WHEN instance = $3 THEN 'restarted' \
                                 ELSE 'taken_over' END WHERE left_at IS NULL AND id <> $1";
                    let instance = member.instance.as_str();
                    let values = [joined.listener.into(), millis(at).into(), instance.into()];
                    store.execute(transaction, close, values).await?;
                    let hold = "UPDATE instance SET listener = $1 WHERE id = 1";
                    store.execute(transaction, hold, [joined.listener.into()]).await?;
                }
                Ok(Ok(joined))
            })
            .await?
            .map_err(clashes)?;
        if let Some(exclusive) = &self.exclusive {
            exclusive.joined(joined, alone);
        }
        Ok(joined.listener)
    }

    /// Begins the stay of a member of a group, which is connected and about to subscribe.
    /// The broker has let go of its earlier connections, so its earlier stays have ended. `None`
    /// if it is no member of a group.
    ///
    /// # Errors
    ///
    /// If the database fails; [`StoreError::Clash`] if another instance listens to something else,
    /// and then its earlier stays have ended all the same.
    pub async fn join_group(
        &self,
        member: &Member,
        connected_at: DateTime<Utc>,
    ) -> Result<Option<JoinedGroup>> {
        let (Some(exclusive), Some(group)) = (&self.exclusive, &member.share_group) else {
            return Ok(None);
        };
        let token = exclusive.fence.token();
        let store = self.for_commands();
        let joined = store
            .write("join the group", async |transaction| {
                store.close_earlier(transaction, member, connected_at).await?;
                let at = connected_at;
                if let Some(clash) = self.clash(transaction, member, at).await? {
                    return Ok(Err(clash));
                }
                let joined = self.insert_listener(transaction, member, Some(group), at).await?;
                if let Some(token) = &token {
                    let hold = "UPDATE instance SET listener = $1 WHERE id = 1 AND token = $2";
                    let values = [joined.listener.into(), token.as_str().into()];
                    store.execute(transaction, hold, values).await?;
                }
                store.forget_the_wait(transaction, member, at).await?;
                Ok(Ok(joined))
            })
            .await?
            .map_err(clashes)?;
        exclusive.joined(joined, false);
        Ok(Some(joined))
    }

    /// Ends the earlier stays of a member that is connected: by this connection the broker has
    /// ended the session of an earlier one of this process, or of an earlier process of its name.
    async fn close_earlier(
        &self,
        transaction: &DatabaseTransaction,
        member: &Member,
        connected_at: DateTime<Utc>,
    ) -> Result<(), DbErr> {
        let close = "UPDATE listener SET left_at = $3, left_how = \
                     CASE WHEN incarnation = $2 THEN 'reconnected' ELSE 'restarted' END \
                     WHERE instance = $1 AND left_at IS NULL \
                     AND (incarnation <> $2 OR share_group IS NOT NULL)";
        let values: [Value; 3] =
            [member.instance.as_str().into(), member.incarnation.into(), end(connected_at).into()];
        self.execute(transaction, close, values).await.map(drop)
    }

    /// Deletes the rows with which this process was listed while it was not a member. It was given
    /// nothing then and has proven nothing, so they tell nothing. One that had the right to write is
    /// kept, and has left.
    async fn forget_the_wait(
        &self,
        transaction: &DatabaseTransaction,
        member: &Member,
        at: DateTime<Utc>,
    ) -> Result<(), DbErr> {
        let forget = "DELETE FROM listener WHERE instance = $1 AND incarnation = $2 \
                      AND share_group IS NULL AND NOT EXISTS (SELECT 1 FROM listening_interval \
                      WHERE listening_interval.listener = listener.id) \
                      AND id NOT IN (SELECT instance.listener FROM instance \
                      WHERE instance.listener IS NOT NULL)";
        let (instance, incarnation) = (member.instance.as_str(), member.incarnation);
        self.execute(transaction, forget, [instance.into(), incarnation.into()]).await?;
        let close = "UPDATE listener SET left_at = $3, left_how = 'left' WHERE instance = $1 \
                     AND incarnation = $2 AND share_group IS NULL AND left_at IS NULL";
        let values: [Value; 3] = [instance.into(), incarnation.into(), end(at).into()];
        self.execute(transaction, close, values).await.map(drop)
    }

    async fn insert_listener(
        &self,
        transaction: &DatabaseTransaction,
        member: &Member,
        group: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<JoinedGroup, DbErr> {
        // Raw, because the number that the database gives is returned at once.
        let sql = format!(
            "INSERT INTO listener (instance, incarnation, share_group, timeline, joined_at, \
                                   clock_offset_ms, clock_spread_ms, {CONFIGURED}) \
             VALUES ($1, $2, $3, {timeline}, $4, $5, $6, $7, $8, $9, $10, $11) \
             RETURNING id, timeline, {mark} AS mark",
            timeline = self.timeline_sql(),
            mark = self.mark_sql(),
        );
        // Of a member whose clock is off and that never saves anything, the beginning counts.
        let clock = self.exclusive.as_ref().map(|own| own.fence.clock()).unwrap_or_default();
        let values: [Value; 6] = [
            member.instance.as_str().into(),
            member.incarnation.into(),
            group.into(),
            millis(at).into(),
            clock.offset.num_milliseconds().into(),
            clock.spread.num_milliseconds().into(),
        ];
        let values = values.into_iter().chain(member.configured());
        let row = self.select(transaction, &sql, values).await?.pop();
        let row = row.ok_or(DbErr::RecordNotInserted)?;
        let timeline = of_column("timeline", &row)?;
        let database = row.try_get::<i32>("", "mark")?.cast_unsigned();
        let mark = GroupMark { timeline, database };
        Ok(JoinedGroup { listener: row.try_get("", "id")?, mark })
    }

    /// Notes that a listener lives, and looks at the others. `meter` learns of the clock.
    ///
    /// # Errors
    ///
    /// If the database fails; [`StoreError::TakenOver`], [`StoreError::Forgotten`],
    /// [`StoreError::TakenOut`] or [`StoreError::Removed`] if the right to write is lost.
    pub async fn beat(&self, beat: &Beat, meter: &mut ClockMeter, clock: Clock) -> Result<Sight> {
        let is_member = self.exclusive.as_ref().is_some_and(|own| own.membership.is_some());
        let is_active = self.exclusive.as_ref().is_some_and(|own| own.fence.is_active());
        if let Some(exclusive) = &self.exclusive {
            exclusive.fence.set_clock(meter.clock());
        }
        let store = match (is_member, is_active) {
            (true, _) => self.for_members(),
            (false, true) => self.clone(),
            (false, false) => self.for_commands(),
        };
        let own = meter.clock();
        let (sight, measured) = store
            .write("look at the other listeners", async |transaction| {
                if is_member || is_active {
                    store.count_save(transaction, None).await?;
                }
                if is_active {
                    store.close_gone(transaction, beat).await?;
                } else if !is_member {
                    store.note_standby(transaction, beat, own).await?;
                }
                store.look(transaction, beat.listener, clock).await
            })
            .await?;
        store.is_counted();
        self.note_clock(meter, measured);
        Ok(sight)
    }

    /// Measures the clock against the database's, once more. An answer that took long tells
    /// nothing, and neither does SQLite, which is on the same machine.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn measure_clock(&self, meter: &mut ClockMeter, clock: Clock) -> Result<()> {
        let sql = format!("SELECT {} AS now", self.now_sql());
        let measured = self
            .read("read the database's clock", async |db| {
                let asked = clock().wall;
                let row = self.select(db, &sql, []).await?.pop();
                let answered = clock().wall;
                let theirs = row.map(|row| time("now", &row)).transpose()?.flatten();
                Ok(theirs.map(|theirs| (asked, theirs, answered)))
            })
            .await?;
        self.note_clock(meter, measured);
        Ok(())
    }

    /// Takes in a measurement, with which everything is written from now on.
    fn note_clock(&self, meter: &mut ClockMeter, measured: Option<Measured>) {
        if let Some((asked, theirs, answered)) = measured {
            meter.note(asked, theirs, answered);
        }
        if let Some(exclusive) = &self.exclusive {
            exclusive.fence.set_clock(meter.clock());
        }
    }

    /// The time of the database, in milliseconds. Null on SQLite.
    fn now_sql(&self) -> &'static str {
        match self.backend() {
            DbBackend::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
            // On the same machine.
            _ => "CAST(NULL AS bigint)",
        }
    }

    async fn note_standby(
        &self,
        transaction: &DatabaseTransaction,
        beat: &Beat,
        clock: ClockOffset,
    ) -> Result<(), DbErr> {
        let sql = "UPDATE listener SET saves = saves + 1, proven_until = $2, \
                   clock_offset_ms = $3, clock_spread_ms = $4 WHERE id = $1 AND left_at IS NULL";
        let values = [
            beat.listener.into(),
            beat.proven_until.map(millis).into(),
            clock.offset.num_milliseconds().into(),
            clock.spread.num_milliseconds().into(),
        ];
        self.execute(transaction, sql, values).await.map(drop)
    }

    /// Ends the stays of listeners that count as gone, unless they have moved since.
    async fn close_gone(
        &self,
        transaction: &DatabaseTransaction,
        beat: &Beat,
    ) -> Result<(), DbErr> {
        let sql = "UPDATE listener SET left_at = coalesce(proven_until, joined_at), \
                   left_how = 'fenced', fenced_by = (SELECT own.instance FROM listener AS own \
                   WHERE own.id = $3) WHERE id = $1 AND saves = $2 AND left_at IS NULL \
                   AND share_group IS NULL";
        for gone in &beat.gone {
            let values = [gone.id.into(), gone.saves.into(), beat.listener.into()];
            self.execute(transaction, sql, values).await?;
        }
        Ok(())
    }

    /// Ends the stay of a member of the group whose session at the broker has ended, unless it
    /// has saved something since it was seen. True if it ended.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn fence(&self, peer: &Peer, by: &str, at: DateTime<Utc>) -> Result<bool> {
        let sql = "UPDATE listener SET left_at = $3, left_how = 'fenced', fenced_by = $4 \
                   WHERE id = $1 AND saves = $2 AND left_at IS NULL";
        let store = self.for_commands();
        store
            .write("take a member out of the group", async |transaction| {
                let values = [peer.id.into(), peer.saves.into(), end(at).into(), by.into()];
                Ok(store.execute(transaction, sql, values).await? > 0)
            })
            .await
    }

    /// Reads the rows of those who have not left, and of the active one, with the times before
    /// and after the database's own.
    async fn look(
        &self,
        transaction: &DatabaseTransaction,
        me: i64,
        clock: Clock,
    ) -> Result<(Sight, Option<Measured>), DbErr> {
        let now = self.now_sql();
        let sql = format!(
            "SELECT {COLUMNS}, {now} AS now FROM listener LEFT JOIN instance ON instance.id = 1 \
             WHERE left_at IS NULL OR listener.id = instance.listener ORDER BY listener.id"
        );
        let asked = clock().wall;
        let rows = self.select(transaction, &sql, []).await?;
        let answered = clock().wall;
        let listeners = rows.iter().map(read_listener).collect::<Result<Vec<_>, DbErr>>()?;
        let active = rows.first().map(|row| row.try_get::<Option<i64>>("", "active"));
        let active = active.transpose()?.flatten();
        let theirs = rows.first().map(|row| time("now", row)).transpose()?.flatten();
        let peers = listeners.into_iter().map(|listener| listener.peer).collect();
        let measured = theirs.map(|theirs| (asked, theirs, answered));
        Ok((Sight { me, active, peers }, measured))
    }

    /// Gives up the right to write, as far as this process is concerned.
    pub fn stand_by(&self) {
        if let Some(exclusive) = &self.exclusive {
            exclusive.fence.stand_by();
            if exclusive.stands_by {
                *exclusive.lock.lock() = None;
            }
        }
    }

    /// The listener that this process is, if it may become a member of a group.
    pub fn joined_as(&self) -> Option<i64> {
        self.exclusive.as_ref()?.membership.as_ref()?.listener()
    }

    /// Gives up the membership of a group, as far as this process is concerned.
    pub fn is_out_of_the_group(&self) {
        if let Some(membership) = self.exclusive.iter().find_map(|own| own.membership.as_ref()) {
            membership.ended();
        }
    }

    /// True if this store may stand by while another service writes.
    pub fn stands_by(&self) -> bool {
        self.exclusive.as_ref().is_some_and(|own| own.stands_by)
    }

    /// Ends the stay of a listener that leaves. False if it had left before.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn leave(&self, listener: i64, how: &'static str, at: DateTime<Utc>) -> Result<bool> {
        let sql = "UPDATE listener SET left_at = $2, left_how = $3 \
                   WHERE id = $1 AND left_at IS NULL";
        let store = self.for_commands();
        store
            .write("leave the listeners", async |transaction| {
                let values = [listener.into(), end(at).into(), how.into()];
                Ok(store.execute(transaction, sql, values).await? > 0)
            })
            .await
    }

    /// All listeners, oldest first, at most the newest thousand.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn listeners(&self) -> Result<Vec<Listener>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM listener LEFT JOIN instance ON instance.id = 1 \
             ORDER BY listener.id DESC LIMIT 1000"
        );
        self.read("read the listeners", async |db| {
            let rows = self.select(db, &sql, []).await?;
            rows.iter().rev().map(read_listener).collect()
        })
        .await
    }
}

/// The end of a stay in milliseconds: the next whole one, so not too early.
fn end(at: DateTime<Utc>) -> i64 {
    millis(at + TimeDelta::milliseconds(1))
}

/// The times before and after the database's, which is in the middle.
type Measured = (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>);

fn clashes(clash: Clash) -> StoreError {
    StoreError::Clash(Box::new(clash))
}

pub(super) fn read_listener(row: &QueryResult) -> Result<Listener, DbErr> {
    let id = row.try_get("", "id")?;
    let left_at = time("left_at", row)?;
    let peer = Peer {
        id,
        instance: row.try_get("", "instance")?,
        incarnation: row.try_get("", "incarnation")?,
        share_group: row.try_get("", "share_group")?,
        timeline: of_column("timeline", row)?,
        has_left: left_at.is_some(),
        saves: row.try_get("", "saves")?,
        proven_until: time("proven_until", row)?,
        proven_since: time("proven_since", row)?,
        clock: ClockOffset {
            offset: delta(row.try_get("", "clock_offset_ms")?),
            spread: delta(row.try_get("", "clock_spread_ms")?),
        },
        configured: read_configured(row)?.map(Box::new),
    };
    Ok(Listener {
        peer,
        is_active: row.try_get::<Option<i64>>("", "active")? == Some(id) && left_at.is_none(),
        joined_at: time("joined_at", row)?,
        left_at,
        left_how: row.try_get("", "left_how")?,
        fenced_by: row.try_get("", "fenced_by")?,
    })
}
