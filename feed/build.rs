//! Generates the feed's messages and service. `protox` parses the file, so a build needs no `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/feed.proto");
    let descriptors = protox::compile(["proto/feed.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".sluice.feed.v1.Part.payload").compile_fds(descriptors)?;
    Ok(())
}
