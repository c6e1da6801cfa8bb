//! A real gateway process: started with a chosen environment, awaited until it listens, killed or terminated, and
//! started again. It ends only what it started, and always: also when a test fails.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Endpoint;
use crate::error::{Error, Result};
use crate::shim::Mount;
use crate::system::send_sigterm;

/// How long a gateway may take from its start to `listening on`. Recovery of a crashed log is inside it.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// How long anything else may take that is only waited for: longer than any machine needs, so that only what never
/// comes reaches it.
const SAID_WITHIN: Duration = Duration::from_secs(120);
/// How long an orderly end may take: its own bounds are 18 s together.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Lines of output kept for failure messages.
const KEPT_LINES: usize = 400;

/// What to start and how.
#[derive(Debug, Clone)]
pub struct Settings {
    binary: PathBuf,
    data_dir: PathBuf,
    environment: BTreeMap<String, String>,
    mount: Option<Mount>,
    /// Put before the binary on the command line.
    launcher: Vec<OsString>,
}

impl Settings {
    /// `binary` on `data_dir` with the harness's defaults: a free port, no bootstrap account, signatures required.
    pub fn new(binary: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let defaults = [
            ("NULLRUN_LISTEN", "127.0.0.1:0"),
            ("NULLRUN_BOOTSTRAP", "off"),
            ("NULLRUN_HMAC_REQUIRED", "true"),
            ("NULLRUN_LOG", "info"),
        ];
        let environment = defaults
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        Self {
            binary: binary.into(),
            data_dir: data_dir.into(),
            environment,
            mount: None,
            launcher: Vec::new(),
        }
    }

    /// Sets one variable of the gateway's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Runs the gateway on the lost-pages shim; the mount's data directory replaces the one given before.
    #[must_use]
    pub fn on_shim(mut self, mount: Mount) -> Self {
        self.data_dir = mount.data_dir().to_owned();
        self.mount = Some(mount);
        self
    }

    /// Starts the gateway through a command line that ends by becoming it, such as [`crate::restrict::Restrict::with`].
    #[must_use]
    pub fn under(mut self, launcher: Vec<OsString>) -> Self {
        self.launcher = launcher;
        self
    }

    /// The data directory the gateway will run on.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn command(&self) -> Command {
        let binary = self.binary.as_os_str();
        let launcher = self.launcher.iter().map(OsString::as_os_str);
        let mut line = launcher.chain([binary]);
        let mut command = Command::new(line.next().unwrap_or(binary));
        command.args(line);
        for (name, _) in std::env::vars_os() {
            // A developer's own settings must not leak into a measurement; which answers were given is
            // noted over all gateways of a test run.
            let own = name.to_string_lossy().starts_with("NULLRUN_");
            if own && name != "NULLRUN_TEST_ANSWERS" {
                command.env_remove(name);
            }
        }
        command
            .envs(&self.environment)
            .env("NULLRUN_DATA_DIR", &self.data_dir);
        if let Some(mount) = &self.mount {
            command.envs(mount.environment());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    child: Child,
    base_url: String,
    output: Output,
    /// One per pipe, until the process has ended and they have read its last words.
    readers: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Starts the gateway and waits until it listens.
    ///
    /// # Errors
    /// When the binary cannot be run, ends early, or does not listen within two minutes; its output is in the error.
    pub fn start(settings: Settings) -> Result<Self> {
        let mut child = settings.command().spawn().map_err(|source| Error::Spawn {
            binary: settings.binary.clone(),
            source,
        })?;
        let output = Output::default();
        let (found, listening) = mpsc::channel();
        let stdout = child.stdout.take();
        let stdout = stdout.map(|pipe| output.collect(pipe, Some(found)));
        let stderr = child.stderr.take();
        let stderr = stderr.map(|pipe| output.collect(pipe, None));
        let mut gateway = Self {
            settings,
            child,
            base_url: String::new(),
            output,
            readers: stdout.into_iter().chain(stderr).collect(),
        };
        gateway.base_url = gateway.wait_for_address(&listening)?;
        Ok(gateway)
    }

    fn wait_for_address(&mut self, listening: &mpsc::Receiver<String>) -> Result<String> {
        let reason = match listening.recv_timeout(UP_WITHIN) {
            Ok(url) => return Ok(url),
            Err(RecvTimeoutError::Timeout) => {
                format!(
                    "no line `listening on http://…` within {} s",
                    UP_WITHIN.as_secs()
                )
            }
            Err(RecvTimeoutError::Disconnected) => match self.child.wait() {
                Ok(status) => {
                    self.read_to_the_end();
                    format!("it ended with {status}")
                }
                Err(error) => error.to_string(),
            },
        };
        Err(Error::NotUp {
            reason,
            output: self.output.text(),
        })
    }

    /// Starts again with the same settings, after [`Gateway::kill_9`] or [`Gateway::terminate`].
    pub fn restart(self) -> Result<Self> {
        let settings = self.settings.clone();
        drop(self);
        Self::start(settings)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Where to connect.
    pub fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::parse(&self.base_url)
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The last lines of its stdout and stderr: all of them once it has ended. While it runs, what it wrote a moment
    /// ago may not have been read yet: [`Gateway::says`] waits for it.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits until its output contains `words`, and gives back the output.
    ///
    /// # Errors
    /// When it ends, or two minutes pass, without them.
    pub fn says(&self, words: &str) -> Result<String> {
        let deadline = Instant::now() + SAID_WITHIN;
        loop {
            // Asked first: what was read to its end before is complete now.
            let silent = self.readers.iter().all(JoinHandle::is_finished);
            let output = self.output.text();
            if output.contains(words) {
                return Ok(output);
            }
            if silent || Instant::now() > deadline {
                let reason = format!("never said {words:?}");
                return Err(Error::Amiss { reason, output });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its exit status, if it has ended on its own.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        self.read_to_the_end();
        Some(status)
    }

    /// After its end: waits for the readers, so that no word of it is lost.
    fn read_to_the_end(&mut self) {
        for reader in self.readers.drain(..) {
            // It does not panic; if it did, its lines are missing and the test that looks for them says so.
            let _read = reader.join();
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill_9(&mut self) -> Result<()> {
        // A process that has ended already is fine: it is gone.
        self.child
            .kill()
            .map_err(Error::io("kill -9 of the gateway"))?;
        self.child
            .wait()
            .map_err(Error::io("waiting for the gateway"))?;
        self.read_to_the_end();
        Ok(())
    }

    /// SIGTERM, and waits for the orderly end, however busy the machine is.
    ///
    /// # Errors
    /// When it has not ended within a minute.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.terminate(STOPPED_WITHIN)
    }

    /// SIGTERM, and waits for the orderly end.
    ///
    /// # Errors
    /// When it has not ended `within` the given time (it is left running).
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        send_sigterm(self.pid()).map_err(Error::io("SIGTERM to the gateway"))?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        let reason = format!("still runs {} s after SIGTERM", within.as_secs());
        Err(Error::Amiss {
            reason,
            output: self.output.text(),
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Nothing to tell anybody here: either it is gone already, or it is now.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        self.read_to_the_end();
    }
}

/// The last lines a process wrote, collected by one thread per pipe so that the process never blocks on it.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<VecDeque<String>>>);

impl Output {
    fn collect(
        &self,
        pipe: impl Read + Send + 'static,
        found: Option<mpsc::Sender<String>>,
    ) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
                if let (Some(url), Some(found)) = (announced_url(&line), &found) {
                    // A second announcement after nobody waits any more is no matter.
                    let _nobody_waits = found.send(url);
                }
                let mut kept = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        })
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// The address in a line like `… listening on http://127.0.0.1:8080 …`.
fn announced_url(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on http://")?;
    let end = rest
        .find(|c: char| c.is_whitespace() || c == '"' || c == '\u{1b}')
        .unwrap_or(rest.len());
    Some(format!(
        "http://{}",
        rest[..end].trim_end_matches(['/', '.', ','])
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_log_lines() {
        let line =
            "2026-11-23T21:00:00Z INFO nullrun: listening on http://127.0.0.1:40123 shards=1";
        assert_eq!(
            announced_url(line).as_deref(),
            Some("http://127.0.0.1:40123")
        );
        assert_eq!(
            announced_url("listening on http://[::1]:80/").as_deref(),
            Some("http://[::1]:80")
        );
        assert_eq!(announced_url("opening the log"), None);
    }

    #[test]
    fn a_binary_that_ends_early_is_an_error_with_its_last_words() {
        let Err(error) = Gateway::start(Settings::new("/bin/ls", "/tmp").env("LC_ALL", "C")) else {
            panic!("ls is no gateway");
        };
        assert!(error.to_string().contains("ended with"), "{error}");
    }

    /// A shell that plays a gateway.
    fn plays(script: &str) -> Gateway {
        let script = format!("echo listening on http://127.0.0.1:1; {script}");
        let launcher = ["sh", "-c", script.as_str()].map(OsString::from).to_vec();
        Gateway::start(Settings::new("/bin/true", "/tmp").under(launcher)).unwrap()
    }

    #[test]
    fn whatever_a_gateway_wrote_before_its_end_is_in_its_output() {
        for _ in 0..20 {
            let script = "seq 1 300 >&2; echo the last word >&2; exit 3";
            let mut gateway = plays(script);
            let status = loop {
                match gateway.ended() {
                    Some(status) => break status,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(status.code(), Some(3));
            let output = gateway.output();
            assert!(output.contains("the last word"), "{output}");
        }
    }

    #[test]
    fn a_word_is_awaited_until_it_is_said_or_never_can_be() {
        let gateway = plays("sleep 0.2; echo at last; exec sleep 60");
        assert!(gateway.says("at last").unwrap().contains("listening on"));
        let silent = plays("exit 0");
        let error = silent.says("at last").unwrap_err().to_string();
        assert!(
            error.contains("the gateway never said \"at last\""),
            "{error}"
        );
    }
}
