//! Words that one may have meant.

/// How many letters must be added, left out or changed to make `a` from `b`; a swap of neighbours counts as one.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// The word among `known` that `word` is most likely a slip for: one letter in four may be wrong, and two at most. Letter case
/// says nothing.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase();
    let length = word.chars().count();
    let bound = (length / 4).clamp(1, 2);
    let close = known.into_iter().filter(|other| other.chars().count().abs_diff(length) <= bound);
    let judged = close.map(|other| (distance(&word, &other.to_lowercase()), other));
    judged.filter(|(distance, _)| *distance <= bound && *distance < length).min().map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let rows = [
            ("fronted", Some("frontend")),
            ("fronetnd", Some("frontend")),
            ("Backend", Some("backend")),
            ("databse", Some("database")),
            ("web", None),
            ("wbe", None),
            ("v1", Some("v2")),
            ("kube-system", None),
        ];
        for (word, want) in rows {
            assert_eq!(nearest(word, ["frontend", "backend", "database", "v2"]), want, "{word}");
        }
    }
}
