use sea_orm::entity::prelude::*;

/// A device's status as the database spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
pub enum Status {
    /// Registered, never heard.
    Provisioning,
    /// Heard within its timeout.
    Online,
    /// Silent for longer than its timeout.
    Offline,
    /// Heard, and its last heartbeat reported an error.
    Error,
}
