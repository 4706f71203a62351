//! Writes the CustomResourceDefinitions of our kinds.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder] = arguments.as_slice() else {
        eprintln!("usage: crdgen FOLDER   writes the CustomResourceDefinitions into it, as YAML");
        return ExitCode::from(2);
    };
    for definition in sluice_crds::schema::definitions() {
        let path = folder.join(&definition.file);
        if let Err(error) = std::fs::write(&path, definition.yaml()) {
            eprintln!("crdgen: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}
