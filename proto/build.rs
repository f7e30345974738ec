//! Compiles every .proto file of the package, without protoc.

use prost::Message;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let folder = root.join("pgvigil").join("v1");
    println!("cargo::rerun-if-changed={}", folder.display());

    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    // The order of a directory is the file system's whim; the generated code must not depend on it.
    files.sort();

    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join(Path::new("descriptors.bin")), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".pgvigil.v1.RaftPayload")
        .bytes(".pgvigil.v1.RaftSnapshotPart")
        .compile_fds(descriptors)?;
    Ok(())
}
