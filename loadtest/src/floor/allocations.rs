//! Calls of the allocator per request, counted by a shim under a gateway of its own: the counting must not slow what
//! is timed.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::Subject;
use crate::cc;
use crate::error::{Error, Result};
use crate::gate_load::{Drive, FLOOR, GATE};
use crate::identity::Dice;
use crate::target::{Target, block_on};

const SOURCE: &str = include_str!("../../shim/mallocs.c");
/// Requests before the count begins: tables and buffers have grown by then.
const WARM_UP: u64 = 5_000;

/// Calls of the allocator per request.
#[derive(Debug, Clone, Copy)]
pub struct Allocations {
    /// Of a signed, strict gate.
    pub gate: f64,
    /// Of the route that does nothing.
    pub floor: f64,
}

/// Counts over `requests` of each route on `connections`.
pub(super) fn count(binary: &Path, connections: usize, requests: u64) -> Result<Allocations> {
    let home =
        TempDir::with_prefix("nullrun-mallocs-").map_err(Error::io("a temporary directory"))?;
    let (library, file) = (home.path().join("mallocs.so"), home.path().join("count"));
    cc::compile(SOURCE, &["-shared", "-fPIC"], &library)?;
    fs::write(&file, [0; 4096]).map_err(Error::io("the file of the count"))?;
    let target = Target::binary(binary)
        .env("NULLRUN_FLOOR_ROUTE", "on")
        .env("NULLRUN_LOG", "warn,nullrun=info")
        .env("LD_PRELOAD", library.to_string_lossy())
        .env("MALLOCS_FILE", file.to_string_lossy());
    let running = target.start()?;
    block_on(async {
        let mut dice = Dice::from_seed(Dice::fresh_seed());
        let mut operator = running.connect();
        let subject = Subject::find(&mut operator, None, &mut dice).await?;
        let drive = Drive::open(running.endpoint(), &subject, connections, None).await?;
        let mut per_request = [0.0; 2];
        for (route, per_request) in [GATE, FLOOR].into_iter().zip(&mut per_request) {
            drive.run_count(route, WARM_UP, &mut dice).await?;
            let before = read(&file)?;
            let ran = drive.run_count(route, requests, &mut dice).await?;
            let calls = read(&file)?.saturating_sub(before);
            *per_request = calls as f64 / ran.answered.max(1) as f64;
        }
        let [gate, floor] = per_request;
        Ok(Allocations { gate, floor })
    })
}

fn read(file: &Path) -> Result<u64> {
    let bytes = fs::read(file).map_err(Error::io("the count"))?;
    let word = bytes.first_chunk().copied().unwrap_or_default();
    // The program counts in its own byte order.
    #[expect(
        clippy::host_endian_bytes,
        reason = "written by a program on this machine"
    )]
    Ok(u64::from_ne_bytes(word))
}
