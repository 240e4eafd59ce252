//! The plans of the statements that a store executes, as the database makes them.

use std::sync::{Arc, Mutex};

use heartbeatd::store::{DeviceStore, Interference, Interfering, Outcome, Point};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::database::TestDatabase;

/// Remembers the statements of a store.
#[derive(Clone, Default)]
pub struct Statements(Arc<Mutex<Vec<String>>>);

impl Interference for Statements {
    fn at(&self, point: Point) -> Interfering {
        if let Point::Statement(sql) = point {
            self.0.lock().expect("no reader panics").push(sql);
        }
        Box::pin(std::future::ready(Outcome::GoOn))
    }
}

impl Statements {
    /// The store, and a memory of what it executes.
    pub fn of(store: DeviceStore) -> (DeviceStore, Self) {
        let statements = Self::default();
        (store.interfere(Arc::new(statements.clone())), statements)
    }

    /// The statements since this was last called.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no writer panics"))
    }
}

/// The lines of a statement's plan, with parameters of unknown value.
pub async fn plan(database: &TestDatabase, sql: &str) -> Vec<String> {
    let db = sea_orm::Database::connect(&database.url).await.expect("the database opens");
    let backend = db.get_database_backend();
    if backend == DbBackend::Postgres {
        // As for a large table: what can use an index does.
        let parameters = (1..20).take_while(|n| sql.contains(&format!("${n}"))).count();
        let nulls = vec!["NULL"; parameters].join(", ");
        let nulls = if parameters == 0 { nulls } else { format!("({nulls})") };
        let prepare = format!(
            "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
             SET enable_bitmapscan = off; SET enable_sort = off; PREPARE q AS {sql}"
        );
        let transaction = sea_orm::TransactionTrait::begin(&db).await.expect("it begins");
        transaction.execute_unprepared(&prepare).await.expect(sql);
        let explain = format!("EXPLAIN EXECUTE q{nulls}");
        let rows = transaction.query_all_raw(Statement::from_string(backend, explain)).await;
        let line = |row: &sea_orm::QueryResult| row.try_get_by_index(0).expect("a text");
        return rows.expect(sql).iter().map(line).collect();
    }
    let explain = Statement::from_string(backend, format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = db.query_all_raw(explain).await.expect(sql);
    rows.iter().map(|row| row.try_get("", "detail").expect("a text")).collect()
}

/// The lines of a plan that go through a whole table or sort rows.
pub fn unbounded(plan: &[String]) -> Vec<&String> {
    let is_bad = |line: &&String| {
        let scans = line.contains("SCAN device") || line.contains("SCAN status_transition");
        // A partial index has only what is looked for.
        let scans = scans && !line.contains("USING INDEX") && !line.contains("USING COVERING");
        scans || line.contains("TEMP B-TREE") || line.contains("Seq Scan") || line.contains("Sort")
    };
    plan.iter().filter(is_bad).collect()
}
