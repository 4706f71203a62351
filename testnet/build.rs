//! Generates the order service of tests and the demonstration. `protox` parses the file, so a build needs no `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/orderservice.proto");
    tonic_prost_build::configure().compile_fds(protox::compile(["proto/orderservice.proto"], ["proto"])?)?;
    Ok(())
}
