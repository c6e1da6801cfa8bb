//! What the tests of accounts use: a browser with cookies, and Python programs in an environment of
//! their own, made under `target/` at the first run.

use crate::python;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Value,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The `Set-Cookie` line of a cookie.
    pub fn set_cookie(&self, name: &str) -> &str {
        let start = format!("{name}=");
        let mut lines = self
            .headers
            .iter()
            .filter(|(known, _)| known == "set-cookie");
        let line = lines.find(|(_, line)| line.starts_with(&start));
        line.map_or_else(|| panic!("no cookie {name}: {self:?}"), |(_, line)| line)
    }

    pub fn word(&self, field: &str) -> String {
        let found = self.body[field].as_str();
        found
            .unwrap_or_else(|| panic!("no {field}: {} {}", self.status, self.text))
            .to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        let seen = (self.status, self.body["error"].as_str().unwrap_or_default());
        assert_eq!(seen, (status, code), "{}", self.text);
    }
}

/// Somebody who asks over HTTP; keeps cookies if told to.
#[derive(Debug, Clone, Default)]
pub struct Browser {
    address: String,
    pub cookies: BTreeMap<String, String>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

impl Browser {
    pub fn at(base_url: &str) -> Self {
        Self {
            address: base_url.trim_start_matches("http://").to_owned(),
            ..Self::default()
        }
    }

    /// The same gateway, with a token instead of cookies.
    pub fn bearer(&self, token: &str) -> Self {
        let mut other = Self::at(&self.address);
        other.set("Authorization", &format!("Bearer {token}"));
        other
    }

    /// The same caller at a gateway that was started again.
    pub fn moved_to(&self, base_url: &str) -> Self {
        Self {
            address: base_url.trim_start_matches("http://").to_owned(),
            ..self.clone()
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Sends and keeps cookies as a browser does.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let reply = self.peek(method, path, body);
        for (name, line) in &reply.headers {
            if name == "set-cookie" {
                let (name, rest) = line.split_once('=').unwrap();
                let value = rest.split(';').next().unwrap();
                if value.is_empty() {
                    self.cookies.remove(name);
                } else {
                    self.cookies.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        reply
    }

    /// Sends, and forgets what cookies come.
    pub fn peek(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let json = body.map(Value::to_string);
        self.raw(method, path, "application/json", json.as_deref())
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, None)
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, Some(body))
    }

    pub fn raw(&self, method: &str, path: &str, kind: &str, body: Option<&str>) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.address
        );
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self
                .cookies
                .iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect();
            head.push_str(&format!("Cookie: {}\r\n", pairs.join("; ")));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.unwrap_or_default();
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(40)))
            .unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        let (head, text) = whole.split_once("\r\n\r\n").unwrap_or((&whole, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1);
        Reply {
            status: status.and_then(|word| word.parse().ok()).unwrap_or(0),
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: serde_json::from_str(text).unwrap_or(Value::Null),
            text: text.to_owned(),
        }
    }
}

/// A Python program that prints `port N` when it listens; ended with this value.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pub port: u16,
}

impl Program {
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(interpreter())
            .arg(here().join(script))
            .args(arguments)
            .env("AUTHLIB_INSECURE_TRANSPORT", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("port ");
        let port = port.and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("{script} did not start; it said {line:?}"));
        Self { child, port }
    }

    pub fn end(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/auth")
}

/// The interpreter of the environment, made now unless it is there.
fn interpreter() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| python::interpreter("auth", &here()))
}

/// Waits until there are `count` mails in a folder; the texts, oldest first, as a reader sees them.
pub fn mails(folder: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "eml"))
            .collect();
        paths.sort();
        if paths.len() >= count {
            assert_eq!(paths.len(), count, "more mails than were asked for");
            let read = |path: &PathBuf| plain(&std::fs::read_to_string(path).unwrap());
            return paths.iter().map(read).collect();
        }
        assert!(
            Instant::now() < deadline,
            "{} mails, not {count}",
            paths.len()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Undoes quoted-printable.
fn plain(mail: &str) -> String {
    let mail = mail.replace("\r\n", "\n");
    match mail.to_ascii_lowercase().contains("quoted-printable") {
        true => mail.replace("=\n", "").replace("=3D", "="),
        false => mail,
    }
}

/// The token in a mail's link.
pub fn token(mail: &str) -> String {
    let rest = mail.split("#token=").nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no link in {mail}"));
    rest.split_whitespace().next().unwrap().to_owned()
}
