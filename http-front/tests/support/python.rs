//! Python programs that tests run beside the gateway, in environments made from `requirements.txt` files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a command to its end; what it printed. `remedy` is for whoever sees it fail.
pub fn run(command: &mut Command, remedy: &str) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{remedy}: {error}"));
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let ok = output.status.success();
    assert!(ok, "{remedy}\n{words}\n{errors}");
    words
}

/// The interpreter of the environment `target/{name}-environment`, made now from the folder's
/// `requirements.txt` unless it is there.
pub fn interpreter(name: &str, folder: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let environment = target.join(format!("{name}-environment"));
    let requirements = folder.join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    let lock = std::fs::File::create(target.join(format!("{name}-environment.lock"))).unwrap();
    lock.lock().unwrap();
    let stamp = environment.join("made-from");
    let python = environment.join("bin/python");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        let _none = std::fs::remove_dir_all(&environment);
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&environment);
        run(&mut make, "python3 with its venv module is needed");
        let mut install = Command::new(&python);
        install
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--requirement"])
            .arg(&requirements);
        let remedy = "pip cannot install: the index must be reachable";
        run(&mut install, remedy);
        std::fs::write(&stamp, &wanted).unwrap();
    }
    python
}
