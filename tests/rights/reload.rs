//! SIGHUP: other users and rules while everybody is connected.

use super::wire::{BOTH, Client, Connect, Version};
use super::{Guarded, hash, hashed, write_users};

#[test]
fn who_is_removed_or_has_another_password_is_cut_off_and_nobody_else() {
    for version in BOTH {
        let guarded = Guarded::start();
        let come = |user: &str| {
            Client::connect(guarded.hub.mqtt, Connect::new(version, user, user)).unwrap()
        };
        let (mut web1, mut web2, mut wall) = (come("web1"), come("web2"), come("wall"));
        assert_eq!(wall.subscribe("mesh/app/#"), 0);
        let text = std::fs::read_to_string(&guarded.users).unwrap();
        let text = text.replace("[users.web1]", "[users.web9]");
        let web2_is = format!("[users.web2]\nrole = \"node\"\npassword = \"{}\"", hashed());
        let other = web2_is.replace(hashed(), &hash("another one"));
        assert!(text.contains(&web2_is));
        std::fs::write(&guarded.users, text.replace(&web2_is, &other)).unwrap();
        let told = guarded.reload();
        assert_eq!(
            (&told["state"], &told["detail"]),
            (&"read".into(), &"5 users, 2 ousted".into())
        );
        let reason = (version == Version::V5).then_some(0x98);
        assert_eq!((web1.ended(), web2.ended()), (reason, reason));
        let mut anna = come("anna");
        assert_eq!(anna.publish("mesh/app/x", "x", false), 0);
        assert_eq!(wall.message(), "mesh/app/x", "who has not changed has noticed nothing");
        let new = Connect { password: Some("another one"), ..Connect::new(version, "n", "web2") };
        let mut web2 = Client::connect(guarded.hub.mqtt, new).unwrap();
        guarded.reload();
        assert_eq!(web2.topics(), Vec::<String>::new(), "who came after the change stays");
        let old = Connect::new(version, "web1", "web1");
        assert!(Client::connect(guarded.hub.mqtt, old).is_err());
    }
}

#[test]
fn another_role_takes_rights_away_and_leaves_the_connection() {
    let guarded = Guarded::start();
    let connect = Connect::new(Version::V5, "w", "wall");
    let mut wall = Client::connect(guarded.hub.mqtt, connect).unwrap();
    let mut anna =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "a", "anna")).unwrap();
    assert_eq!(wall.subscribe("mesh/app/#"), 0);
    assert_eq!(anna.publish("mesh/app/1", "x", false), 0);
    assert_eq!(wall.message(), "mesh/app/1");
    let text = std::fs::read_to_string(&guarded.users).unwrap();
    std::fs::write(&guarded.users, text.replace("\"dashboard\"", "\"service\"")).unwrap();
    assert_eq!(guarded.reload()["detail"], "5 users, 0 ousted");
    // Each connection follows the rules at its own next turn; a PING is one.
    wall.topics();
    assert_eq!(anna.publish("mesh/app/2", "x", false), 0);
    assert_eq!(wall.topics(), Vec::<String>::new(), "the subscription has ended");
    assert_eq!(wall.subscribe("mesh/app/#"), 0x87);
    assert_eq!(wall.subscribe("mesh/app/wall/#"), 0);
    assert_eq!(wall.publish("mesh/app/wall/x", "x", false), 0);
    assert_eq!(wall.message(), "mesh/app/wall/x");
}

#[test]
fn a_right_to_publish_that_was_used_is_asked_for_again() {
    let guarded = Guarded::start();
    let mut anna =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "a", "anna")).unwrap();
    assert_eq!(anna.publish("mesh/app/x", "x", false), 0);
    let text = std::fs::read_to_string(&guarded.users).unwrap();
    std::fs::write(&guarded.users, text.replace("\"operator\"", "\"node\"")).unwrap();
    guarded.reload();
    assert_eq!(anna.publish("mesh/app/x", "x", false), 0x87);
    assert_eq!(anna.publish("mesh/nodes/anna/heartbeat", "{}", false), 0);
}

#[test]
fn a_broken_file_changes_nothing_and_is_said() {
    let guarded = Guarded::start();
    let mut web1 =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "web1", "web1")).unwrap();
    for (text, why) in [
        ("[users.web1]\nrole = \"nod\"\n".to_owned(), "users.web1.role"),
        ("not toml".to_owned(), "line 1"),
        (format!("[users.x]\npassword = \"{}", hashed()), "line 2"),
    ] {
        std::fs::write(&guarded.users, text).unwrap();
        let told = guarded.reload();
        assert_eq!(told["state"], "refused");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains(why) && detail.contains("users.toml"), "{detail}");
        assert!(!detail.contains("argon2id"), "{detail}");
        assert_eq!(web1.publish("mesh/nodes/web1/heartbeat", "{}", false), 0);
        let again = Connect::new(Version::V5, "web2", "web2");
        assert!(Client::connect(guarded.hub.mqtt, again).is_ok());
    }
    write_users(&guarded.users, "");
    assert_eq!(guarded.reload()["state"], "read");
    assert_eq!(web1.topics(), Vec::<String>::new());
}
