//! The rules of the house as tests: who may import whom, how large a file may
//! be, and that `topics.md` and `config/meshfs.toml` agree with the code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]

use meshfs::config::{Config, DEFAULTS};
use meshfs::message::Subject;
use meshfs::message::contract::{Author, CONTRACT, Kept};
use meshfs::name::Topic;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms it may import. `name` and `clock` may be used by all.
const IMPORTS: [(&str, &[&str]); 15] = [
    ("name", &[]),
    ("clock", &[]),
    ("access", &[]),
    ("config", &["access"]),
    ("message", &[]),
    ("live", &[]),
    ("snapshot", &[]),
    ("journal", &["message"]),
    ("mesh", &["message", "config"]),
    ("bus", &["access"]),
    ("disk", &["message", "live", "snapshot", "journal", "bus", "mesh"]),
    ("bridge", &["message", "config", "bus", "mesh"]),
    ("http", &["access", "message", "config", "bus", "mesh"]),
    (
        "hub",
        &[
            "access", "message", "config", "bus", "mesh", "live", "snapshot", "journal", "disk",
            "bridge", "http",
        ],
    ),
    ("cli", &["access", "config", "hub", "http", "live", "message"]),
];

const FILE_MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// The room a file of `src/` belongs to.
fn room(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).unwrap();
    let first = below.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names with `crate::`, also within `use crate::{…}`.
fn imported(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue; // another_crate::
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => drop(found.insert(word(rest))),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            found.insert(word(&list[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::mesh::{View};\n// crate::hub\nuse crate::{bus::{A, B}, live};\nlet x = crate::http::y();\nuse meshfs_crate::z;";
    let expected = ["bus", "http", "live", "mesh"].map(str::to_owned);
    assert_eq!(imported(text), BTreeSet::from(expected));
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let room = room(&file);
        if room == "lib" || room == "main" {
            continue;
        }
        let (_, allowed) = IMPORTS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("room {room} is not in the import table"));
        for other in imported(&fs::read_to_string(&file).unwrap()) {
            let free = other == room || other == "name" || other == "clock";
            if !free && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} imports {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn main_only_starts_the_command_line() {
    let main = fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 30 && main.contains("meshfs::cli::main()"));
    assert_eq!(main.matches("meshfs::").count(), 1);
}

#[test]
fn only_the_broker_crate_and_its_users_name_what_is_theirs() {
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let room = room(&file);
        let names_broker = text.contains("meshfs_broker");
        assert!(!names_broker || ["bus", "hub"].contains(&room.as_str()), "{}", file.display());
        let names_irc = text.contains("irc::proto");
        assert!(!names_irc || room == "bridge", "{}", file.display());
    }
    for file in rust_files(&root().join("broker/src")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("mesh/"), "{} knows of the mesh", file.display());
    }
}

#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let folders = [
        "src",
        "tests",
        "benches",
        "broker/src",
        "broker/tests",
        "broker/benches",
        "broker/examples",
    ];
    let mut long = Vec::new();
    for folder in folders.map(|f| root().join(f)).iter().filter(|f| f.exists()) {
        for file in rust_files(folder) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > FILE_MAX_LINES {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn topics_md_prints_the_contract() {
    let text = fs::read_to_string(root().join("topics.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `mesh/"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), CONTRACT.len(), "one row a topic");
    for (row, (pattern, author, kept)) in rows.iter().zip(CONTRACT) {
        assert_eq!(row[0], format!("`{pattern}`"));
        let hub_only = row[1].starts_with("hub") || row[1].starts_with("bridge");
        assert_eq!(hub_only, author == Author::Hub, "{pattern}: who publishes");
        let kept = match kept {
            Kept::Always => "yes",
            Kept::Never => "no",
            Kept::AsPublished => "either",
        };
        assert_eq!(row[2], kept, "{pattern}: retained");
        assert!(text.contains(&format!("### `{pattern}`")), "{pattern} has no section");
    }
}

#[test]
fn every_topic_in_the_examples_of_topics_md_is_in_the_contract() {
    let text = fs::read_to_string(root().join("topics.md")).unwrap();
    let mut seen = 0;
    for word in text.lines().filter(|l| l.starts_with("mosquitto_")).flat_map(str::split_whitespace)
    {
        let word = word.trim_matches(['\'', '"']);
        if word.starts_with("mesh/") && !word.contains(['+', '#', '$']) {
            let topic = Topic::parse(word).unwrap_or_else(|e| panic!("{word}: {e}"));
            Subject::of(&topic).unwrap_or_else(|e| panic!("{word}: {e}"));
            seen += 1;
        }
    }
    assert!(seen >= CONTRACT.len(), "{seen} examples");
}

#[test]
fn the_configuration_file_is_the_built_in_default_and_explains_every_key() {
    assert_eq!(fs::read_to_string(root().join("config/meshfs.toml")).unwrap(), DEFAULTS);
    Config::load(Some(&root().join("config/meshfs.toml")), [], &[]).unwrap();
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        // A key is explained just above it, or above the group of keys it stands in.
        let group = lines[..at].iter().rev().take_while(|l| !l.is_empty());
        let explained =
            group.clone().any(|l| l.starts_with('#') || l.starts_with("[irc.embedded]"));
        assert!(!is_key || explained, "{line} has no why");
    }
}

#[test]
fn every_key_of_the_configuration_file_is_read() {
    for line in DEFAULTS.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let key = line.split(" = ").next().unwrap();
        let misspelt = DEFAULTS.replacen(&format!("\n{key} ="), &format!("\n{key}x ="), 1);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meshfs.toml");
        fs::write(&file, misspelt).unwrap();
        let error = Config::load(Some(&file), [], &[]).expect_err(key).to_string();
        assert!(error.contains(&format!("{key}x")), "{key}: {error}");
    }
}
