//! One manifest, lowered, for the tests that judge row by row.

use sluice_crds::{Lowered, lower_document, read};

pub(crate) fn lowered(text: &str) -> Lowered {
    let manifests = read(text, "m.yaml");
    assert!(manifests.is_whole(), "{text}: {:?}", manifests.errors);
    let [document] = &manifests.documents[..] else { panic!("one document") };
    lower_document(document)
}
