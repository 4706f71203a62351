//! Manifests as they were written, beside what they were understood as.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use sluice_crds::{Diagnostic, Document, FileError, Limits, Value, each_file, files_below, lower_document, read_manifests};
use sluice_policy::Protocol;
use sluice_policy::label::Labels;
use sluice_policy::source::{Key, Node, Object, Pod, Policy};

use super::catalogue::Code;
use super::finding::{Finding, Findings, Severity};
use super::service::Service;
use super::template;
use crate::progress::Progress;

/// A label `lint.sluice.dev/CODE: ignore` asks that CODE is not reported for its object. (Annotations are not kept when manifests
/// are read: they take more room than all the rest.)
const PREFIX: &str = "lint.sluice.dev/";
const IGNORE: &str = "ignore";

/// A policy, and its text.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: Arc<str>,
    pub(super) value: Value,
    pub(super) policy: Policy,
}

impl Written {
    /// Whether the policy asks that `code` is not reported for it.
    pub(super) fn ignores(&self, code: Code) -> bool {
        let labels = self.value.get("metadata").and_then(|metadata| metadata.get("labels"));
        let asked = labels.and_then(Value::as_map).into_iter().flatten();
        asked.filter(|label| label.value.as_str() == Some(IGNORE)).any(|label| {
            let name = label.key.strip_prefix(PREFIX);
            name == Some(code.as_str())
        })
    }
}

/// A pod, and the ports that its containers declare, with a name or without.
#[derive(Debug)]
pub(super) struct Inhabitant {
    pub(super) pod: Pod,
    pub(super) containers: Vec<(Protocol, u16)>,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) policies: Vec<Written>,
    pub(super) pods: Vec<Inhabitant>,
    pub(super) namespaces: BTreeMap<Arc<str>, Labels>,
    pub(super) nodes: Vec<Node>,
    pub(super) services: Vec<Service>,
    pub(super) files: usize,
    /// Whether something could not be read or understood.
    pub(super) damaged: bool,
}

/// Files that are read before what they hold is looked at.
const AT_ONCE: usize = 64;

/// Reads files and folders; what is wrong with them is among the findings.
pub(super) fn read(paths: &[PathBuf], findings: &mut Findings, progress: &Progress) -> Objects {
    let mut files = Vec::new();
    let mut reader = Reader { objects: Objects::default(), places: HashMap::new(), findings };
    for path in paths {
        match files_below(path) {
            Ok(found) => files.extend(found),
            Err(source) => reader.unreadable(&FileError::Io { path: path.clone(), source }),
        }
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    reader.objects.files = files.len();
    // A few at a time: what was written takes more memory than what is kept of it.
    for (i, paths) in files.chunks(AT_ONCE).enumerate() {
        progress.step("files read:", i * AT_ONCE, files.len());
        let read = each_file(paths, |path| read_manifests(path, Limits::default()));
        for (path, read) in paths.iter().zip(read) {
            let manifests = match read {
                Ok(manifests) => manifests,
                Err(error) => {
                    reader.unreadable(&error);
                    continue;
                }
            };
            let source: Arc<str> = path.to_string_lossy().into();
            for error in manifests.errors {
                let (line, field, message) = (error.line, error.field, error.message);
                reader.damage(source.clone(), line, field, message);
            }
            let all = manifests.documents.len();
            for (j, document) in manifests.documents.into_iter().enumerate() {
                progress.step("objects read:", j, all);
                reader.document(document);
            }
        }
    }
    reader.objects
}

struct Reader<'f> {
    objects: Objects,
    /// Where an object was defined first, and its index among those of its kind.
    places: HashMap<Key, (usize, String)>,
    findings: &'f mut Findings,
}

impl Reader<'_> {
    fn unreadable(&mut self, error: &FileError) {
        let line = if let FileError::NotUtf8 { line, .. } = error { u32::try_from(*line).unwrap_or(0) } else { 0 };
        self.damage(error.path().to_string_lossy().into(), line, String::new(), error.to_string());
    }

    fn damage(&mut self, file: Arc<str>, line: u32, field: String, message: String) {
        self.objects.damaged = true;
        let check = Code::Unreadable.check();
        let fix = "mend the file; until then the rest is checked without it".to_owned();
        let (code, severity, why) = (check.code, check.severity, check.why);
        self.findings.push(Finding { code, severity, file, line, object: String::new(), field, message, why, fix });
    }

    fn document(&mut self, document: Document) {
        let lowered = lower_document(&document);
        let file = document.source.clone();
        for diagnostic in lowered.diagnostics {
            self.remark(diagnostic, &file);
        }
        if let Some(pod) = template::pod(&document.value) {
            let containers = template::container_ports(&document.value);
            self.objects.pods.push(Inhabitant { pod, containers });
        }
        self.objects.services.extend(Service::read(&document));
        let Some(object) = lowered.object else { return };
        let key = object.key();
        let place = format!("{file}:{}", document.line);
        let earlier = self.places.get(&key).map(|(index, place)| (*index, place.clone()));
        if let Some((_, first)) = &earlier {
            self.twice(&key, &document, first);
        }
        let earlier = earlier.map(|(index, _)| index);
        let objects = &mut self.objects;
        let index = match object {
            Object::Policy(policy) => put(&mut objects.policies, earlier, Written { file, value: document.value, policy }),
            Object::Pod(pod) => {
                let containers = template::container_ports(&document.value);
                put(&mut objects.pods, earlier, Inhabitant { pod, containers })
            }
            Object::Node(node) => put(&mut objects.nodes, earlier, node),
            Object::Namespace(namespace) => {
                objects.namespaces.insert(namespace.name, namespace.labels);
                0
            }
            Object::Name(_) => 0,
        };
        self.places.entry(key).or_insert((index, place));
    }

    /// What the reader of manifests has to say.
    fn remark(&mut self, diagnostic: Diagnostic, file: &Arc<str>) {
        let is_error = diagnostic.severity == sluice_crds::Severity::Error;
        self.objects.damaged |= is_error;
        let code = code_of(&diagnostic, is_error);
        let severity = if is_error { Severity::Error } else { Severity::Warning };
        self.findings.push(Finding {
            code: code.as_str(),
            severity,
            file: diagnostic.source.unwrap_or_else(|| file.clone()),
            line: diagnostic.line,
            object: diagnostic.object.to_string(),
            field: diagnostic.field,
            message: diagnostic.message,
            why: code.check().why,
            fix: diagnostic.remedy,
        });
    }

    fn twice(&mut self, key: &Key, document: &Document, first: &str) {
        let check = Code::Doubtful.check();
        self.findings.push(Finding {
            code: check.code,
            severity: check.severity,
            file: document.source.clone(),
            line: document.line,
            object: key.to_string(),
            field: String::new(),
            message: format!("defined a second time; the first is at {first}, and this one counts"),
            why: check.why,
            fix: "remove one of them".to_owned(),
        });
    }
}

/// Puts `item` in the place of an earlier one, or at the end; says where.
fn put<T>(items: &mut Vec<T>, earlier: Option<usize>, item: T) -> usize {
    match earlier {
        Some(index) => {
            items[index] = item;
            index
        }
        None => {
            items.push(item);
            items.len() - 1
        }
    }
}

/// Two of the reader's remarks are mistakes that have names of their own.
fn code_of(diagnostic: &Diagnostic, is_error: bool) -> Code {
    let (field, message) = (&diagnostic.field, &diagnostic.message);
    if message.contains("is less than port") || (field.ends_with(".range") && message.contains("is not less than")) {
        return Code::EndPortBelowPort;
    }
    if field.contains(".except[") && message.contains("is not a part of") {
        return Code::ExceptOutsideCidr;
    }
    if is_error { Code::NotUnderstood } else { Code::Doubtful }
}
