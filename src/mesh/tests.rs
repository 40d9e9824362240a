use super::*;
use crate::message::{Announcement, Heartbeat, SnapshotRef};
use crate::name::{By, Channel, NetworkName, SnapshotName, Topic};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const WALL: &str = "2026-06-16T14:19:07Z";

fn at(seconds: u64) -> Now {
    let steady = Duration::from_secs(seconds);
    let wall: Timestamp = WALL.parse().unwrap();
    Now { wall: wall + jiff::SignedDuration::try_from(steady).unwrap(), steady }
}

fn config() -> Config {
    Config::load(None, [], &[]).unwrap()
}

fn mesh() -> Mesh {
    Mesh::new(&config())
}

fn arrived(topic: &str, payload: &str, now: Now) -> Event {
    let topic = Topic::parse(topic).unwrap();
    let subject = Subject::of(&topic).unwrap();
    let message = Message::parse(&subject, payload.as_bytes(), true).unwrap();
    let retained = subject.kept() == crate::message::contract::Kept::Always;
    Event::Arrived {
        received: received(topic, payload, now),
        message,
        retained,
        reply: None,
        fresh: None,
    }
}

fn received(topic: Topic, payload: &str, now: Now) -> Box<Received> {
    Box::new(Received {
        topic,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        by: By::new(Door::Mqtt, "tester"),
        received_at: now.wall,
        qos: 1,
        content_type: None,
        user_properties: Vec::new(),
        expires_at: None,
    })
}

fn id(raw: &str) -> AnnouncementId {
    AnnouncementId::parse(raw).unwrap()
}

fn announce(name: &str, now: Now) -> Event {
    announce_for(name, None, now)
}

fn announce_for(name: &str, reply: Option<&str>, now: Now) -> Event {
    let body = format!(r#"{{"reason":"r-{name}","id":"{name}"}}"#);
    let topic = Topic::parse("mesh/announce").unwrap();
    let announcement = Announcement::parse(body.as_bytes()).unwrap();
    let reply = reply.map(|topic| ReplyAddress {
        topic: Topic::parse(topic).unwrap(),
        correlation: Some(to_hex(b"\x00\xff")),
    });
    Event::Arrived {
        received: received(topic, &body, now),
        message: Message::Announcement(Box::new(announcement)),
        retained: false,
        reply,
        fresh: Some(id("fresh")),
    }
}

fn batches(effects: &[Effect]) -> Vec<Batch> {
    let batch = |effect: &Effect| match effect {
        Effect::Snapshot(batch) => Some(batch.clone()),
        _ => None,
    };
    effects.iter().filter_map(batch).collect()
}

/// The outcomes that effects conclude, to be fed back as the bus would.
fn concluded(effects: &[Effect]) -> Vec<Outcome> {
    let outcome = |effect: &Effect| match effect {
        Effect::Journal { line, then } => match &line.entry {
            Entry::Outcome(outcome) => {
                assert!(then.is_some(), "an outcome on record that nobody is told");
                Some(outcome.as_ref().clone())
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(outcome).collect()
}

fn says(effects: &[Effect]) -> Vec<String> {
    let say = |effect: &Effect| match effect {
        Effect::Say(say) => Some(say.text.to_string()),
        _ => None,
    };
    effects.iter().filter_map(say).collect()
}

fn told(effects: &[Effect]) -> Vec<Telling> {
    let telling = |effect: &Effect| match effect {
        Effect::Publish(telling) => Some(telling.clone()),
        _ => None,
    };
    effects.iter().filter_map(telling).collect()
}

/// What the disk says of an announcement when the snapshot is there.
fn confirmed(asked: &Asked, name: &SnapshotName, now: Now) -> Outcome {
    let snapshot = SnapshotRef {
        name: name.clone(),
        engine: "copy".into(),
        full: "/x".into(),
        guid: None,
        txg: None,
    };
    let confirmed_at = Some(now.wall);
    Outcome { snapshot: Some(snapshot), confirmed_at, ..state(asked, State::Confirmed) }
}

fn came_back(outcome: Outcome, now: Now) -> Event {
    Event::Arrived {
        received: received(topics::outcome(&outcome.id), "", now),
        message: Message::Outcome(Box::new(outcome)),
        retained: false,
        reply: None,
        fresh: None,
    }
}

/// Ends a batch well and gives all effects.
fn finish(mesh: &mut Mesh, batch: &Batch, now: Now) -> Vec<Effect> {
    let outcomes = batch.asked.iter().map(|(asked, _)| confirmed(asked, &batch.name, now));
    outcomes.flat_map(|outcome| mesh.apply(came_back(outcome, now), now)).collect()
}

#[test]
fn a_heartbeat_is_stored_and_makes_its_node_alive() {
    let mut mesh = mesh();
    let effects =
        mesh.apply(arrived("mesh/nodes/n1/heartbeat", r#"{"status":"ALIVE"}"#, at(0)), at(0));
    assert!(
        matches!(&effects[0], Effect::Store(stored) if &stored.payload[..] == br#"{"status":"ALIVE"}"#)
    );
    let node = crate::name::NodeId::parse("n1").unwrap();
    let shown = &mesh.view().nodes[&node];
    assert_eq!((shown.verdict, shown.status.as_deref()), (Verdict::Alive, Some("ALIVE")));
    assert_eq!(says(&effects), Vec::<String>::new(), "a first heartbeat is no news");
}

#[test]
fn silence_makes_a_node_late_then_lost_and_a_word_alive_again() {
    let mut mesh = mesh();
    mesh.apply(arrived("mesh/nodes/n1/heartbeat", "{}", at(0)), at(0));
    let verdicts = |effects: Vec<Effect>| -> Vec<String> {
        let verdict = |e: &Effect| match e {
            Effect::Journal { line, .. } => match &line.entry {
                Entry::Verdict { verdict, .. } => Some(verdict.clone()),
                _ => None,
            },
            _ => None,
        };
        effects.iter().filter_map(verdict).collect()
    };
    assert_eq!(verdicts(mesh.apply(Event::Tick, at(29))), Vec::<String>::new());
    assert_eq!(verdicts(mesh.apply(Event::Tick, at(30))), ["late"]);
    assert_eq!(verdicts(mesh.apply(Event::Tick, at(60))), Vec::<String>::new());
    let lost = mesh.apply(Event::Tick, at(120));
    assert_eq!(says(&lost), ["node n1 is lost: silent for more than 2m"]);
    assert_eq!(verdicts(lost), ["lost"]);
    let back = mesh.apply(arrived("mesh/nodes/n1/heartbeat", "{}", at(121)), at(121));
    assert_eq!(says(&back), ["node n1 is alive: heartbeat"]);
}

#[test]
fn a_node_that_sends_rarely_is_given_its_own_time() {
    let mut mesh = mesh();
    let slow = r#"{"interval_ms":60000}"#;
    mesh.apply(arrived("mesh/nodes/slow/heartbeat", slow, at(0)), at(0));
    mesh.apply(Event::Tick, at(179));
    let node = crate::name::NodeId::parse("slow").unwrap();
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Alive);
    mesh.apply(Event::Tick, at(180));
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Late);
    mesh.apply(Event::Tick, at(600));
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Lost);
}

#[test]
fn a_jump_of_the_wall_clock_blames_nobody() {
    let mut mesh = mesh();
    mesh.apply(arrived("mesh/nodes/n1/heartbeat", "{}", at(0)), at(0));
    let jumped = Now { wall: at(100_000).wall, steady: Duration::from_secs(1) };
    assert_eq!(mesh.apply(Event::Tick, jumped), []);
}

#[test]
fn the_will_of_an_earlier_boot_does_not_kill_a_reborn_node() {
    let mut mesh = mesh();
    let presence = "mesh/nodes/n1/presence";
    mesh.apply(arrived(presence, r#"{"state":"online","boot_id":"two"}"#, at(0)), at(0));
    mesh.apply(arrived(presence, r#"{"state":"offline","boot_id":"one"}"#, at(1)), at(1));
    let node = crate::name::NodeId::parse("n1").unwrap();
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Alive);
    mesh.apply(arrived(presence, r#"{"state":"offline","boot_id":"two"}"#, at(2)), at(2));
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Left);
}

#[test]
fn a_node_goes_with_the_last_thing_it_is_known_by() {
    let mut mesh = mesh();
    for topic in ["mesh/nodes/a/presence", "mesh/nodes/b/presence", "mesh/nodes/b/heartbeat"] {
        mesh.apply(arrived(topic, r#"{"state":"online"}"#, at(0)), at(0));
    }
    mesh.apply(arrived("mesh/nodes/c/services/s", "{}", at(0)), at(0));
    let known = |mesh: &Mesh| mesh.view().nodes.keys().map(ToString::to_string).collect::<String>();
    assert_eq!(known(&mesh), "abc");
    let effects = mesh.apply(arrived("mesh/nodes/a/presence", "", at(1)), at(1));
    let verdict = topics::verdict(&crate::name::NodeId::parse("a").unwrap());
    assert!(effects.iter().any(|e| matches!(e, Effect::Publish(t) if t.topic == verdict)));
    assert_eq!(known(&mesh), "bc");
    mesh.apply(arrived("mesh/nodes/b/presence", "", at(1)), at(1));
    mesh.apply(arrived("mesh/nodes/c/services/s", "", at(1)), at(1));
    assert_eq!(known(&mesh), "b", "it still has its heartbeat");
}

#[test]
fn clearing_a_heartbeat_forgets_the_node_and_clears_its_verdict() {
    let mut mesh = mesh();
    mesh.apply(arrived("mesh/nodes/n1/heartbeat", "{}", at(0)), at(0));
    let effects = mesh.apply(arrived("mesh/nodes/n1/heartbeat", "", at(1)), at(1));
    assert!(
        matches!(&effects[0], Effect::Remove(topic) if topic.as_str() == "mesh/nodes/n1/heartbeat")
    );
    let told = told(&effects);
    assert_eq!((told[0].topic.as_str(), told[0].retain), ("mesh/nodes/n1/verdict", true));
    assert!(told[0].payload.is_empty() && mesh.view().nodes.is_empty());
}

#[test]
fn an_announcement_is_journalled_before_anybody_is_told_and_then_snapshotted() {
    let mut mesh = mesh();
    let effects = mesh.apply(announce("a", at(0)), at(0));
    let [Effect::Journal { line, then: Some(told) }, Effect::Snapshot(batch)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(matches!(&line.entry, Entry::Announcement { .. }));
    assert_eq!(told.topic.as_str(), "mesh/announce/a");
    let accepted: Outcome = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(accepted.state, State::Accepted);
    assert_eq!(batch.asked[0].1, Duration::from_secs(30));
    let effects = finish(&mut mesh, batch, at(1));
    assert_eq!(
        says(&effects),
        [format!("r-a: snapshot {} [copy], asked by mqtt:tester", batch.name)]
    );
    assert_eq!(mesh.view().announcements[&id("a")].state, State::Confirmed);
}

#[test]
fn people_are_told_who_asked_in_words_they_use() {
    let asked = |source: Option<&str>, by: By| {
        let asked = Asked {
            id: id("a"),
            reason: "r".into(),
            source: source.map(Into::into),
            flush: false,
            by,
            requested_at: at(0).wall,
        };
        who(&state(&asked, State::Failed))
    };
    let irc = By::new(Door::Irc, "house/#mesh/alice!~a@localhost");
    assert_eq!(asked(Some("irc:alice"), irc), "alice on #mesh");
    let mqtt = By::new(Door::Mqtt, "crm");
    assert_eq!(asked(Some("crm-api"), mqtt.clone()), "crm-api (mqtt:crm)");
    assert_eq!(asked(None, mqtt), "mqtt:crm");
}

#[test]
fn a_hundred_announcements_at_once_share_two_snapshots() {
    let mut mesh = mesh();
    let mut asked = Vec::new();
    for n in 0..100 {
        asked.extend(batches(&mesh.apply(announce(&format!("a{n}"), at(0)), at(0))));
    }
    assert_eq!(asked.len(), 1, "the first one starts at once");
    let next = batches(&finish(&mut mesh, &asked[0], at(1)));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].asked.len(), 99);
    assert_ne!(next[0].name, asked[0].name);
    assert_eq!(batches(&finish(&mut mesh, &next[0], at(2))), []);
    let confirmed = mesh.view().announcements.values().filter(|o| o.state == State::Confirmed);
    assert_eq!(confirmed.count(), 100);
}

#[test]
fn a_burst_that_is_still_coming_is_gathered_but_nobody_alone_waits() {
    let millis = |n: u64| Now { steady: Duration::from_millis(n), ..at(0) };
    let mut mesh = mesh();
    let first = batches(&mesh.apply(announce("a", millis(0)), millis(0)));
    assert_eq!(mesh.wakes_in(millis(0)), None);
    mesh.apply(announce("b", millis(5)), millis(5));
    mesh.apply(announce("c", millis(10)), millis(10));
    assert_eq!(batches(&finish(&mut mesh, &first[0], millis(20))), [], "more are coming");
    assert_eq!(mesh.wakes_in(millis(20)), Some(Duration::from_millis(40)));
    assert_eq!(batches(&mesh.apply(announce("d", millis(40)), millis(40))), []);
    assert_eq!(batches(&mesh.apply(Event::Woken, millis(60))), [], "not quiet yet");
    let next = batches(&mesh.apply(Event::Woken, millis(90)));
    assert_eq!(next[0].asked.len(), 3);
    // One alone starts at once when the engine is free.
    mesh.apply(announce("e", millis(95)), millis(95));
    assert_eq!(batches(&finish(&mut mesh, &next[0], millis(96)))[0].asked.len(), 1);
}

#[test]
fn a_burst_that_never_ends_is_not_gathered_for_ever() {
    let millis = |n: u64| Now { steady: Duration::from_millis(n), ..at(0) };
    let mut config = config();
    config.announce.waiting_max = 10_000;
    let mut mesh = Mesh::new(&config);
    let first = batches(&mesh.apply(announce("a", millis(0)), millis(0)));
    mesh.apply(announce("b0", millis(1)), millis(1));
    mesh.apply(announce("b1", millis(1)), millis(1));
    finish(&mut mesh, &first[0], millis(2));
    let came = |n: u64| batches(&mesh.apply(announce(&format!("c{n}"), millis(n)), millis(n)));
    let began: Vec<u64> =
        (3..2000).zip((3..2000).map(came)).filter(|(_, b)| !b.is_empty()).map(|(n, _)| n).collect();
    assert_eq!(began, [1002], "a second after the engine was free");
}

#[test]
fn the_same_id_gets_the_same_outcome_and_no_second_snapshot() {
    let mut mesh = mesh();
    let first = batches(&mesh.apply(announce_for("a", Some("mesh/app/r1"), at(0)), at(0)));
    assert_eq!(mesh.apply(announce_for("a", Some("mesh/app/r2"), at(0)), at(0)), []);
    let answered = told(&finish(&mut mesh, &first[0], at(1)));
    let topics: Vec<_> = answered.iter().map(|t| t.topic.as_str()).collect();
    assert_eq!(topics, ["mesh/app/r1", "mesh/app/r2"]);
    assert_eq!(answered[0].correlation.as_deref(), Some(&b"\x00\xff"[..]));

    let again = mesh.apply(announce_for("a", Some("mesh/app/r3"), at(50)), at(50));
    assert_eq!(batches(&again), []);
    let told = told(&again);
    let topics: Vec<_> = told.iter().map(|t| t.topic.as_str()).collect();
    assert_eq!(topics, ["mesh/announce/a", "mesh/app/r3"]);
    assert!(told.iter().all(|t| t.payload == answered[0].payload), "another outcome");
}

#[test]
fn the_id_of_another_users_announcement_confirms_nothing() {
    let from = |user: &str, reply, now| {
        let mut event = announce_for("a", Some(reply), now);
        let Event::Arrived { received, .. } = &mut event else { unreachable!() };
        received.by.user = Some(user.into());
        event
    };
    let mut mesh = mesh();
    let first = batches(&mesh.apply(from("web1", "mesh/app/r1", at(0)), at(0)));
    for (time, ended) in [(at(0), false), (at(2), true)] {
        let refused = mesh.apply(from("anna", "mesh/app/r2", time), time);
        let answers = told(&refused);
        assert!(batches(&refused).is_empty() && concluded(&refused).is_empty());
        assert_eq!(answers.len(), 1, "nobody else knows the id as hers");
        assert_eq!(answers[0].topic.as_str(), "mesh/app/r2");
        let outcome: Outcome = serde_json::from_slice(&answers[0].payload).unwrap();
        assert_eq!(outcome.state, State::Failed);
        if !ended {
            finish(&mut mesh, &first[0], at(1));
        }
    }
}

#[test]
fn one_announcement_too_many_is_told_that_the_hub_is_busy() {
    let mut config = config();
    config.announce.waiting_max = 2;
    let mut mesh = Mesh::new(&config);
    for name in ["a", "b", "c"] {
        assert_eq!(concluded(&mesh.apply(announce(name, at(0)), at(0))), []);
    }
    let refused = concluded(&mesh.apply(announce("d", at(0)), at(0)));
    assert_eq!((refused[0].id.as_str(), refused[0].state), ("d", State::Failed));
    assert!(refused[0].error.as_ref().unwrap().contains("busy: 2 announcements wait"));
}

#[test]
fn what_waits_longer_than_its_deadline_fails_and_is_not_snapshotted_later() {
    let mut mesh = mesh();
    let running = batches(&mesh.apply(announce("a", at(0)), at(0)));
    mesh.apply(announce("b", at(5)), at(5));
    assert_eq!(mesh.apply(Event::Tick, at(34)), []);
    let late = concluded(&mesh.apply(Event::Tick, at(35)));
    assert_eq!((late[0].id.as_str(), late[0].state), ("b", State::Failed));
    mesh.apply(came_back(late[0].clone(), at(35)), at(35));
    assert_eq!(batches(&finish(&mut mesh, &running[0], at(36))), []);
}

#[test]
fn after_a_restart_what_was_under_way_fails_and_its_sender_is_told() {
    let mut mesh = mesh();
    let asked = Asked {
        id: id("a"),
        reason: "r".into(),
        source: None,
        flush: false,
        by: By::new(Door::Mqtt, "tester"),
        requested_at: at(0).wall,
    };
    let topic = Topic::parse("mesh/app/r").unwrap();
    let reply = Some(ReplyAddress { topic, correlation: None });
    let failed = concluded(&mesh.apply(Event::Interrupted { asked, reply }, at(9)));
    assert!(failed[0].error.as_ref().unwrap().contains("hub restarted"));
    let effects = mesh.apply(came_back(failed[0].clone(), at(9)), at(9));
    assert_eq!(told(&effects)[0].topic.as_str(), "mesh/app/r");
    assert!(
        says(&effects)[0]
            .starts_with("r: NO SNAPSHOT, asked by mqtt:tester; failed: the hub restarted")
    );
}

#[test]
fn an_announcement_that_only_a_record_remembers_keeps_its_outcome() {
    let mut mesh = mesh();
    let record = r#"{"name":"mesh-old","engine":"copy","full":"/x","guid":null,"txg":null,
        "began_at":"2026-06-01T00:00:00.000Z","taken_at":"2026-06-01T00:00:00.013Z","announcements":[
        {"id":"a","reason":"r","source":null,"by":{"door":"mqtt","client":"c"},"requested_at":"2026-06-01T00:00:00Z"}]}"#;
    let name = SnapshotName::parse("mesh-old").unwrap();
    let message = Message::parse(&Subject::Snapshot(name), record.as_bytes(), false).unwrap();
    mesh.apply(Event::Restored { message, received_at: at(0).wall }, at(0));
    let effects = mesh.apply(announce("a", at(1)), at(1));
    assert_eq!(batches(&effects), []);
    let again: Outcome = serde_json::from_slice(&told(&effects)[0].payload).unwrap();
    assert_eq!((again.state, again.timings_ms.total), (State::Confirmed, 13));
    assert_eq!(again.snapshot.unwrap().name.as_str(), "mesh-old");
}

#[test]
fn times_on_the_wire_always_have_milliseconds() {
    let asked = Asked {
        id: id("a"),
        reason: "r".into(),
        source: None,
        flush: false,
        by: By::hub(),
        requested_at: at(0).wall,
    };
    let text = serde_json::to_string(&state(&asked, State::Failed)).unwrap();
    assert!(text.contains(r#""requested_at":"2026-06-16T14:19:07.000Z""#), "{text}");
    assert!(text.contains(r#""confirmed_at":null"#), "{text}");
}

#[test]
fn a_flood_of_refusals_is_a_few_lines_and_a_count() {
    let mut mesh = mesh();
    let refused = || Event::Refused {
        by: By::new(Door::Mqtt, "x"),
        topic: "foo".into(),
        why: "no".into(),
        reply: None,
    };
    let lines: usize = (0..1000).map(|_| mesh.apply(refused(), at(0)).len()).sum();
    assert_eq!(lines, 10);
    let effects = mesh.apply(Event::Tick, at(1));
    let [Effect::Journal { line, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(line.entry, Entry::Refusals { count: 990 });
    assert_eq!(mesh.apply(refused(), at(1)).len(), 1);
}

#[test]
fn what_somebody_wants_said_goes_to_that_channel_only() {
    let effects = mesh().apply(arrived("mesh/irc/house/mesh/say", "hello", at(0)), at(0));
    let [Effect::Say(say)] = &effects[..] else { panic!("{effects:?}") };
    let channel =
        SayTo::Channel(NetworkName::parse("house").unwrap(), Channel::parse("#mesh").unwrap());
    assert_eq!((&say.to, say.kind, &*say.text), (&channel, SayKind::Relay, "hello"));
}

#[test]
fn a_restored_verdict_stands_until_the_node_speaks_or_falls_silent_again() {
    let mut mesh = mesh();
    let node = crate::name::NodeId::parse("n1").unwrap();
    let received_at = at(0).wall;
    let heartbeat = Message::Heartbeat(node.clone(), Heartbeat::default());
    let verdict = format!(r#"{{"node":"n1","verdict":"lost","since":"{WALL}","because":["x"]}}"#);
    let subject = Subject::of(&topics::verdict(&node)).unwrap();
    let verdict = Message::parse(&subject, verdict.as_bytes(), false).unwrap();
    mesh.apply(Event::Restored { message: heartbeat, received_at }, at(5));
    mesh.apply(Event::Restored { message: verdict, received_at }, at(5));
    assert_eq!(mesh.view().nodes[&node].verdict, Verdict::Lost);
    assert_eq!(mesh.apply(Event::Tick, at(6)), []);
    let back = mesh.apply(arrived("mesh/nodes/n1/heartbeat", "{}", at(7)), at(7));
    assert_eq!(says(&back), ["node n1 is alive: heartbeat"]);
}

/// What may happen next to a mesh with a disk.
#[derive(Debug, Clone)]
enum Step {
    Announce(u8),
    Tick(u16),
    /// The disk ends the snapshot under way, well or not.
    End(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Announce),
        2 => (0_u16..40).prop_map(Step::Tick),
        2 => any::<bool>().prop_map(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_announcement_gets_exactly_one_outcome_and_no_snapshot_begun_before_it(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut config = config();
        config.announce.waiting_max = 5;
        let mut mesh = Mesh::new(&config);
        let mut seconds = 0;
        let mut running: Option<(Batch, u64)> = None;
        let mut asked_at: HashMap<AnnouncementId, u64> = HashMap::new();
        let mut ended: HashSet<AnnouncementId> = HashSet::new();
        let end = [Step::End(true), Step::End(true), Step::Tick(40), Step::End(true)];
        for step in steps.into_iter().chain(end) {
            let mut effects = match step {
                Step::Announce(n) => {
                    asked_at.entry(id(&n.to_string())).or_insert(seconds);
                    mesh.apply(announce(&n.to_string(), at(seconds)), at(seconds))
                }
                Step::Tick(by) => {
                    seconds += u64::from(by);
                    mesh.apply(Event::Tick, at(seconds))
                }
                Step::End(well) => {
                    let Some((batch, began)) = running.take() else { continue };
                    let mut effects = Vec::new();
                    for (asked, _) in &batch.asked {
                        prop_assert!(ended.insert(asked.id.clone()), "a second outcome");
                        prop_assert!(asked_at[&asked.id] <= began, "older than its request");
                        let outcome = if well {
                            confirmed(asked, &batch.name, at(seconds))
                        } else {
                            state(asked, State::Failed)
                        };
                        effects.extend(mesh.apply(came_back(outcome, at(seconds)), at(seconds)));
                    }
                    effects
                }
            };
            for outcome in concluded(&effects) {
                prop_assert!(ended.insert(outcome.id.clone()), "a second outcome");
                effects.extend(mesh.apply(came_back(outcome, at(seconds)), at(seconds)));
            }
            for batch in batches(&effects) {
                prop_assert!(running.is_none(), "two snapshots at once");
                running = Some((batch, seconds));
            }
        }
        prop_assert!(running.is_none());
        prop_assert_eq!(ended.len(), asked_at.len(), "an announcement without an outcome");
        for outcome in mesh.view().announcements.values() {
            prop_assert!(outcome.state.is_final());
        }
    }
}
