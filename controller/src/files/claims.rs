//! Which file an object comes from.
//!
//! | an object is in | the world has |
//! |---|---|
//! | one file | that |
//! | several files | the one of the file that comes first by path; the others are reported |
//! | no file any more | nothing |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use sluice_policy::source::{Key, Object};
use sluice_policy::world::Edit;

/// What one file holds.
pub(crate) type Held = BTreeMap<Key, Object>;

/// The objects of all files.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    files: BTreeMap<Arc<Path>, Held>,
    /// Sorted; the first one counts.
    claimants: HashMap<Key, Vec<Arc<Path>>>,
    /// Keys with more than one claimant.
    contested: BTreeSet<Key>,
}

impl Claims {
    pub(crate) fn held(&self, file: &Path) -> Option<&Held> {
        self.files.get(file)
    }

    pub(crate) fn objects(&self) -> usize {
        self.claimants.len()
    }

    /// From now on `file` holds `new`; `None`: it is gone. Returns what that changes in the world.
    pub(crate) fn replace(&mut self, file: &Arc<Path>, new: Option<Held>) -> Vec<Edit> {
        let old = self.files.remove(file).unwrap_or_default();
        let mut edits = Vec::new();
        let kept = new.unwrap_or_default();
        for key in old.keys().filter(|key| !kept.contains_key(*key)) {
            edits.extend(self.withdraw(key, file));
        }
        for (key, object) in &kept {
            let before = old.get(key);
            if before == Some(object) {
                continue;
            }
            let claimants = self.claimants.entry(key.clone()).or_default();
            if let Err(place) = claimants.binary_search(file) {
                claimants.insert(place, file.clone());
                if claimants.len() > 1 {
                    self.contested.insert(key.clone());
                }
            }
            if claimants.first() == Some(file) {
                edits.push(Edit::Put(object.clone()));
            }
        }
        if !kept.is_empty() {
            self.files.insert(file.clone(), kept);
        }
        edits
    }

    fn withdraw(&mut self, key: &Key, file: &Arc<Path>) -> Option<Edit> {
        let claimants = self.claimants.get_mut(key)?;
        let was_first = claimants.first() == Some(file);
        claimants.retain(|claimant| claimant != file);
        if claimants.len() < 2 {
            self.contested.remove(key);
        }
        let next = claimants.first().cloned();
        if next.is_none() {
            self.claimants.remove(key);
        }
        let heir = next.and_then(|next| self.files.get(&next)?.get(key));
        match heir {
            _ if !was_first => None,
            Some(object) => Some(Edit::Put(object.clone())),
            None => Some(Edit::Remove(key.clone())),
        }
    }

    /// One line for each pair of files that hold the same objects.
    pub(crate) fn duplicates(&self) -> Vec<String> {
        let mut pairs: BTreeMap<(&Path, &Path), (&Key, usize)> = BTreeMap::new();
        for key in &self.contested {
            let Some([first, others @ ..]) = self.claimants.get(key).map(Vec::as_slice) else { continue };
            for other in others {
                pairs.entry((other, first)).or_insert((key, 0)).1 += 1;
            }
        }
        let line = |((other, first), (key, count)): ((&Path, &Path), (&Key, usize))| {
            let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            let (other, first) = (other.display(), first.display());
            format!("{other}: {key}{more}: also in {first}, which comes first and counts; remove one of them")
        };
        pairs.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use sluice_policy::source::Namespace;

    use super::*;

    fn namespace(name: &str, team: &str) -> Object {
        Object::Namespace(Namespace { name: name.into(), labels: [("team".into(), team.into())].into() })
    }

    fn held(objects: &[Object]) -> Option<Held> {
        Some(objects.iter().map(|o| (o.key(), o.clone())).collect())
    }

    #[test]
    fn the_first_file_counts_and_its_heir_follows() {
        let (a, b): (Arc<Path>, Arc<Path>) = (Path::new("a.yaml").into(), Path::new("b.yaml").into());
        let (red, blue) = (namespace("x", "red"), namespace("x", "blue"));
        let mut claims = Claims::default();
        assert_eq!(claims.replace(&b, held(std::slice::from_ref(&blue))), [Edit::Put(blue.clone())]);
        assert!(claims.duplicates().is_empty());
        assert_eq!(claims.replace(&a, held(std::slice::from_ref(&red))), [Edit::Put(red.clone())], "a comes before b");
        assert_eq!(
            claims.duplicates(),
            ["b.yaml: Namespace x: also in a.yaml, which comes first and counts; remove one of them"]
        );
        assert_eq!(claims.replace(&b, held(&[namespace("x", "green")])), [], "b doesn't count");
        assert_eq!(claims.replace(&a, held(std::slice::from_ref(&red))), [], "nothing changed");
        assert_eq!(claims.replace(&a, None), [Edit::Put(namespace("x", "green"))], "b inherits");
        assert!(claims.duplicates().is_empty());
        assert_eq!(claims.replace(&b, held(&[])), [Edit::Remove(red.key())]);
        assert_eq!(claims.objects(), 0);
        assert!(claims.held(&b).is_none());
    }
}
