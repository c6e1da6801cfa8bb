//! Load of signed gates on a running gateway, with the ledger compared to the count afterwards. Closed loop by
//! default (each connection asks again when answered); with a rate, an open loop whose latencies count from the
//! scheduled moment, so that a slow gateway does not hide behind a slow asker.

mod drive;
mod measure;
mod report;
mod subject;

use std::time::Duration;

use crate::client::{Connection, Endpoint};
use crate::error::Result;
use crate::identity::Dice;
use crate::system::raise_open_files;
use crate::target::block_on;

pub use drive::{Drive, FLOOR, GATE};
pub use measure::Measured;
pub use report::{FloorPart, Report};
pub use subject::{GivenKeys, Subject};

/// Slices into which gate and floor alternate, so that both see the same disturbances.
const SLICES: u32 = 4;

/// What to ask, how hard, how long.
#[derive(Debug, Clone)]
pub struct Params {
    /// Address of the gateway, `http://host:port`.
    pub url: String,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Time of load, of the gate and (when asked for) of the floor each.
    pub duration: Duration,
    /// Requests per second in all; `None` is a closed loop.
    pub rate_per_s: Option<f64>,
    /// Measure the no-op route as well.
    pub floor: bool,
    /// Existing keys; `None` registers an account.
    pub keys: Option<GivenKeys>,
}

/// Runs the load.
///
/// # Errors
/// When the gateway cannot be reached or set up, or does not serve `POST /floor` although it was asked for.
pub fn run(params: &Params) -> Result<Report> {
    raise_open_files();
    block_on(measure(params))
}

async fn measure(params: &Params) -> Result<Report> {
    let endpoint = Endpoint::parse(&params.url)?;
    let mut dice = Dice::from_seed(Dice::fresh_seed());
    let mut operator = Connection::new(&endpoint);
    let subject = Subject::find(&mut operator, params.keys.as_ref(), &mut dice).await?;
    if params.floor {
        subject.require_floor(&mut operator).await?;
    }
    let before = subject.held_nanos(&mut operator).await?;
    let drive = Drive::open(&endpoint, &subject, params.connections, params.rate_per_s).await?;

    let (mut gate, mut floor) = (Measured::default(), Measured::default());
    let slices = if params.floor { SLICES } else { 1 };
    for _ in 0..slices {
        gate.absorb(drive.run(GATE, params.duration / slices, &mut dice).await?);
        if params.floor {
            floor.absorb(
                drive
                    .run(FLOOR, params.duration / slices, &mut dice)
                    .await?,
            );
        }
    }
    let violations = subject
        .compare(&mut operator, before, &gate, params.duration)
        .await?;
    Ok(Report::new(
        params,
        gate,
        params.floor.then_some(floor),
        violations,
    ))
}
