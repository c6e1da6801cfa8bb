//! Where the gateway under test is: a binary to start for this run, or an address somebody else answers for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::client::{Connection, Endpoint, InFlight};
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Settings};
use crate::system::raise_open_files;

/// The gateway a scenario runs against.
#[derive(Debug, Clone)]
pub enum Target {
    /// Start this binary on an empty data directory, with these extra environment variables.
    Binary {
        /// Path of the `nullrun` binary.
        path: PathBuf,
        /// Extra environment, such as `NULLRUN_TEST_FAULT`.
        environment: Vec<(String, String)>,
    },
    /// Use the gateway at this `http://host:port`.
    Url(String),
}

impl Target {
    /// A binary to be started.
    pub fn binary(path: impl AsRef<Path>) -> Self {
        Self::Binary {
            path: path.as_ref().to_owned(),
            environment: Vec::new(),
        }
    }

    /// A gateway that runs already.
    pub fn url(url: impl Into<String>) -> Self {
        Self::Url(url.into())
    }

    /// Adds a variable to the environment of a binary; a URL stays as it is.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Self::Binary { environment, .. } = &mut self {
            environment.push((name.into(), value.into()));
        }
        self
    }

    /// Starts the binary (on a temporary data directory) or takes the address as it is.
    pub fn start(&self) -> Result<Running> {
        raise_open_files();
        match self {
            Self::Url(url) => Ok(Running {
                endpoint: Endpoint::parse(url)?,
                gateway: None,
                _data: None,
            }),
            Self::Binary { path, environment } => {
                let data = TempDir::with_prefix("nullrun-data-")
                    .map_err(Error::io("a temporary directory"))?;
                let start = Settings::new(path, data.path());
                let settings = environment
                    .iter()
                    .fold(start, |settings, (name, value)| settings.env(name, value));
                let gateway = Gateway::start(settings)?;
                Ok(Running {
                    endpoint: gateway.endpoint()?,
                    gateway: Some(gateway),
                    _data: Some(data),
                })
            }
        }
    }
}

/// A target that answers. Dropping it ends the gateway if it was started here.
#[derive(Debug)]
pub struct Running {
    endpoint: Endpoint,
    gateway: Option<Gateway>,
    /// Removed after the gateway is gone: fields drop in order.
    _data: Option<TempDir>,
}

impl Running {
    /// Where to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The process, when it was started here.
    pub fn gateway(&mut self) -> Option<&mut Gateway> {
        self.gateway.as_mut()
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        Connection::new(&self.endpoint)
    }

    /// `count` opened connections that report to one counter.
    pub async fn connect_many(
        &self,
        count: usize,
        in_flight: &Arc<InFlight>,
    ) -> Result<Vec<Connection>> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::counted(&self.endpoint, Arc::clone(in_flight));
            connection.open().await?;
            all.push(connection);
        }
        Ok(all)
    }
}

/// Runs `scenario` to its end on a runtime of its own: one thread, so that the harness takes one core at most.
pub(crate) fn block_on<T>(scenario: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(Error::io("starting the runtime"))?
        .block_on(scenario)
}
