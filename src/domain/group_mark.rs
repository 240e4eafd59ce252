//! The part of a group's name at the broker that no configuration says.

use std::fmt;

use super::DatabaseTimeline;

/// The mark that tells a group at the broker from those of the same name that it has nothing to do
/// with: members on another database, which would be given its heartbeats, and members that the
/// database has forgotten with an earlier timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupMark {
    /// The timeline of the database.
    pub timeline: DatabaseTimeline,
    /// A number that two databases hardly share.
    pub database: u32,
}

/// As in `00000001.9C41F2A0`, or `9C41F2A0` for a database that tells no timeline.
impl fmt::Display for GroupMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, database } = self;
        if !timeline.is_none() {
            write!(f, "{timeline}.")?;
        }
        write!(f, "{database:08X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_the_timeline_if_there_is_one_and_the_database() {
        let timeline = "0000000A".parse().expect("a timeline");
        let mark = GroupMark { timeline, database: 0x9c41_f2a0 };
        assert_eq!(mark.to_string(), "0000000A.9C41F2A0");
        assert_eq!(GroupMark { database: 7, ..GroupMark::default() }.to_string(), "00000007");
    }
}
