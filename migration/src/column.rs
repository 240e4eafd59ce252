//! Steps of migrations that can be repeated.

use sea_orm_migration::prelude::*;

/// Adds a column unless it exists. Versions before 000007 did not migrate in a transaction
/// on SQLite, so a process that was killed may have added the column without noting it.
pub(crate) async fn add_missing_column(
    manager: &SchemaManager<'_>,
    table: impl IntoIden,
    column: &mut ColumnDef,
) -> Result<(), DbErr> {
    let table = table.into_iden();
    if manager.has_column(table.to_string(), column.get_column_name()).await? {
        return Ok(());
    }
    let mut alter = Table::alter();
    alter.table(table).add_column(column);
    manager.alter_table(alter).await
}
