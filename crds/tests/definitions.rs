//! The CustomResourceDefinitions: that the files are what `crdgen` writes, and that whatever the API server refuses by them the reader
//! of files refuses too, with the same words where they are ours.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use sluice_crds::{Document, Severity, Value, lower_document, read};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_files_are_what_crdgen_writes() {
    for definition in sluice_crds::schema::definitions() {
        let written = fs::read_to_string(folder().join(&definition.file)).unwrap();
        assert!(written == definition.yaml(), "crds/{} is old: cargo run -p sluice-crds --bin crdgen crds", definition.file);
    }
}

#[test]
fn every_field_is_described() {
    fn look(schema: &Json, path: &str) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                let known_to_the_server = path == ".metadata";
                assert!(
                    known_to_the_server
                        || property["description"]
                            .as_str()
                            .is_some_and(|text| text.ends_with('.') || text == "sluice.dev/v1alpha1" || path == ".kind"),
                    "{path}"
                );
                look(property, &path);
            }
        }
        if !schema["items"].is_null() {
            assert!(schema["maxItems"].is_u64(), "{path} has no bound");
            look(&schema["items"], &format!("{path}[]"));
        }
    }
    for definition in sluice_crds::schema::definitions() {
        look(&definition.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "");
    }
}

/// A manifest of validation.yaml.
struct Case {
    document: Document,
    name: String,
    /// The field, and the message where it is ours.
    refused: Option<(String, Option<String>)>,
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(folder().join("tests/validation.yaml")).expect("validation.yaml is readable");
    let case = |text: &str| {
        let manifests = read(text, "validation.yaml");
        assert!(manifests.is_whole(), "{:?}", manifests.errors);
        let [document] = <[Document; 1]>::try_from(manifests.documents).expect("one document between two lines");
        let name = document.value.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
        let name = name.expect("each manifest has a name").to_owned();
        let refused = text.lines().find_map(|line| line.strip_prefix("# refused: ")).map(|said| match said.split_once(": ") {
            Some((field, message)) => (field.to_owned(), Some(message.to_owned())),
            None => (said.to_owned(), None),
        });
        Case { document, name, refused }
    };
    text.split("\n---\n").map(case).collect()
}

#[test]
fn files_are_read_as_strictly() {
    let cases = cases();
    assert!(cases.len() > 15);
    for case in &cases {
        let said: Vec<_> =
            lower_document(&case.document).diagnostics.into_iter().filter(|d| d.severity == Severity::Error).collect();
        let Some((field, message)) = &case.refused else {
            assert!(said.is_empty(), "{}: {said:?}", case.name);
            continue;
        };
        let found = said.iter().any(|d| d.field == *field && message.as_ref().is_none_or(|message| d.message == *message));
        assert!(found, "{}: {field} {message:?} is not among {said:?}", case.name);
    }
}

/// The API server's own code, built from its modules (crds/tests/api_server): for minutes the first time, and kept for the next.
#[test]
#[ignore = "minutes: builds the code of the API server"]
fn the_api_server_refuses_the_same() {
    let Some(validate) = built() else { return };
    let definitions: Vec<PathBuf> =
        sluice_crds::schema::definitions().iter().map(|definition| folder().join(&definition.file)).collect();
    let run = |manifests: &[PathBuf]| -> Vec<Json> {
        let output = Command::new(&validate).args(&definitions).arg("--").args(manifests).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answers = String::from_utf8(output.stdout).unwrap();
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let answers = run(&[folder().join("tests/validation.yaml")]);
    let cases = cases();
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(answer["name"].as_str(), Some(&*case.name));
        let errors = answer["errors"].as_array().unwrap();
        let Some((field, message)) = &case.refused else {
            assert!(errors.is_empty() && answer["pruned"] == serde_json::json!([]), "{}: {answer}", case.name);
            continue;
        };
        let found = errors.iter().any(|error| {
            let (at, said) = (error["field"].as_str().unwrap(), error["message"].as_str().unwrap());
            // CEL can't point into a list: the list itself will do. And oneOf names the field in its message alone.
            let here = field.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
                || said.starts_with(&format!("\"{field}\" "));
            here && message.as_ref().is_none_or(|message| said == message)
        });
        assert!(found, "{}: {field} {message:?} is not among {answer}", case.name);
    }
    let examples: Vec<PathBuf> = sluice_crds::files_below(&folder().join("../examples")).unwrap();
    let answers = run(&examples);
    assert!(!answers.is_empty());
    for answer in &answers {
        assert_eq!((&answer["errors"], &answer["pruned"]), (&serde_json::json!([]), &serde_json::json!([])), "{answer}");
    }
}

/// The program, from the cache or built. `None`, and said, where there is no Go that could build it, or no way to its modules.
fn built() -> Option<PathBuf> {
    let source = folder().join("tests/api_server");
    let read_whole = |name: &str| fs::read(source.join(name)).expect("its source is there");
    // What is built depends on these two alone; the modules are fixed by go.sum.
    let texts = [read_whole("main.go"), read_whole("go.sum")].concat();
    let version =
        texts.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let cache = std::env::home_dir().expect("who runs this has a home").join(".cache/sluice");
    let program = cache.join(format!("api-server-{version:016x}"));
    if program.exists() {
        return Some(program);
    }
    let unfinished = cache.join(format!("api-server-{version:016x}.{}", std::process::id()));
    fs::create_dir_all(&cache).expect("the cache can be written");
    let go = |arguments: &[&OsStr]| {
        let run = Command::new("go").args(arguments).current_dir(&source).output().map_err(|error| error.to_string())?;
        if run.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&run.stderr).into_owned()) }
    };
    if let Err(why) = go(&["mod".as_ref(), "download".as_ref()]) {
        // Not by eprintln, which is shown of failing tests alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED the_api_server_refuses_the_same: no Go with its modules here: {why}");
        return None;
    }
    go(&["build".as_ref(), "-mod=readonly".as_ref(), "-o".as_ref(), unfinished.as_os_str()])
        .unwrap_or_else(|why| panic!("the API server's code: {why}"));
    fs::rename(&unfinished, &program).expect("the cache can be written");
    Some(program)
}
