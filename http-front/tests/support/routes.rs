//! The router's routes, read from its source.

use hyper::Method;
use std::collections::BTreeSet;
use std::path::Path;

/// Methods and path patterns of the router, read from its source: a new route must be tried here.
pub fn routes() -> BTreeSet<(Method, String)> {
    let mut routes = BTreeSet::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for folder in ["sdk", "manage"] {
        read(&source.join(folder), &mut routes);
    }
    assert!(
        routes.len() > 30,
        "the router's source no longer looks as this test reads it"
    );
    routes
}

fn read(folder: &Path, routes: &mut BTreeSet<(Method, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, routes);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            plain(&text, routes);
            described(&text, routes);
        }
    }
}

/// The org of a path is `{org}`, the thing in it `{id}`, whatever the description calls them.
pub fn holes(path: &str) -> String {
    let part = |part: &str| match part {
        "{org_id}" => "{org}".to_owned(),
        part if part.ends_with("_id}") => "{id}".to_owned(),
        part => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

const WORDS: [(&str, Method); 5] = [
    ("get", Method::GET),
    ("post", Method::POST),
    ("patch", Method::PATCH),
    ("put", Method::PUT),
    ("delete", Method::DELETE),
];

/// `.route("/path", get(..).post(..))`; health has no callers.
fn plain(text: &str, routes: &mut BTreeSet<(Method, String)>) {
    for rest in text.split(".route(").skip(1) {
        let Some(rest) = rest.trim_start().strip_prefix('"') else {
            continue;
        };
        let (path, rest) = rest.split_once('"').unwrap();
        let methods = rest.split("\n}").next().unwrap_or_default();
        for (word, method) in WORDS {
            if methods.contains(&format!("{word}(")) && !path.contains("health") {
                routes.insert((method, holes(path)));
            }
        }
    }
}

/// `#[utoipa::path(get, path = "/path", ..)]`.
fn described(text: &str, routes: &mut BTreeSet<(Method, String)>) {
    for rest in text.split("#[utoipa::path(").skip(1) {
        let word = rest.trim_start().split(',').next().unwrap();
        let path = rest.split("path = \"").nth(1).unwrap();
        let path = path.split('"').next().unwrap();
        let method = WORDS.into_iter().find(|(known, _)| *known == word);
        let (_, method) = method.unwrap_or_else(|| panic!("what method is {word}?"));
        if !path.contains("health") {
            routes.insert((method, holes(path)));
        }
    }
}
