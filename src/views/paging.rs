//! The progress through a list that is read page by page.

/// The maximum number of items on a page. Bounds the memory of a list of any length.
pub(super) const PAGE: u64 = 1000;

/// The position in a list: it has been read up to the key of the last item.
#[derive(Debug)]
pub(super) struct Progress<K> {
    last: Option<K>,
    /// The number of items that may still be read.
    left: u64,
    ended: bool,
}

impl<K> Progress<K> {
    /// Begins a list of which at most `items` are read.
    pub(super) fn of_at_most(items: u64) -> Self {
        Self { last: None, left: items, ended: false }
    }

    /// The key after which the next page begins; `None` for the first page.
    pub(super) fn last(&self) -> Option<&K> {
        self.last.as_ref()
    }

    /// The maximum number of items of the next page; `None` if there is no next page. The
    /// first page is asked for even if it may have no item.
    pub(super) fn limit(&self) -> Option<u64> {
        (!self.ended).then(|| self.left.min(PAGE))
    }

    /// Notes a page that was read with `limit`, and the key of its last item.
    pub(super) fn note<T>(&mut self, limit: u64, page: &[T], key: impl FnOnce(&T) -> K) {
        let items = page.len() as u64;
        self.left = self.left.saturating_sub(items);
        self.ended = items < limit || self.left == 0;
        self.last = page.last().map(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of the pages in which a list of `length` numbers is read.
    fn pages(length: u64, at_most: u64) -> Vec<usize> {
        let mut progress = Progress::of_at_most(at_most);
        let mut sizes = Vec::new();
        while let Some(limit) = progress.limit() {
            let first = progress.last().map_or(0, |last| last + 1);
            let page: Vec<u64> = (first..length.min(first + limit)).collect();
            progress.note(limit, &page, |last| *last);
            sizes.push(page.len());
        }
        sizes
    }

    #[test]
    fn a_list_is_read_to_its_end_or_to_its_limit() {
        for (length, at_most, expected) in [
            (0, u64::MAX, &[0][..]),
            (999, u64::MAX, &[999]),
            (1000, u64::MAX, &[1000, 0]),
            (2500, u64::MAX, &[1000, 1000, 500]),
            (2500, 1000, &[1000]),
            (2500, 1001, &[1000, 1]),
            (5, 0, &[0]),
        ] {
            assert_eq!(pages(length, at_most), expected, "{at_most} of {length}");
        }
    }
}
