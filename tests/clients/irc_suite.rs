//! What must hold on every server: each test runs on all of them.

use std::time::Duration;

use meshfs::bridge::{Pace, Timing};
use meshfs::mesh::{Say, SayKind, SayTo};
use meshfs::name::{Channel, Door, NetworkName};
use serde_json::Value;

use crate::person::Person;
use crate::servers::{Kind, Server};
use crate::{Hub, eventually, link, quick};

/// Gives each test once for each server.
macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        on_every_server!(@ house, House, $($test),*);
        on_every_server!(@ ngircd, Ngircd, $($test),*);
        on_every_server!(@ inspircd, Inspircd, $($test),*);
        on_every_server!(@ inspircd_kill, InspircdKill, $($test),*);
    };
    (@ $module:ident, $kind:ident, $($test:ident),*) => {
        mod $module {
            $(#[tokio::test]
            async fn $test() {
                if let Some(server) = crate::servers::Server::start(
                    crate::servers::Kind::$kind, stringify!($test)).await {
                    super::$test(server).await;
                }
            })*
        }
    };
}

on_every_server!(
    people_and_the_bridge_hear_each_other,
    who_may_announce_is_what_the_channel_says,
    a_taken_nick_is_worked_around_and_regained,
    a_kick_is_followed_by_a_rejoin_and_nothing_is_lost,
    hostile_and_long_texts_arrive_whole_and_harmless,
    two_hundred_announcements_in_a_second_are_a_few_lines_that_count_them_all,
    a_server_that_restarts_is_joined_again_and_told_what_happened,
    the_bridge_says_goodbye,
);

fn hub(server: &Server) -> Hub {
    Hub::start(link(&server.address, server.kind == Kind::House), quick())
}

async fn people_and_the_bridge_hear_each_other(server: Server) {
    let hub = hub(&server);
    hub.joined().await;
    let alice = Person::join(&server.address, "alice").await;

    hub.confirm("snapshot mesh-1 taken");
    assert_eq!(alice.told("mesh-1").await, "snapshot mesh-1 taken");
    alice.say("hello \x02there\x02").await;
    let said = hub.published("mesh/irc/net/mesh/said").await.remove(0);
    let body: Value = serde_json::from_slice(&said.payload).unwrap();
    assert_eq!((&body["nick"], &body["text"]), (&"alice".into(), &"hello there".into()));
    assert!(body["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(said.by.door, Door::Irc);
    let client = said.by.client;
    assert!(client.starts_with("net/#mesh/alice!") && client.contains('@'), "{client}");

    let to = SayTo::Channel(NetworkName::parse("net").unwrap(), Channel::parse("#Mesh").unwrap());
    hub.bridge.say(&Say { to, kind: SayKind::Relay, text: "from the bus".into() });
    alice.told("from the bus").await;
    alice.say("!help").await;
    alice.told("!snapshot <reason>").await;
    alice.say("!flush everything").await;
    alice.told("!flush is not in this release").await;
    alice.send("NOTICE #mesh :!nodes").await;
    alice.say("\x01VERSION\x01").await;
    alice.say("!status").await;
    assert_eq!(alice.told("node").await, "no node has been heard yet · no snapshot yet");
    alice.send("PRIVMSG meshfs :!nodes").await;
    alice.wait("the hint", |line| line.contains("I take commands in #mesh only")).await;

    let status = hub.status();
    assert!(status.connected && status.losses == 0, "{status:?}");
    let said: Vec<_> = hub.publisher.take();
    let texts = said.iter().map(|p| serde_json::from_slice::<Value>(&p.payload).unwrap());
    let texts: Vec<_> = texts.map(|body| body["text"].clone()).collect();
    assert_eq!(texts, ["!help", "!flush everything", "!status"], "no NOTICE, CTCP or own line");
}

async fn who_may_announce_is_what_the_channel_says(server: Server) {
    // Who creates the channel is its operator.
    let alice = Person::join(&server.address, "alice").await;
    let hub = hub(&server);
    hub.joined().await;
    let bob = Person::join(&server.address, "bob").await;

    alice.say("!snapshot migrating schema").await;
    let announced = hub.published("mesh/announce").await.remove(0);
    let body: Value = serde_json::from_slice(&announced.payload).unwrap();
    assert_eq!(body, serde_json::json!({"reason": "migrating schema", "source": "irc:alice"}));
    assert!(announced.by.client.starts_with("net/#mesh/alice!"), "{}", announced.by.client);
    assert!(!announced.retain);

    bob.say("!snapshot mine").await;
    if server.kind == Kind::House {
        hub.published("mesh/announce").await;
        return;
    }
    bob.told("bob: only channel operators and voiced users").await;
    alice.send("MODE #mesh +v bob").await;
    bob.wait("voice", |line| line.contains("MODE #mesh +v")).await;
    bob.say("!snapshot voiced").await;
    let announced = hub.published("mesh/announce").await;
    assert!(announced[0].by.client.starts_with("net/#mesh/bob!"));

    bob.send("NICK robert").await;
    bob.wait("the new nick", |line| line.contains(" NICK ")).await;
    bob.say("!snapshot renamed").await;
    hub.published("mesh/announce").await;

    alice.send("KICK #mesh robert").await;
    bob.wait("the kick", |line| line.contains(" KICK #mesh robert")).await;
    bob.send("JOIN #mesh").await;
    bob.wait("names", |line| line.contains(" 366 ")).await;
    bob.say("!snapshot with a rank from before").await;
    bob.told("robert: only channel operators").await;
    let announced = hub.publisher.take();
    assert!(announced.iter().all(|p| p.topic.as_str() != "mesh/announce"), "{announced:?}");
}

async fn a_taken_nick_is_worked_around_and_regained(server: Server) {
    let thief = Person::join(&server.address, "meshfs").await;
    let hub = hub(&server);
    hub.joined().await;
    assert_eq!(hub.status().nick.as_deref(), Some("meshfs_"));
    hub.confirm("by another name");
    thief.wait("the bridge", |line| line.ends_with("PRIVMSG #mesh :by another name")).await;
    thief.send("QUIT").await;
    eventually("the nick is regained", || {
        (hub.status().nick.as_deref() == Some("meshfs")).then_some(())
    })
    .await;
    assert_eq!(hub.status().losses, 0);
}

async fn a_kick_is_followed_by_a_rejoin_and_nothing_is_lost(server: Server) {
    let alice = Person::join(&server.address, "alice").await;
    let hub = hub(&server);
    hub.joined().await;
    if server.kind == Kind::House {
        return; // nobody can kick there
    }
    alice.send("KICK #mesh meshfs :out").await;
    alice.wait("the kick", |line| line.contains("KICK #mesh meshfs")).await;
    eventually("the bridge sees it", || hub.status().channels.is_empty().then_some(())).await;
    hub.confirm("said while out");
    alice.wait("the rejoin", |line| line.starts_with(":meshfs!") && line.contains("JOIN")).await;
    alice.told("said while out").await;

    // Where it may not speak it waits, and speaks when it may.
    alice.send("MODE #mesh +m").await;
    alice.wait("moderation", |line| line.contains(" MODE #mesh ") && line.contains("+m")).await;
    hub.confirm("said while mute");
    eventually("the server refuses it", || (hub.status().events_held == 1).then_some(())).await;
    alice.send("MODE #mesh +v meshfs").await;
    alice.told("said while mute").await;
    eventually("it is confirmed", || (hub.status().events_said == 2).then_some(())).await;
    assert_eq!((hub.status().events_held, hub.status().losses), (0, 0));
}

async fn hostile_and_long_texts_arrive_whole_and_harmless(server: Server) {
    let hub = hub(&server);
    hub.joined().await;
    let alice = Person::join(&server.address, "alice").await;
    for text in
        ["a\r\nQUIT :b", "c\rPRIVMSG #mesh :d", "e\0f", "g\x01h", "\x1b[31mi", ":j", "\u{85}k"]
    {
        hub.confirm(text);
    }
    let words: Vec<String> = (0..90).map(|n| format!("wörd🦀{n}")).collect();
    hub.confirm(&words.join(" "));
    hub.confirm(&"é".repeat(4_000));
    alice.told("9 confirmed").await;
    // One by one, now that the digest has been seen.
    hub.confirm(&words.join(" "));
    let mut heard = alice.told("wörd🦀0").await;
    while !heard.contains("wörd🦀89") {
        heard.push(' ');
        heard.push_str(&alice.told("wörd").await);
    }
    assert_eq!(heard, words.join(" "));
    hub.confirm(&"é".repeat(4_000));
    let end = alice.told("…").await;
    assert!(end.ends_with("é…"), "{end}");
    for text in ["a\r\nQUIT :b", "e\0f\r"] {
        hub.confirm(text);
    }
    alice.told("a  QUIT :b").await;
    alice.told("e f").await;
    let lines = alice.all();
    assert!(lines.iter().all(|line| line.len() <= 510));
    assert!(
        !lines.iter().any(|line| line.contains(" QUIT ")
            && line.starts_with(":meshfs!")
            && !line.contains("PRIVMSG")),
        "{lines:#?}"
    );
    assert_eq!(hub.status().losses, 0);
}

async fn two_hundred_announcements_in_a_second_are_a_few_lines_that_count_them_all(server: Server) {
    let link = meshfs::bridge::Link { pace: Pace::default(), ..link(&server.address, false) };
    let hub = Hub::start(link, Timing { quarantine: Duration::ZERO, ..Timing::default() });
    hub.joined().await;
    let alice = Person::join(&server.address, "alice").await;
    for n in 0..200 {
        let kind = if n == 150 { SayKind::Failed } else { SayKind::Confirmed };
        hub.bridge.say(&Say::everywhere(kind, format!("announcement {n} taken")));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually("all are said", || (hub.status().events_said == 200).then_some(())).await;
    // The server has answered a PING sent after the last line, so everybody has it.
    let last = alice.told("events in").await;
    assert!(last.contains("announcement"), "{last}");
    let told = alice.all_told();
    let counts = told.iter().map(|line| match line.split_once(" events in ") {
        Some((before, _)) => before.rsplit('[').next().unwrap().parse().unwrap(),
        None => 1,
    });
    assert_eq!(counts.sum::<u64>(), 200, "{told:#?}");
    assert!(told.len() <= 6, "{told:#?}");
    assert!(
        told.iter().any(|line| line.contains("1 failed") && line.contains("· announcement 150")),
        "{told:#?}"
    );
    let status = hub.status();
    assert_eq!((status.losses, status.events_dropped, status.events_held), (0, 0, 0));
}

async fn a_server_that_restarts_is_joined_again_and_told_what_happened(mut server: Server) {
    let hub = hub(&server);
    hub.joined().await;
    server.kill();
    eventually("the loss is noticed", || (hub.status().losses > 0).then_some(())).await;
    for n in 0..1_500 {
        hub.confirm(&format!("while down {n}"));
        tokio::task::yield_now().await;
    }
    eventually("all are held", || (hub.status().events_held == 1_500).then_some(())).await;
    server.restart().await;
    let alice = Person::join(&server.address, "alice").await;
    hub.joined().await;
    let digest = alice.wait("the digest", |line| line.contains("while I was away")).await;
    assert!(digest.contains("[1500 events in") && digest.contains("1500 confirmed"), "{digest}");
    eventually("it is confirmed", || (hub.status().events_said == 1_500).then_some(())).await;
    assert_eq!((hub.status().events_dropped, hub.status().events_held), (0, 0));
}

async fn the_bridge_says_goodbye(server: Server) {
    let hub = hub(&server);
    hub.joined().await;
    let alice = Person::join(&server.address, "alice").await;
    hub.bridge.shutdown(Duration::from_secs(10)).await;
    let quit = alice.wait("the quit", |line| line.contains(" QUIT ")).await;
    assert!(quit.starts_with(":meshfs!") && quit.contains("meshfs stops"), "{quit}");
    alice.send("QUIT").await;
    alice.ended().await;
}

/// inspircd replays a channel's history to everybody who joins.
#[tokio::test]
async fn a_command_from_replayed_history_is_not_obeyed() {
    let test = "a_command_from_replayed_history_is_not_obeyed";
    let Some(server) = Server::start(Kind::Inspircd, test).await else { return };
    let alice = Person::join(&server.address, "alice").await;
    alice.send("MODE #mesh +H 10:1h").await;
    alice.wait("history is kept", |line| line.contains("MODE #mesh") && line.contains("+H")).await;
    alice.say("!snapshot old").await;
    let hub = hub(&server);
    hub.joined().await;
    let carol = Person::join(&server.address, "carol").await;
    carol.wait("the replay", |line| line.contains("!snapshot old")).await;
    alice.say("!status").await;
    alice.told("no node has been heard yet").await;
    let topics = hub.publisher.take().into_iter().map(|p| p.topic.to_string());
    assert_eq!(topics.collect::<Vec<_>>(), ["mesh/irc/net/mesh/said"], "only !status was said");
}

#[tokio::test]
async fn a_server_that_freezes_is_left_and_what_it_was_told_is_not_lost() {
    let test = "a_server_that_freezes_is_left_and_what_it_was_told_is_not_lost";
    let Some(server) = Server::start(Kind::Ngircd, test).await else { return };
    let timing = Timing {
        ping_answer: Duration::from_millis(500),
        registration: Duration::from_millis(500),
        reconnect_max: Duration::from_millis(200),
        ..quick()
    };
    let hub = Hub::start(link(&server.address, false), timing);
    hub.joined().await;
    let alice = Person::join(&server.address, "alice").await;
    server.freeze(true);
    hub.confirm("said to a frozen server");
    eventually("it is left", || (hub.status().losses > 0).then_some(())).await;
    assert_eq!((hub.status().events_held, hub.status().events_said), (1, 0));
    server.freeze(false);
    eventually("it is confirmed", || (hub.status().events_said == 1).then_some(())).await;
    alice.told("said to a frozen server").await;
    assert_eq!((hub.status().events_held, hub.status().events_dropped), (0, 0));
}
