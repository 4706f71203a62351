//! What is wrong with the files now: each trouble is said once, and once more when it is over.

use std::collections::BTreeMap;

/// Lines of one subject that are written; a file of a million errors tells its author nothing new.
const LINES: usize = 50;

/// The troubles by subject: a file's path, or what concerns several.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    subjects: BTreeMap<String, Vec<String>>,
    changed: bool,
}

impl Reports {
    /// From now on these lines are what is wrong with `subject`; none: all is well.
    pub(crate) fn set(&mut self, subject: &str, mut lines: Vec<String>) {
        if lines.len() > LINES {
            let more = lines.len() - LINES;
            lines.truncate(LINES);
            lines.push(format!("{subject}: and {more} more problems"));
        }
        let old = self.subjects.remove(subject).unwrap_or_default();
        for line in lines.iter().filter(|line| !old.contains(line)) {
            tracing::warn!("{line}");
        }
        for line in old.iter().filter(|line| !lines.contains(line)) {
            tracing::info!("resolved: {line}");
        }
        self.changed |= old != lines;
        if !lines.is_empty() {
            self.subjects.insert(subject.to_owned(), lines);
        }
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Everything that is wrong, if that has changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Option<Vec<String>> {
        std::mem::take(&mut self.changed).then(|| self.subjects.values().flatten().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_listed_while_they_last() {
        let mut reports = Reports::default();
        assert_eq!(reports.take_changes(), None);
        reports.set("a", vec!["a:1: bad".into()]);
        reports.set("b", vec![]);
        assert_eq!(reports.take_changes(), Some(vec!["a:1: bad".to_owned()]));
        reports.set("a", vec!["a:1: bad".into()]);
        assert_eq!(reports.take_changes(), None, "nothing new");
        reports.set("a", vec![]);
        assert_eq!(reports.take_changes(), Some(vec![]));
        reports.set("a", vec!["x".into(); LINES + 7]);
        let lines = reports.take_changes().expect("changed");
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (LINES + 1, Some("a: and 7 more problems")));
    }
}
