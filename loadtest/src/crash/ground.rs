//! What the gateway stands on: a plain directory, or one on the shim; and the layout it is started with.

use std::path::Path;

use super::Params;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Settings};
use crate::shim::{Mount, Shim};

/// Where the gateway is to die by itself.
const CRASH_AT: &str = "NULLRUN_TEST_CRASH_AT";

pub(super) struct Ground {
    settings: Settings,
    mount: Option<Mount>,
    layouts: Vec<Vec<(String, String)>>,
}

impl Ground {
    pub(super) fn prepare(binary: &Path, params: &Params, home: &Path) -> Result<Self> {
        let plain = Settings::new(binary, home.join("data"));
        let settings = with(plain, &params.environment);
        let mount = match params.power_cut {
            true => Some(Shim::compile()?.mount(home, 0)?),
            false => None,
        };
        let settings = match &mount {
            Some(mount) => settings.on_shim(mount.clone()),
            None => settings,
        };
        Ok(Self {
            settings,
            mount,
            layouts: params.layouts.clone(),
        })
    }

    /// Settings of the start after `round` crashes.
    fn settings(&self, round: u32) -> Settings {
        let index = round as usize % self.layouts.len().max(1);
        match self.layouts.get(index) {
            Some(layout) => with(self.settings.clone(), layout),
            None => self.settings.clone(),
        }
    }

    pub(super) fn start(&self, round: u32) -> Result<Gateway> {
        Gateway::start(self.settings(round))
    }

    /// Starts so that it ends by itself at `point`. Where it gets there before it listens, it has died in its start,
    /// and is started again to die the next time it gets there.
    pub(super) fn start_to_die(&mut self, round: u32, point: &str) -> Result<Gateway> {
        let settings = self.settings(round - 1).env(CRASH_AT, point);
        match Gateway::start(settings.clone()) {
            Err(Error::NotUp { reason, .. }) if reason.contains("signal: 6") => {
                self.lose_what_is_not_durable()?;
                let second = self.settings(round - 1).env(CRASH_AT, format!("{point}:2"));
                Gateway::start(second)
            }
            other => other,
        }
    }

    /// Restarts on the same directory, or on a copy of what was durable.
    pub(super) fn come_back(&mut self, dead: Gateway, round: u32) -> Result<Gateway> {
        drop(dead);
        self.lose_what_is_not_durable()?;
        self.start(round)
    }

    fn lose_what_is_not_durable(&mut self) -> Result<()> {
        if let Some(mount) = self.mount.take() {
            let mount = mount.after_power_cut()?;
            self.settings = self.settings.clone().on_shim(mount.clone());
            self.mount = Some(mount);
        }
        Ok(())
    }
}

fn with(settings: Settings, environment: &[(String, String)]) -> Settings {
    let set = |settings: Settings, (name, value): &(String, String)| settings.env(name, value);
    environment.iter().fold(settings, set)
}
