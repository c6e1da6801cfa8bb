//! What the documents refer to is there: every relative link, and every source file they name.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by failing"
)]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The repository's Markdown files.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

/// Why a link of `document` leads nowhere.
fn broken(document: &Path, link: &str) -> Option<String> {
    let (file, part) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => document.to_owned(),
        file => document.parent().unwrap().join(file),
    };
    if !target.exists() {
        return Some(format!("there is no {}", target.display()));
    }
    if part.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(&target).unwrap();
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    let there = headings.any(|line| anchor(line) == part);
    (!there).then(|| format!("{} has no heading #{part}", target.display()))
}

#[test]
fn every_relative_link_of_the_documents_leads_somewhere() {
    let mut found = Vec::new();
    documents(&root(), &mut found);
    let (mut links, mut wrong) = (0, Vec::new());
    for document in found {
        let text = std::fs::read_to_string(&document).unwrap();
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            links += 1;
            let why = broken(&document, link);
            wrong.extend(why.map(|why| format!("{}: {why}", document.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn every_source_file_that_a_document_names_is_there() {
    let mut found = Vec::new();
    documents(&root(), &mut found);
    let (mut named, mut wrong) = (0, Vec::new());
    for document in found {
        let text = std::fs::read_to_string(&document).unwrap();
        for word in text.split('`') {
            let is_path = word.ends_with(".rs") && word.contains('/');
            if !is_path || word.contains(|c: char| c.is_whitespace() || "*{<".contains(c)) {
                continue;
            }
            named += 1;
            let beside = document.parent().unwrap().join(word);
            if !root().join(word).exists() && !beside.exists() {
                wrong.push(format!("{}: there is no {word}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(named > 5, "only {named} files were found");
}
