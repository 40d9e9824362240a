//! Topic to path and back: never outside `live/`, never two topics in one place.
//!
//! Input: lines, each read as a topic and as a path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rooms::live::path;
use rooms::name::Topic;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

fuzz_target!(|data: &[u8]| {
    let mut files: Vec<(Topic, PathBuf)> = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let file = Path::new(OsStr::from_bytes(line));
        if let Some(topic) = path::topic(file) {
            assert_eq!(path::of(&topic).as_deref(), Ok(file), "{topic} is elsewhere");
        }
        let topic = std::str::from_utf8(line).ok().and_then(|raw| Topic::parse(raw).ok());
        let Some(topic) = topic else { continue };
        let Ok(file) = path::of(&topic) else { continue };
        check(&topic, &file);
        files.push((topic, file));
    }
    for (topic, file) in &files {
        for (other, elsewhere) in &files {
            // Neither the same file nor a file where the other needs a folder.
            assert!(topic == other || !elsewhere.starts_with(file), "{topic} and {other} collide");
        }
    }
});

fn check(topic: &Topic, file: &Path) {
    assert_eq!(path::topic(file).as_ref(), Some(topic), "{}", file.display());
    let mut levels = 0;
    for component in file.components() {
        let Component::Normal(name) = component else { unreachable!("{component:?} leads away") };
        let name = name.as_bytes();
        assert!(name.len() <= 255 && !name.starts_with(b"."), "{}", file.display());
        assert!(!name.iter().any(|byte| *byte <= b' ' || *byte == 0x7F), "{}", file.display());
        levels += 1;
    }
    // Joined as bytes, too: no empty level that `components` would pass over.
    assert_eq!(levels, topic.levels().count());
    assert_eq!(levels, file.as_os_str().as_bytes().split(|byte| *byte == b'/').count());
}
