//! The registered ids that are like one that is not registered.

use sea_orm::{DatabaseConnection, DbBackend, DbErr, QueryResult, Value};

use super::listing::ordered;
use super::raw_id::ID;
use super::reading::Reader;
use super::{Result, StoreError, rows};
use crate::domain::{likest, spellings};

/// The number of neighbours on each side that are looked at.
const NEIGHBOURS: usize = 8;

impl Reader {
    /// Up to `count` ids of registered devices that are like `id`, the likest first. Looks up a
    /// bounded number of spellings and the neighbours of `id` by the index of the ids, however
    /// many devices there are, and gives up after a quarter of the time of a read: no answer waits
    /// for a hint.
    ///
    /// # Errors
    ///
    /// If the database fails or is too slow.
    pub async fn similar(&self, id: &str, count: usize) -> Result<Vec<String>> {
        const ACTION: &str = "look for similar ids";
        // PostgreSQL takes no such text, and no device has it.
        if id.contains('\0') {
            return Ok(Vec::new());
        }
        let bound = self.0.pool.origin().bound() / 4;
        let looking = self.read(ACTION, async |db| self.candidates(db, id).await);
        match tokio::time::timeout(bound, looking).await {
            Ok(found) => Ok(likest(id, found?, count)),
            Err(_elapsed) => Err(StoreError::NoAnswer { action: ACTION, bound }),
        }
    }

    async fn candidates(&self, db: &DatabaseConnection, id: &str) -> Result<Vec<String>, DbErr> {
        let backend = self.0.backend();
        let spellings = rows::bind(spellings(id).into_iter().map(|spelling| [spelling.into()]));
        let mut found = self.0.select(db, &spelled(backend), [spellings]).await?;
        for (operator, order) in [("<", "DESC"), (">", "ASC")] {
            let sql = neighbours(backend, operator, order);
            found.extend(self.0.select(db, &sql, [Value::from(id)]).await?);
        }
        // An id that is not a text is like no other.
        let text = |row: &QueryResult| row.try_get("", "id").ok();
        Ok(found.iter().filter_map(text).collect())
    }
}

/// Raw, because the list is one parameter.
fn spelled(backend: DbBackend) -> String {
    format!(
        "WITH given AS MATERIALIZED ({list}) SELECT id FROM given \
         WHERE EXISTS (SELECT 1 FROM device WHERE device.id = given.id) LIMIT 20",
        list = rows::select(backend, "$1", ID),
    )
}

fn neighbours(backend: DbBackend, operator: &str, order: &str) -> String {
    let id = ordered(backend);
    format!(
        "SELECT id FROM device WHERE {id} {operator} $1 ORDER BY {id} {order} LIMIT {NEIGHBOURS}"
    )
}
