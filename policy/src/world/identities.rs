//! Settling: classes get identities by what they answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::classes::ClassId;
use super::{Effects, Identity, World};
use crate::snapshot::{IdentityId, Programs, SetId};

impl World {
    /// Gives every class whose answers changed its identity.
    ///
    /// Identities are never renumbered: where some classes of an identity now answer differently, the largest part keeps the
    /// number, and each other part joins the identity that answers like it, or gets a new number.
    pub(super) fn settle_identities(&mut self, effects: &mut Effects) {
        for class in std::mem::take(&mut self.classes.emptied) {
            let identity = self.classes.remove(class).and_then(|class| class.identity);
            if let Some(identity) = identity {
                self.leave_identity(class, identity, effects);
            }
        }
        let mut new: Vec<(ClassId, Arc<[SetId]>)> = Vec::new();
        let mut split: BTreeMap<IdentityId, FxHashMap<Arc<[SetId]>, Vec<ClassId>>> = BTreeMap::new();
        for (class, answers) in std::mem::take(&mut self.classes.pending) {
            let answers: Arc<[SetId]> = answers.into();
            match self.classes.identity(class) {
                None => new.push((class, answers)),
                Some(identity) if self.identities[&identity].answers == answers => {}
                Some(identity) => split.entry(identity).or_default().entry(answers).or_default().push(class),
            }
        }
        for (identity, parts) in split {
            self.split(identity, parts, effects);
        }
        // In the order of appearance, so that the same edits lead to the same numbers.
        new.sort_unstable_by_key(|(class, _)| *class);
        for (class, answers) in new {
            self.join(&[class], answers, effects);
        }
    }

    fn split(&mut self, id: IdentityId, parts: FxHashMap<Arc<[SetId]>, Vec<ClassId>>, effects: &mut Effects) {
        let mut parts: Vec<_> = parts.into_iter().collect();
        // Largest first; the answers only make the order certain.
        parts.sort_by(|(a, x), (b, y)| y.len().cmp(&x.len()).then_with(|| a.cmp(b)));
        let moving: usize = parts.iter().map(|(_, classes)| classes.len()).sum();
        let staying = self.identities[&id].classes.len() - moving;
        let mut rest = parts.as_slice();
        if let Some(((answers, classes), others)) = rest.split_first()
            && classes.len() > staying
            && !self.by_answers.contains_key(answers)
        {
            // The largest part keeps the number, so what stays as it was must go.
            rest = others;
            let leaving: FxHashSet<ClassId> = parts.iter().flat_map(|(_, classes)| classes).copied().collect();
            let identity = &self.identities[&id];
            let remainder: Vec<ClassId> =
                if staying == 0 { Vec::new() } else { identity.classes.difference(&leaving).copied().collect() };
            let old_answers = identity.answers.clone();
            self.answer(id, answers.clone(), effects);
            if !remainder.is_empty() {
                self.join(&remainder, old_answers, effects);
            }
        }
        for (answers, classes) in rest {
            self.join(classes, answers.clone(), effects);
        }
    }

    /// Makes an identity answer differently, as a whole.
    fn answer(&mut self, id: IdentityId, answers: Arc<[SetId]>, effects: &mut Effects) {
        let identity = self.identities.get_mut(&id).expect("an identity that is split is there");
        let old = std::mem::replace(&mut identity.answers, answers.clone());
        if self.by_answers.get(&old) == Some(&id) {
            self.by_answers.remove(&old);
        }
        self.by_answers.entry(answers.clone()).or_insert(id);
        for set in old.iter().filter(|set| answers.binary_search(set).is_err()) {
            self.selectors.members_mut(*set).remove(&id);
            effects.left(*set, id);
        }
        for set in answers.iter().filter(|set| old.binary_search(set).is_err()) {
            self.selectors.members_mut(*set).insert(id);
            effects.joined(*set, id);
        }
        effects.reprogram.insert(id);
    }

    /// Moves classes to the identity with these answers, a new one if there is none.
    fn join(&mut self, classes: &[ClassId], answers: Arc<[SetId]>, effects: &mut Effects) {
        let id = match self.by_answers.get(&answers) {
            Some(id) => *id,
            None => {
                self.last_identity += 1;
                let id = IdentityId(self.last_identity);
                for set in answers.iter() {
                    self.selectors.members_mut(*set).insert(id);
                    effects.joined(*set, id);
                }
                self.by_answers.insert(answers.clone(), id);
                let identity = Identity { answers, classes: FxHashSet::default(), programs: Programs::default() };
                self.identities.insert(id, identity);
                effects.reprogram.insert(id);
                id
            }
        };
        for class in classes {
            let before = self.classes.identity(*class);
            if before == Some(id) {
                continue;
            }
            self.classes.set_identity(*class, id);
            self.identities.get_mut(&id).expect("the identity was found or made above").classes.insert(*class);
            for pod in self.classes.pods(*class) {
                if let Some(placed) = self.pods.get(pod) {
                    effects.addresses.extend(placed.pod.ips.iter().copied());
                }
            }
            if let Some(before) = before {
                self.leave_identity(*class, before, effects);
            }
        }
    }

    fn leave_identity(&mut self, class: ClassId, id: IdentityId, effects: &mut Effects) {
        let identity = self.identities.get_mut(&id).expect("a class's identity is there while the class is in it");
        identity.classes.remove(&class);
        if !identity.classes.is_empty() {
            return;
        }
        let identity = self.identities.remove(&id).expect("the identity was found above");
        if self.by_answers.get(&identity.answers) == Some(&id) {
            self.by_answers.remove(&identity.answers);
        }
        for set in identity.answers.iter() {
            self.selectors.members_mut(*set).remove(&id);
            effects.left(*set, id);
        }
        self.release_programs(identity.programs);
        effects.identities.insert(id);
    }

    /// Forgets the sets that nothing refers to any more. Two identities may then answer alike: they keep their numbers.
    pub(super) fn drop_unused_sets(&mut self, effects: &mut Effects) {
        for set in std::mem::take(&mut self.selectors.unused) {
            for id in self.selectors.remove(set) {
                effects.left(set, id);
                let identity = self.identities.get_mut(&id).expect("members of a set are identities that are there");
                let answers: Arc<[SetId]> = identity.answers.iter().copied().filter(|other| *other != set).collect();
                let old = std::mem::replace(&mut identity.answers, answers.clone());
                if self.by_answers.get(&old) == Some(&id) {
                    self.by_answers.remove(&old);
                }
                self.by_answers.entry(answers).or_insert(id);
                effects.reprogram.insert(id);
            }
        }
    }
}
