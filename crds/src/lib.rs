//! How people write policy: Kubernetes objects and manifests, lowered to `sluice_policy::source`.
//!
//! ```text
//! text -> read -> [Document] -> lower -> source::Object, and what is wrong, by object, field and line
//! ```
//!
//! | function | for |
//! |---|---|
//! | [`read`] | a text of manifests to documents; says whether the text as a whole parsed |
//! | [`lower`], [`lower_document`] | one document to what the engine knows |
//! | [`read_file`] | one file; the controller's unit of "what it held before stays in force" |
//! | [`load`] | files and folders at once; what `sluice eval -f` reads |
//! | [`load_where`] | the same for a question about few objects among many; what `sluice explain -f` reads |
//! | [`read_manifests`], [`peers_of_rule`] | text beside understanding: what `sluice lint` looks at |
//! | [`case::read_cases`] | the conformance corpus |
//! | [`schema::definitions`] | the CustomResourceDefinitions of our kinds; `crdgen` writes them |
//!
//! Kinds: `v1` Namespace, Pod, Node (objects of the engine) and Service (checked only), `networking.k8s.io/v1` NetworkPolicy,
//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, `sluice.dev/v1alpha1` SluiceNetworkPolicy and
//! SluiceClusterNetworkPolicy. All other kinds are passed over.
//!
//! Objects are read from a generic tree and not by `serde` into types, so that one bad rule harms only itself, and its author
//! learns the field, the line and the remedy. What can't be read closes: the table is in the module `policy` of this crate. A
//! [`Severity::Error`] means that the API server would not take the object (or that this version can't understand it), so
//! `lowered.is_valid()` answers whether it would. Two exceptions, both on the strict side: a `null` where a rule, peer or port
//! belongs is an error here, where the API takes it for an empty one, and so are addresses that programs read differently
//! (`010.0.0.0/8`, `::ffff:10.0.0.0/104`).

mod address;
mod bounds;
pub mod case;
mod cluster_policy;
mod condition;
mod diagnostic;
mod dns;
mod domain;
mod excerpt;
mod field;
mod fqdn;
mod grpc;
mod http;
mod icmp;
mod inventory;
mod l7;
mod load;
mod lower;
mod manifest;
mod metadata;
mod peer;
mod pod;
mod policy;
mod port;
mod rule;
mod scalar;
pub mod schema;
mod selector;
mod syntax;
mod time;
mod tls;
pub mod value;
mod written;
mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use dns::{number_of_type, type_of_number};
pub use excerpt::{Outline, read_where};
pub use load::{
    FileError, FileObject, FileObjects, Loaded, each_file, files_below, is_manifest, load, load_where, read_file,
    read_file_within, read_manifests,
};
pub use lower::{Lowered, lower, lower_document};
pub use manifest::{Document, ManifestError, Manifests, read, read_within};
pub use time::{moment_text, parse_moment};
pub use value::Value;
pub use written::peers_of_rule;
pub use yaml::Limits;
