//! Ids that somebody may have meant who has mistyped one.

/// The maximum number of spellings that are tried.
const SPELLINGS: usize = 1_500;

/// The characters with which ids are usually made.
const USUAL: &str = "0123456789abcdefghijklmnopqrstuvwxyz-_";

/// The number of characters that may be missing at the end of an id.
const MISSING: usize = 4;

/// The ids that differ from `id` by one slip: two neighbours exchanged, a character missing, one
/// too many or another one, or all in upper or lower case. At most 1,500.
pub fn spellings(id: &str) -> Vec<String> {
    let letters: Vec<char> = id.chars().collect();
    let text = |letters: &[char]| letters.iter().collect::<String>();
    let exchanged = (1..letters.len()).map(|n| {
        let mut letters = letters.clone();
        letters.swap(n - 1, n);
        text(&letters)
    });
    let one_less = (0..letters.len()).map(|n| {
        let mut letters = letters.clone();
        letters.remove(n);
        text(&letters)
    });
    let places = |last: usize| (0..last).flat_map(|n| USUAL.chars().map(move |other| (n, other)));
    let other = places(letters.len()).map(|(n, other)| {
        let mut letters = letters.clone();
        letters[n] = other;
        text(&letters)
    });
    let one_more = places(letters.len() + 1).map(|(n, other)| {
        let mut letters = letters.clone();
        letters.insert(n, other);
        text(&letters)
    });
    let cases = [id.to_lowercase(), id.to_uppercase(), id.trim().to_owned()].into_iter();
    let all = cases.chain(exchanged).chain(one_less).chain(other).chain(one_more);
    let all = all.filter(|other| other != id && !other.is_empty());
    all.take(SPELLINGS).collect()
}

/// Those of `ids` that are like `id`, the likest first, at most `count`.
pub fn likest(id: &str, ids: impl IntoIterator<Item = String>, count: usize) -> Vec<String> {
    let mut all: Vec<_> = ids.into_iter().filter(|other| other != id).collect();
    all.sort_unstable();
    all.dedup();
    // Exchanged characters are the most frequent slip.
    let likeness =
        |other: String| Some((difference(id, &other)?, !has_same_letters(id, &other), other));
    let mut like: Vec<_> = all.into_iter().filter_map(likeness).collect();
    like.sort();
    like.into_iter().map(|(.., other)| other).take(count).collect()
}

fn has_same_letters(id: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    sorted(id) == sorted(other)
}

/// The number of slips between two ids; `None` if they are too many to be slips.
fn difference(id: &str, other: &str) -> Option<usize> {
    let (a, b) = (id.to_lowercase(), other.to_lowercase());
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let slips = slips(&a, &b);
    let most = (a.len().min(b.len()) / 3).min(3);
    let is_begun = !a.is_empty() && b.starts_with(&a) && b.len() - a.len() <= MISSING;
    (slips <= most || is_begun).then_some(slips)
}

/// The least number of characters that are missing, too many, different, or exchanged with
/// their neighbour.
fn slips(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, of_a) in a.iter().enumerate() {
        let (last, mut row) = (&rows[i], vec![i + 1]);
        for (j, of_b) in b.iter().enumerate() {
            let changed = last[j] + usize::from(of_a != of_b);
            let least = changed.min(last[j + 1] + 1).min(row[j] + 1);
            let exchanged = i > 0 && j > 0 && *of_a == b[j - 1] && a[i - 1] == *of_b;
            row.push(if exchanged { least.min(rows[i - 1][j - 1] + 1) } else { least });
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_slip_is_among_the_spellings() {
        for (meant, typed) in [
            ("pump-17", "pump-71"),
            ("pump-17", "pum-17"),
            ("pump-17", "pumpp-17"),
            ("pump-17", "pump-1"),
            ("pump-17", "pump_17"),
            ("pump-17", "PUMP-17"),
            ("PUMP-17", "pump-17"),
            ("pump 17", " pump 17"),
        ] {
            assert!(spellings(typed).iter().any(|other| other == meant), "{meant} for {typed}");
        }
        assert_eq!(spellings(""), USUAL.chars().map(String::from).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_too_different_is_not_meant() {
        let ids = ["pump-17", "pump-1", "pump-77", "pump-71x", "valve-71", "x"];
        let like = |id: &str| likest(id, ids.map(str::to_owned), 3);
        assert_eq!(like("pump-71"), ["pump-17", "pump-1", "pump-71x"]);
        assert_eq!(like("PUMP-17"), ["pump-17", "pump-1", "pump-77"]);
        assert_eq!(like("pump"), ["pump-1", "pump-17", "pump-77"]);
        assert_eq!(like("nothing-like-it"), [""; 0]);
        assert_eq!(like("y"), [""; 0]);
        assert_eq!(like("X"), ["x"]);
    }

    proptest! {
        #[test]
        fn spellings_are_bounded_and_others(id in any::<String>()) {
            let spellings = spellings(&id);
            prop_assert!(spellings.len() <= SPELLINGS);
            prop_assert!(!spellings.contains(&id));
        }

        #[test]
        fn slips_are_a_distance(a in "[a-c]{0,6}", b in "[a-c]{0,6}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let (a, b) = (chars(&a), chars(&b));
            prop_assert_eq!(slips(&a, &b), slips(&b, &a));
            prop_assert_eq!(slips(&a, &b) == 0, a == b);
            prop_assert!(slips(&a, &b) >= a.len().abs_diff(b.len()));
        }
    }
}
