//! Pages of devices for people and programs. A page costs the same whether the fleet has
//! twenty devices or a million: it is a range of an index, or a scan that ends with its budget.

use std::collections::BTreeSet;

use entity::device::Model;
use sea_orm::{DatabaseConnection, DbBackend, DbErr, FromQueryResult, QueryResult, Value};

use super::reading::{Budget, Reader};
use super::removal::like;
use super::silence::Own;
use super::unreadable::named;
use super::values::listed;
use super::{Device, Result, millis};
use crate::domain::{Cutoffs, DeviceId, Status};

/// The number of rows that are scanned at once, in a few milliseconds. Between two such
/// windows the budget is looked at.
const WINDOW: u64 = 20_000;

/// The devices that meet all of these conditions.
#[derive(Clone, Debug, Default)]
pub struct DeviceQuery {
    /// Has one of these statuses; empty: any.
    pub statuses: BTreeSet<Status>,
    /// Has an id of this form.
    pub ids: Ids,
    /// Is silent by these cutoffs. For late devices, those of [`Coverage::late_cutoffs`](crate::domain::Coverage::late_cutoffs).
    pub silent: Option<Cutoffs>,
    /// Is not silent by these.
    pub heard: Option<Cutoffs>,
}

/// A form of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// Any id.
    #[default]
    All,
    /// Begins with this text.
    Prefix(String),
    /// Matches this pattern: `*` is any text, `?` one character. Takes a scan.
    Matching(String),
}

impl Ids {
    /// The form that a search box asks for: a prefix, or with `*` anywhere but at its end a
    /// pattern.
    pub fn searched(text: &str) -> Self {
        match text.trim_end_matches('*') {
            "" => Self::All,
            prefix if !prefix.contains('*') => Self::Prefix(prefix.to_owned()),
            _ => Self::Matching(text.to_owned()),
        }
    }

    /// The text with which all of these ids begin, if there is one.
    fn beginning(&self) -> Option<&str> {
        let beginning = match self {
            Self::All => "",
            Self::Prefix(prefix) => prefix,
            Self::Matching(pattern) => pattern.split(['*', '?']).next().unwrap_or_default(),
        };
        (!beginning.is_empty()).then_some(beginning)
    }
}

/// A page of devices, in the order of the bytes of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePage {
    /// The devices, without those whose rows cannot be read.
    pub devices: Vec<Device>,
    /// The id after which the next page begins, which need not be a device's; `None` if this
    /// is the last page.
    pub next: Option<String>,
    /// True if the scan ended with its budget, so that the page has fewer devices than asked
    /// for although there may be more.
    pub partial: bool,
}

/// The rows of a part of a page.
struct Rows {
    /// Each row with its id; `None` if it cannot be read.
    rows: Vec<(String, Option<Device>)>,
    /// True if there may be more.
    is_full: bool,
}

/// The conditions of a statement besides the range of its ids.
struct Condition {
    /// The lists before the statement.
    with: String,
    join: &'static str,
    sql: String,
    /// The parameters of all of this, the first ones of the statement.
    values: Vec<Value>,
}

/// The ids that a statement looks at.
#[derive(Clone)]
struct Range {
    /// From this id on.
    from: Option<String>,
    /// After this one.
    after: Option<String>,
    /// Before this one.
    before: Option<String>,
    /// Up to this one.
    until: Option<String>,
}

impl Reader {
    /// The device, if it is registered.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<Device>> {
        self.0.device(id).await
    }

    /// Up to `limit` devices after the id `after`. Only ids that match a pattern and silent
    /// devices need a `budget`, which is looked at after every 20,000 rows.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn devices(
        &self,
        query: &DeviceQuery,
        after: Option<&str>,
        limit: u64,
        budget: Budget,
    ) -> Result<DevicePage> {
        let scans = query.silent.is_some()
            || query.heard.is_some()
            || matches!(query.ids, Ids::Matching(_));
        self.read("list the devices", async |db| {
            let range = Range::of(&query.ids, after);
            if scans {
                self.scan(db, query, range, limit, budget).await
            } else if query.statuses.is_empty() || query.statuses.len() == Status::ALL.len() {
                let rows = self.rows(db, Condition::simple("true"), &range, limit).await?;
                Ok(page([rows], limit))
            } else {
                let mut parts = Vec::new();
                for status in &query.statuses {
                    // As the index has it.
                    let condition = Condition::simple(format!("status || '' = '{status}'"));
                    parts.push(self.rows(db, condition, &range, limit).await?);
                }
                Ok(page(parts, limit))
            }
        })
        .await
    }

    /// Scans window by window until the page is full or the budget is spent.
    async fn scan(
        &self,
        db: &DatabaseConnection,
        query: &DeviceQuery,
        mut range: Range,
        limit: u64,
        budget: Budget,
    ) -> Result<DevicePage, DbErr> {
        let mut found = DevicePage::default();
        loop {
            range.until = self.end_of_window(db, &range).await?;
            let missing = limit - found.devices.len() as u64;
            let condition = Condition::of(self.0.backend(), query);
            let Rows { rows, is_full } = self.rows(db, condition, &range, missing).await?;
            let last = rows.last().map(|(id, _)| id.clone());
            found.devices.extend(rows.into_iter().filter_map(|(_, device)| device));
            let next = if is_full { last } else { range.until.take() };
            let Some(next) = next else { return Ok(found) };
            let is_done = found.devices.len() as u64 >= limit;
            if is_done || budget.is_spent() {
                return Ok(DevicePage { next: Some(next), partial: !is_done, ..found });
            }
            range.after = Some(next);
        }
    }

    /// The last id of the next window; `None` if the rest of the range is shorter.
    async fn end_of_window(
        &self,
        db: &DatabaseConnection,
        range: &Range,
    ) -> Result<Option<String>, DbErr> {
        let range = Range { until: None, ..range.clone() };
        let (within, values) = range.condition(self.0.backend(), 0);
        let id = ordered(self.0.backend());
        let sql = format!(
            "SELECT id FROM device WHERE {within} ORDER BY {id} LIMIT 1 OFFSET {}",
            WINDOW - 1
        );
        let row = self.0.select(db, &sql, values).await?.pop();
        Ok(row.and_then(|row| row.try_get("", "id").ok()))
    }

    /// Up to `limit` rows that meet `condition`.
    async fn rows(
        &self,
        db: &DatabaseConnection,
        condition: Condition,
        range: &Range,
        limit: u64,
    ) -> Result<Rows, DbErr> {
        let Condition { with, join, sql: condition, mut values } = condition;
        let (within, of_range) = range.condition(self.0.backend(), values.len());
        values.extend(of_range);
        let id = ordered(self.0.backend());
        // Raw, because the builder knows no collation and none of the conditions.
        let sql = format!(
            "{with} SELECT device.* FROM device {join} WHERE {within} AND {condition} \
             ORDER BY {id} LIMIT {limit}"
        );
        let rows = self.0.select(db, &sql, values).await?;
        let is_full = rows.len() as u64 >= limit;
        // An id that is not a text is after all that are, and nothing can come after it.
        let rows = rows.iter().map_while(|row| {
            let id: String = row.try_get("", "id").ok()?;
            let device = self.0.readable(&named("device", &Some(&id)), read(row));
            Some((id, device))
        });
        Ok(Rows { rows: rows.collect(), is_full })
    }
}

fn read(row: &QueryResult) -> Result<Device, DbErr> {
    Model::from_query_result(row, "").and_then(Device::try_from)
}

/// The ids in the order of their bytes.
pub(super) fn ordered(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => "id COLLATE \"C\"",
        _ => "id",
    }
}

/// The first `limit` rows of `parts`.
fn page(parts: impl IntoIterator<Item = Rows>, limit: u64) -> DevicePage {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut rows, mut known_until) = (Vec::new(), None::<String>);
    for part in parts {
        if let (true, Some((last, _))) = (part.is_full, part.rows.last()) {
            known_until = Some(known_until.map_or(last.clone(), |known| known.min(last.clone())));
        }
        rows.extend(part.rows);
    }
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows.retain(|(id, _)| known_until.as_ref().is_none_or(|known| id <= known));
    let is_last = known_until.is_none() && rows.len() <= limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| !is_last).map(|(id, _)| id.clone());
    let devices = rows.into_iter().filter_map(|(_, device)| device).collect();
    DevicePage { devices, next, partial: false }
}

impl Condition {
    fn simple(sql: impl Into<String>) -> Self {
        Self { with: String::new(), join: "", sql: sql.into(), values: Vec::new() }
    }

    /// The conditions of a query that scans.
    fn of(backend: DbBackend, query: &DeviceQuery) -> Self {
        let mut condition = Self::simple("true");
        if !query.statuses.is_empty() {
            condition.and(format!("status IN ({})", listed(query.statuses.iter().copied())));
        }
        if let Ids::Matching(pattern) = &query.ids {
            let (operator, pattern) = like(backend, pattern);
            let pattern = condition.bind(pattern.into());
            condition.and(format!("id {operator} {pattern}"));
        }
        match (&query.silent, &query.heard) {
            (Some(cutoffs), None) => {
                let silent = condition.silent(backend, cutoffs);
                condition.and(silent);
            }
            (None, Some(cutoffs)) => {
                let silent = condition.silent(backend, cutoffs);
                // One that was never heard is not silent.
                condition.and(format!("({silent}) IS NOT TRUE"));
            }
            (None, None) => (),
            (Some(_), Some(_)) => condition.and("false".to_owned()),
        }
        condition
    }

    /// Matches devices that are silent by `cutoffs`.
    fn silent(&mut self, backend: DbBackend, cutoffs: &Cutoffs) -> String {
        // Nearly all devices were seen after the latest cutoff, which is quickly compared.
        let latest = self.bind(cutoffs.latest().map(millis).into());
        let default = self.bind(cutoffs.default.instant.map(millis).into());
        let own = Own::of(backend, cutoffs, &format!("${}", self.values.len() + 1));
        (self.with, self.join) = (own.with(&[]), own.join);
        let silent = format!("last_seen_at < {latest} AND {}", own.stale(&default));
        self.values.extend(own.rows);
        silent
    }

    fn and(&mut self, condition: String) {
        self.sql = format!("{} AND {condition}", self.sql);
    }

    /// Adds a parameter and returns its name.
    fn bind(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }
}

impl Range {
    fn of(ids: &Ids, after: Option<&str>) -> Self {
        let all = Self { from: None, after: after.map(str::to_owned), before: None, until: None };
        match ids.beginning() {
            Some(prefix) => Self { from: Some(prefix.to_owned()), before: beyond(prefix), ..all },
            None => all,
        }
    }

    /// The condition with its parameters, of which the first is number `bound + 1`.
    fn condition(&self, backend: DbBackend, bound: usize) -> (String, Vec<Value>) {
        let id = ordered(backend);
        let bounds =
            [(">=", &self.from), (">", &self.after), ("<", &self.before), ("<=", &self.until)];
        let (mut all, mut values) = (vec!["true".to_owned()], Vec::new());
        for (operator, value) in bounds {
            if let Some(value) = value {
                values.push(Value::from(value.as_str()));
                all.push(format!("{id} {operator} ${}", bound + values.len()));
            }
        }
        (all.join(" AND "), values)
    }
}

/// The first text after all that begin with `prefix`; `None` if there is none.
fn beyond(prefix: &str) -> Option<String> {
    let mut beyond = prefix.to_owned();
    while let Some(last) = beyond.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            beyond.push(next);
            return Some(beyond);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_beyond_a_prefix_and_all_that_begins_with_it() {
        for (prefix, expected) in [
            ("pump-1", Some("pump-2")),
            ("a\u{7f}", Some("a\u{80}")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(beyond(prefix).as_deref(), expected, "{prefix:?}");
        }
    }

    #[test]
    fn a_search_is_a_prefix_unless_an_asterisk_is_before_its_end() {
        let prefix = |text: &str| Ids::Prefix(text.to_owned());
        let matching = |text: &str| Ids::Matching(text.to_owned());
        for (text, expected) in [
            ("", Ids::All),
            ("*", Ids::All),
            ("pump", prefix("pump")),
            ("**", Ids::All),
            ("pump*", prefix("pump")),
            ("pump**", prefix("pump")),
            ("pu?p", prefix("pu?p")),
            ("*17", matching("*17")),
            ("*17*", matching("*17*")),
            ("hall-*-pump", matching("hall-*-pump")),
            ("s*7*", matching("s*7*")),
        ] {
            assert_eq!(Ids::searched(text), expected, "{text}");
        }
    }

    #[test]
    fn a_search_for_a_pattern_looks_only_at_ids_with_its_beginning() {
        for (text, expected) in [
            ("", None),
            ("*17", None),
            ("pump", Some("pump")),
            ("hall-*-pump", Some("hall-")),
            ("hall?1*x", Some("hall")),
        ] {
            assert_eq!(Ids::searched(text).beginning(), expected, "{text}");
        }
    }

    fn rows(ids: &[&str], is_full: bool) -> Rows {
        Rows { rows: ids.iter().map(|id| ((*id).to_owned(), None)).collect(), is_full }
    }

    #[test]
    fn a_page_of_several_lists_ends_where_a_list_is_not_known_any_further() {
        let next = |parts, limit| page(parts, limit).next;
        assert_eq!(next(vec![rows(&["a", "c"], true), rows(&["b"], false)], 2), Some("b".into()));
        assert_eq!(next(vec![rows(&["c", "d"], true), rows(&["e"], false)], 2), Some("d".into()));
        assert_eq!(next(vec![rows(&["a"], false), rows(&["b"], false)], 2), None);
        assert_eq!(next(vec![rows(&["a"], false), rows(&["b"], false)], 1), Some("a".into()));
        assert_eq!(next(vec![rows(&[], false)], 1), None);
    }
}
