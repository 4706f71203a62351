//! Compiles the BPF program, where the machine has what that needs. Where it hasn't, the crate is built without BPF, says so
//! in a warning, and its `open` says why for as long as that build lives.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "bpf/redirect.bpf.c";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(with_bpf)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=PATH");
    match compile() {
        Ok(compiler) => {
            println!("cargo::rustc-cfg=with_bpf");
            println!("cargo::rustc-env=SLUICE_BPF_BUILD={compiler}");
        }
        Err(why) => {
            // Packages that are installed later are to be noticed. (A path that doesn't exist would build anew each time.)
            for list in ["/var/lib/dpkg/status", "/lib/apk/db/installed"] {
                if Path::new(list).exists() {
                    println!("cargo::rerun-if-changed={list}");
                }
            }
            for line in why.lines() {
                println!("cargo::warning=Sluice is built without BPF: {line}");
            }
            println!("cargo::rustc-env=SLUICE_BPF_BUILD={}", why.lines().next().unwrap_or_default());
        }
    }
}

/// The compiled program in `OUT_DIR`, and the name of its compiler; or why there is none, its first line by itself.
fn compile() -> Result<String, String> {
    let clang = env::var_os("CLANG").map_or_else(|| PathBuf::from("clang"), PathBuf::from);
    let version = Command::new(&clang).arg("--version").output();
    let version = version.map_err(|_| format!("{} was not found when Sluice was built", clang.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or("a nameless compiler").to_owned();

    // `libbpf-rs` links what the machine has, in the sense of a system library: libbpf, libelf, zlib.
    let libbpf = pkg_config::Config::new().atleast_version("1.0").cargo_metadata(false).probe("libbpf");
    let libbpf = libbpf.map_err(|_| "libbpf 1.0 or newer (libbpf-dev) was not found when Sluice was built".to_owned())?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("redirect.bpf.o");
    let mut command = Command::new(&clang);
    let target = if env::var_os("CARGO_CFG_TARGET_ENDIAN").is_some_and(|endian| endian == "big") { "bpfeb" } else { "bpfel" };
    command.args(["-target", target, "-O2", "-g", "-Wall", "-Wextra", "-fdebug-compilation-dir=.", "-c", PROGRAM, "-o"]);
    command.arg(&out);
    for folder in libbpf.include_paths.iter().chain(&multiarch()) {
        command.arg("-isystem").arg(folder);
    }
    let run = command.output().map_err(|error| format!("{} could not be run: {error}", clang.display()))?;
    let said = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        return Err(format!("{} could not compile {PROGRAM} when Sluice was built\n{said}", clang.display()));
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    Ok(version)
}

/// Where Debian keeps `asm/types.h`, which clang doesn't look for when it compiles for BPF.
fn multiarch() -> Option<PathBuf> {
    let arch = env::var_os("CARGO_CFG_TARGET_ARCH")?;
    let folder = Path::new("/usr/include").join(format!("{}-linux-gnu", arch.to_str()?));
    folder.is_dir().then_some(folder)
}
