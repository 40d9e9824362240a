//! Passwords, wrong ones and how many of them.

use super::wire::{BOTH, Client, Connect, Version};
use super::{Guarded, PASSWORD};

fn came(guarded: &Guarded, connect: Connect<'_>) -> Option<u8> {
    Client::connect(guarded.hub.mqtt, connect).err()
}

#[test]
fn a_wrong_login_is_refused_on_this_machine_too_and_is_no_anonymous_one() {
    for version in BOTH {
        // Fresh, so that the hub does not take it for guessing.
        let guarded = Guarded::start_with("operator", "");
        let (v5, wrong) = (version == Version::V5, if version == Version::V5 { 0x86 } else { 4 });
        let right = Connect::new(version, "c", "web1");
        assert_eq!(came(&guarded, right), None);
        assert_eq!(came(&guarded, Connect { password: Some("wrong one"), ..right }), Some(wrong));
        assert_eq!(came(&guarded, Connect { user: Some("nobody"), ..right }), Some(wrong));
        assert_eq!(came(&guarded, Connect { password: None, ..right }), Some(wrong));
        if v5 {
            assert_eq!(came(&guarded, Connect { user: Some(""), ..right }), Some(wrong));
        }
        let nobody = Connect { client: "n", user: None, password: None, ..right };
        assert_eq!(came(&guarded, nobody), None);
    }
}

#[test]
fn without_a_name_nobody_comes_in_where_the_role_is_none() {
    let guarded = Guarded::start();
    for (version, code) in [(Version::V3, 5), (Version::V5, 0x87)] {
        let nobody = Connect { user: None, password: None, ..Connect::new(version, "c", "") };
        assert_eq!(came(&guarded, nobody), Some(code));
    }
}

#[test]
fn five_guesses_end_it_for_an_address_also_with_the_right_password_and_are_journalled() {
    let guarded = Guarded::start();
    let right = Connect::new(Version::V5, "c", "anna");
    assert_eq!(came(&guarded, right), None);
    for n in 0..5 {
        let guess = format!("guess {n}");
        assert_eq!(came(&guarded, Connect { password: Some(&guess), ..right }), Some(0x86));
    }
    assert_eq!(came(&guarded, Connect { password: Some("one more"), ..right }), Some(0x8a));
    assert_eq!(came(&guarded, right), Some(0x8a), "a right guess gives itself away by nothing");
    let v3 = Connect { version: Version::V3, ..right };
    assert_eq!(came(&guarded, v3), Some(5));
    let (head, _) = guarded.hub.request_with(
        "GET",
        "/v1/nodes",
        &format!("Host: {}\r\n{}", guarded.hub.http, super::interface::basic("anna", PASSWORD)),
        "",
    );
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: "), "{head}");
    super::hub::until("the journal", || !guarded.journal("shut_out").is_empty());
    let told = guarded.journal("shut_out");
    assert_eq!((told.len(), &told[0]["address"]), (1, &"127.0.0.1".into()), "{told:?}");
    let log = std::fs::read_to_string(guarded.dir.path().join("hub.log")).unwrap();
    assert_eq!(log.matches("address shut out").count(), 1, "{log}");
    assert!(
        !log.contains("guess ") && !log.contains(PASSWORD) && !log.contains("argon2id"),
        "{log}"
    );
}

#[test]
fn a_client_that_repeats_its_mistake_shuts_nobody_out() {
    let guarded = Guarded::start();
    let right = Connect::new(Version::V5, "c", "anna");
    for _ in 0..50 {
        let wrong = Connect { password: Some("out of date"), ..right };
        assert_eq!(came(&guarded, wrong), Some(0x86));
    }
    assert_eq!(came(&guarded, right), None);
}
