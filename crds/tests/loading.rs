//! Files and folders.

use std::fs;
use std::path::{Path, PathBuf};

use sluice_crds::{FileError, Limits, Loaded, load, read_file, read_file_within};
use sluice_policy::source::Key;

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder for the test");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("files lie in the folder")).expect("the folder can be made");
        fs::write(path, content).expect("the file can be written");
    }
    dir
}

fn pod(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n")
}

fn names(loaded: &Loaded) -> Vec<String> {
    let name = |object: &sluice_policy::source::Object| match object.key() {
        Key::Pod(pod) => pod.name.to_string(),
        other => format!("{other:?}"),
    };
    loaded.objects.iter().map(name).collect()
}

#[test]
fn a_folder_is_read_recursively_and_in_order() {
    let dir = folder(&[
        ("b.yaml", pod("b").as_bytes()),
        ("a.yml", pod("a").as_bytes()),
        ("sub/c.json", pod("c").as_bytes()),
        ("notes.txt", b"no manifest: ["),
        (".hidden.yaml", b"["),
        ("..data/d.yaml", pod("d").as_bytes()),
    ]);
    // A mounted ConfigMap is links into `..data`; a link back must not be followed for ever.
    std::os::unix::fs::symlink("..data/d.yaml", dir.path().join("d.yaml")).expect("a link");
    std::os::unix::fs::symlink(".", dir.path().join("sub/loop")).expect("a link");
    std::os::unix::fs::symlink("nowhere.yaml", dir.path().join("dangling.yaml")).expect("a link");
    let loaded = load(&[dir.path().to_owned()]);
    assert!(loaded.is_clean(), "{loaded:?}");
    assert_eq!(names(&loaded), ["a", "b", "d", "c"]);
    assert_eq!(loaded.files, 4);
    assert_eq!(loaded.into_edits().count(), 4);
}

#[test]
fn a_file_that_is_named_is_read_whatever_its_name_and_once() {
    let dir = folder(&[("policies", pod("a").as_bytes())]);
    let file = dir.path().join("policies");
    let loaded = load(&[file.clone(), file]);
    assert!(loaded.is_clean(), "{loaded:?}");
    assert_eq!(names(&loaded), ["a"]);
}

#[test]
fn a_broken_file_takes_no_other_with_it_and_what_can_be_read_of_it_is() {
    let broken = format!("{}---\na: [\n---\n{}", pod("v"), pod("w"));
    let dir = folder(&[
        ("a.yaml", pod("a").as_bytes()),
        ("b.yaml", broken.as_bytes()),
        ("c.yaml", b"\xff\n"),
        ("d.yaml", b"a: b\n\xff"),
    ]);
    let loaded = load(&[dir.path().to_owned(), dir.path().join("missing")]);
    assert!(!loaded.is_clean());
    assert_eq!(names(&loaded), ["a", "v", "w"]);
    let mut errors: Vec<String> = loaded.unreadable.iter().map(ToString::to_string).collect();
    errors.iter_mut().for_each(|e| *e = e.replace(&format!("{}/", dir.path().display()), ""));
    errors.sort();
    assert_eq!(errors[0], "b.yaml:4:1: a[0]: while parsing a node, did not find expected node content");
    assert_eq!(errors[1], "c.yaml:1: not UTF-8: save it as UTF-8");
    assert_eq!(errors[2], "d.yaml:2: not UTF-8: save it as UTF-8");
    assert!(errors[3].starts_with("missing: No such file"), "{errors:?}");
}

#[test]
fn the_same_object_twice_is_reported_and_the_later_counts() {
    let second = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: later}}";
    let dir = folder(&[("1.yaml", format!("{}---\n{}", pod("a"), pod("a")).as_bytes()), ("2.yaml", second.as_bytes())]);
    let loaded = load(&[dir.path().to_owned()]);
    assert_eq!(names(&loaded), ["a"]);
    assert!(format!("{:?}", loaded.objects).contains("later"));
    let remarks: Vec<String> = loaded.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].contains("1.yaml:3: Pod default/a: defined a second time; the first is at line 1"), "{remarks:?}");
    assert!(remarks[1].contains("2.yaml:1: Pod default/a: defined a second time; the first is at "), "{remarks:?}");
    assert!(remarks[1].contains("1.yaml:3"), "{remarks:?}");
}

#[test]
fn one_file_for_the_controller() {
    let text = format!("{}---\n{{apiVersion: v1, kind: Pod, metadata: {{name: b, labels: {{a: yes}}}}}}\n", pod("a"));
    let dir = folder(&[("f.yaml", text.as_bytes()), ("broken.yaml", b"spec:\n  x: [")]);
    let file = read_file(&dir.path().join("f.yaml")).expect("the file parses");
    assert_eq!(file.objects.len(), 1);
    assert_eq!(file.not_understood.len(), 1, "what was known of b stays");
    let remark = file.diagnostics[0].to_string();
    assert!(remark.ends_with("f.yaml:3: Pod b: metadata.labels.a: the truth value true where text belongs; put it in quotes (YAML takes words such as yes, on and 1.10 for other things)"), "{remark}");

    match read_file(&dir.path().join("broken.yaml")) {
        Err(FileError::Syntax { errors, .. }) => assert_eq!((errors[0].line, errors[0].field.as_str()), (3, "spec.x[0]")),
        other => panic!("{other:?}"),
    }
    assert!(read_file(&dir.path().join("none.yaml")).expect_err("it isn't there").is_not_found());
    assert!(matches!(read_file(dir.path()), Err(FileError::Io { .. })), "a folder is no file");
    let limits = Limits { bytes: 10, ..Limits::default() };
    assert!(matches!(read_file_within(&dir.path().join("f.yaml"), limits), Err(FileError::TooLarge { limit: 10, .. })));
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let dir = folder(&[]);
    let pipe = dir.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    assert!(matches!(read_file(&pipe), Err(FileError::Io { .. })));
    assert!(load(&[dir.path().to_owned()]).is_clean(), "in a folder it is passed over");
}

/// The recipes as they were published, from the shared corpus.
#[test]
fn published_recipes_are_read_without_error() {
    let Some(dir) = sluice_crds::case::conformance_dir() else {
        eprintln!("SKIPPED: ../shared/conformance isn't there");
        return;
    };
    // Each is a scene of its own: two of them define one policy differently.
    let files = sluice_crds::files_below(&dir.join("recipes")).expect("the folder can be listed");
    assert!(files.len() >= 10);
    for file in files {
        let loaded = load(&[file]);
        assert!(loaded.is_clean(), "{:?} {:?}", loaded.unreadable, loaded.diagnostics);
        assert!(!loaded.objects.is_empty());
    }
}

/// The manifests of the examples, where they are there.
#[test]
fn our_examples_are_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let paths: Vec<PathBuf> = dir.is_dir().then_some(dir).into_iter().collect();
    let loaded = load(&paths);
    assert!(loaded.unreadable.is_empty(), "{:?}", loaded.unreadable);
}
