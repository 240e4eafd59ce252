//! The columns of a device's row that cannot be read, with their content. SQLite stores a
//! text in a column of numbers if another program writes one.

use std::borrow::Cow;
use std::fmt;

use chrono::DateTime;
use entity::device::Entity;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryResult};

use super::driver_error::is_unreadable;
use super::{Device, DeviceStore, Result, raw_id};
use crate::domain::{DeviceId, Status};
use crate::logging::escape::{Hex, Quoted};

/// The number of bytes that are shown of a value that is not a text.
const SHOWN_AS_HEX: usize = 32;

/// A row that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The row can be read.
    Device(Box<Device>),
    /// The row cannot be read, because of these columns.
    Damaged(Vec<Damage>),
}

/// A column that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its name.
    pub column: &'static str,
    /// Its content, quoted and bounded.
    pub found: String,
    /// The content that it should have, or what is wrong with it.
    pub expected: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { column, found, expected } = self;
        write!(f, "{column} is {found}, not {expected}")
    }
}

/// The kind of content that a column may have.
#[derive(Clone, Copy, Debug)]
enum Holds {
    Id,
    Status,
    Text,
    Number,
    Time,
}

/// A column of table device.
struct Column {
    name: &'static str,
    holds: Holds,
    /// True if it must not be empty.
    required: bool,
}

const fn required(name: &'static str, holds: Holds) -> Column {
    Column { name, holds, required: true }
}

const fn optional(name: &'static str, holds: Holds) -> Column {
    Column { name, holds, required: false }
}

const COLUMNS: [Column; 10] = [
    required("id", Holds::Id),
    required("status", Holds::Status),
    optional("last_seen_at", Holds::Time),
    optional("timeout_seconds", Holds::Number),
    optional("uptime_seconds", Holds::Number),
    optional("free_memory", Holds::Number),
    optional("clock_skew_ms", Holds::Number),
    optional("error", Holds::Text),
    optional("payload_error", Holds::Text),
    required("registered_at", Holds::Time),
];

impl DeviceStore {
    /// The row with this id, which may be any text, or bytes as [`RawId`](super::RawId)
    /// spells them.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn look_up(&self, id: &str) -> Result<Option<Found>> {
        self.read("read the device", async |db| {
            let row = Entity::find_by_id(id).one(db).await;
            let device = row.and_then(|row| row.map(Device::try_from).transpose());
            let damage = match device {
                Ok(Some(device)) => return Ok(Some(Found::Device(Box::new(device)))),
                Ok(None) => return Ok(self.damage(db, id).await?.map(Found::Damaged)),
                Err(error) if is_unreadable(&error) => (self.damage(db, id).await?, error),
                Err(error) => return Err(error),
            };
            match damage {
                (Some(columns), _) if !columns.is_empty() => Ok(Some(Found::Damaged(columns))),
                // The damage is gone by now, so the error is all there is.
                (_, error) => Err(error),
            }
        })
        .await
    }

    /// The damaged columns of the row whose id this is, or whose id it spells.
    async fn damage(
        &self,
        db: &impl ConnectionTrait,
        id: &str,
    ) -> Result<Option<Vec<Damage>>, DbErr> {
        // Raw, because an entity cannot hold what is looked for here.
        let mut values = Vec::new();
        let ids = raw_id::listed(self.backend(), &[id.to_owned()], |value| {
            values.push(value);
            format!("${}", values.len())
        });
        let columns = COLUMNS.each_ref().map(|column| column.raw(self.backend())).join(", ");
        let sql = format!("SELECT {columns} FROM device WHERE id IN ({ids}) LIMIT 1");
        let row = self.select(db, &sql, values).await?.pop();
        row.map(|row| COLUMNS.iter().filter_map(|column| column.damage(&row).transpose()).collect())
            .transpose()
    }
}

impl Column {
    /// The SQL for the type and the bytes of the content.
    fn raw(&self, backend: DbBackend) -> String {
        let name = self.name;
        if backend != DbBackend::Postgres {
            return format!("typeof({name}) AS {name}_type, CAST({name} AS BLOB) AS {name}_raw");
        }
        let kind = match self.holds {
            Holds::Id | Holds::Status | Holds::Text => "text",
            Holds::Number | Holds::Time => "integer",
        };
        format!(
            "CASE WHEN {name} IS NULL THEN 'null' ELSE '{kind}' END AS {name}_type, \
             convert_to(CAST({name} AS text), 'UTF8') AS {name}_raw"
        )
    }

    fn damage(&self, row: &QueryResult) -> Result<Option<Damage>, DbErr> {
        let kind: String = row.try_get("", &format!("{}_type", self.name))?;
        let raw: Option<Vec<u8>> = row.try_get("", &format!("{}_raw", self.name))?;
        let raw = raw.unwrap_or_default();
        let expected = self.expected(&kind, &raw);
        Ok(expected.map(|expected| Damage {
            column: self.name,
            found: shown(&kind, &raw),
            expected: expected.into_owned(),
        }))
    }

    /// The content that is expected instead of this; `None` if this is right.
    fn expected(&self, kind: &str, raw: &[u8]) -> Option<Cow<'static, str>> {
        let text = str::from_utf8(raw).ok();
        let is_right = match (self.holds, kind, text) {
            (_, "null", _) => !self.required,
            (Holds::Id, "text", Some(id)) => match DeviceId::of_device(id) {
                Ok(_) => true,
                Err(why) => return Some(format!("an id that is accepted: {why}").into()),
            },
            (Holds::Status, "text", Some(text)) => Status::named(text).is_some(),
            (Holds::Text, "text", Some(_)) | (Holds::Number, "integer", _) => true,
            (Holds::Time, "integer", Some(number)) => {
                number.parse().ok().and_then(DateTime::from_timestamp_millis).is_some()
            }
            _ => false,
        };
        (!is_right).then(|| self.holds.described())
    }
}

impl Holds {
    fn described(self) -> Cow<'static, str> {
        match self {
            Self::Status => {
                format!("one of {}", Status::ALL.map(|s| s.to_string()).join(", ")).into()
            }
            Self::Id | Self::Text => "a text in UTF-8".into(),
            Self::Number => "a whole number".into(),
            Self::Time => "a time in whole milliseconds since 1970".into(),
        }
    }
}

fn shown(kind: &str, raw: &[u8]) -> String {
    match (kind, str::from_utf8(raw)) {
        ("null", _) => "empty".to_owned(),
        ("integer" | "real", _) => format!("the number {}", String::from_utf8_lossy(raw)),
        ("text", _) => format!("the text {}", Quoted(&String::from_utf8_lossy(raw))),
        _ => {
            let (shown, more) = raw.split_at(raw.len().min(SHOWN_AS_HEX));
            let more = if more.is_empty() { "" } else { "…" };
            format!("the bytes x'{}'{more}", Hex(shown))
        }
    }
}
