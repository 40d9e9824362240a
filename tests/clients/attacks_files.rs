//! Somebody changes the tree under a running hub.

use super::attacks::Target;
use super::hub::until;
use super::raw::Publish;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::os::unix::fs::symlink;

fn keep(target: &Target, topic: &str, payload: &str) {
    let code = target.client("keeper").publish(&Publish::new(topic, payload).qos(1).retained());
    assert_eq!(code, 0);
}

#[test]
fn links_pipes_and_folders_where_files_belong_are_replaced_and_never_followed() {
    let target = Target::start();
    let (outside, live) = (target.dir.path().join("outside"), target.dir.path().join("tree/live"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(live.join("app")).unwrap();
    let witness = target.dir.path().join("witness");
    symlink(&outside, live.join("app/folder")).unwrap();
    symlink(&witness, live.join("app/link.raw")).unwrap();
    fs::create_dir_all(live.join("app/taken.raw/inside")).unwrap();
    mknodat(CWD, live.join("app/pipe.raw"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for name in ["folder/x", "link", "taken", "pipe"] {
        keep(&target, &format!("mesh/app/{name}"), name);
        let file = live.join(format!("app/{name}.raw"));
        until("a file of its own", || {
            fs::symlink_metadata(&file).is_ok_and(|found| found.is_file())
                && fs::read_to_string(&file).is_ok_and(|text| text == name)
        });
    }
    assert_eq!(fs::read_to_string(&witness).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    target.is_well();
}

#[test]
fn a_live_folder_that_is_removed_or_replaced_by_a_link_is_made_anew() {
    let target = Target::start();
    let (outside, live) = (target.dir.path().join("outside"), target.dir.path().join("tree/live"));
    keep(&target, "mesh/app/a", "first");
    until("the file", || live.join("app/a.raw").exists());
    fs::remove_dir_all(&live).unwrap();
    keep(&target, "mesh/app/a", "second");
    until("the file again", || {
        fs::read_to_string(live.join("app/a.raw")).is_ok_and(|text| text == "second")
    });
    fs::remove_dir_all(&live).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, &live).unwrap();
    keep(&target, "mesh/app/b", "third");
    until("trouble to be said", || target.hub.request("GET", "/readyz", "").0 == 503);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "the link was followed");
    fs::remove_file(&live).unwrap();
    until("the file once more", || {
        fs::read_to_string(live.join("app/b.raw")).is_ok_and(|text| text == "third")
    });
    until("the end of the trouble", || target.hub.request("GET", "/readyz", "").0 == 200);
    target.is_well();
}
