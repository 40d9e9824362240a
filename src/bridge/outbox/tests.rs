use proptest::prelude::*;

use super::*;
use crate::mesh::SayKind;

fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

fn event(text: &str, at: Instant) -> Event {
    Event { kind: SayKind::Confirmed, text: text.into(), at }
}

/// An outbox that has been connected long enough to have all its tokens, and the time.
fn rested() -> (Outbox, Instant) {
    let start = Instant::now();
    let mut outbox = Outbox::new(Pace::default(), &[channel("#mesh")], start);
    outbox.connected(start);
    (outbox, start + Duration::from_secs(60))
}

fn lines(outbox: &mut Outbox, now: Instant) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        match outbox.next(now, |_| Some(400)) {
            Step::Say(line) => lines.push(line.text),
            Step::Probe(number) => outbox.confirm(Some(number)),
            Step::Wait(_) | Step::Idle => return lines,
        }
    }
}

#[test]
fn one_event_leaves_at_once() {
    let (mut outbox, now) = rested();
    outbox.push(None, &event("snapshot", now));
    assert_eq!(lines(&mut outbox, now), ["snapshot"]);
    assert_eq!((outbox.held(), outbox.totals().0), (0, 1));
}

#[test]
fn two_hundred_events_leave_as_few_lines_that_count_them_all() {
    let (mut outbox, mut now) = rested();
    let mut said = Vec::new();
    for n in 0..200 {
        outbox.push(None, &event(&format!("snapshot {n}"), now));
        said.extend(lines(&mut outbox, now));
        now += Duration::from_millis(5);
    }
    while outbox.held() > 0 {
        said.extend(lines(&mut outbox, now));
        now += Duration::from_millis(500);
    }
    assert!(said.len() <= 4, "{said:#?}");
    let digest =
        |line: &String| -> Option<u64> { line.strip_prefix('[')?.split(' ').next()?.parse().ok() };
    assert_eq!(said.iter().map(|line| digest(line).unwrap_or(1)).sum::<u64>(), 200);
    assert_eq!(outbox.totals().0, 200);
}

#[test]
fn lines_keep_the_pace_and_nothing_leaves_right_after_connecting() {
    let (mut outbox, now) = rested();
    outbox.connected(now);
    (0..9).for_each(|n| outbox.reply("#mesh", &format!("{n}"), 400));
    assert_eq!(outbox.next(now, |_| None), Step::Wait(now + Duration::from_secs(2)));
    let times = [2, 4, 5, 60].map(|s| now + Duration::from_secs(s));
    assert_eq!(times.map(|now| lines(&mut outbox, now).len()), [1, 1, 0, 4]);
}

#[test]
fn answers_go_before_events_and_are_bounded() {
    let (mut outbox, now) = rested();
    outbox.push(None, &event("event", now));
    (0..100).for_each(|_| outbox.reply("#mesh", "answer", 400));
    assert_eq!(lines(&mut outbox, now), ["answer"; 4]);
    assert_eq!(outbox.totals().1, 70);
}

#[test]
fn what_was_written_but_not_confirmed_is_said_again_after_a_reconnect() {
    let (mut outbox, now) = rested();
    (0..2).for_each(|n| assert!(outbox.push(None, &event(&format!("{n}"), now))));
    assert!(matches!(outbox.next(now, |_| Some(400)), Step::Say(line) if line.text == "0"));
    assert_eq!((outbox.held(), outbox.totals().0), (2, 0));
    outbox.disconnected();
    assert_eq!(outbox.held(), 2);
    outbox.connected(now + Duration::from_secs(9));
    assert_eq!(lines(&mut outbox, now + Duration::from_secs(60)), ["0", "1"]);
}

#[test]
fn events_wait_where_we_may_not_speak() {
    let start = Instant::now();
    let both = [channel("#a"), channel("#b")];
    let mut outbox = Outbox::new(Pace::default(), &both, start);
    let now = start + Duration::from_secs(60);
    outbox.push(None, &event("x", now));
    let room = |name: &Channel| (name.as_str() == "#b").then_some(400);
    assert!(matches!(outbox.next(now, room), Step::Say(line) if &*line.target == "#b"));
    assert!(matches!(outbox.next(now, room), Step::Probe(1)));
    outbox.rejected(&channel("#b"));
    outbox.confirm(Some(1));
    assert_eq!((outbox.held(), outbox.totals().0), (2, 0));
    assert!(!outbox.push(Some(&channel("#c")), &event("x", now)));
}

#[test]
fn a_channel_lost_in_the_middle_of_an_event_gets_all_of_it_later() {
    let (mut outbox, now) = rested();
    outbox.push(None, &event("aaaa bbbb cccc", now));
    assert!(matches!(outbox.next(now, |_| Some(4)), Step::Say(line) if line.text == "aaaa"));
    assert_eq!(outbox.next(now, |_| None), Step::Idle);
    assert_eq!(outbox.held(), 1);
    assert_eq!(lines(&mut outbox, now), ["aaaa bbbb cccc"]);
}

#[test]
fn after_an_outage_one_digest_tells_what_was_missed() {
    let (mut outbox, now) = rested();
    outbox.disconnected();
    (0..1_200).for_each(|_| assert!(outbox.push(None, &event("snapshot", now))));
    let back = now + Duration::from_secs(600);
    outbox.connected(back);
    let said = lines(&mut outbox, back + Duration::from_secs(10));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("while I was away: [1200 events in 10min] 1200 confirmed"));
}

#[test]
fn hostile_text_leaves_as_clean_lines() {
    let (mut outbox, now) = rested();
    outbox.push(None, &event("a\r\nQUIT\0 b", now));
    outbox.push(None, &event("\r\n", now));
    assert_eq!(lines(&mut outbox, now), ["a  QUIT  b"]);
    assert_eq!(outbox.held(), 0);
}

proptest! {
    #[test]
    fn nothing_is_lost_whatever_happens(steps in proptest::collection::vec((0_u8..6, 0_u64..5_000), 0..200)) {
        let (mut outbox, mut now) = rested();
        let mut pushed = 0;
        for (what, ms) in steps {
            now += Duration::from_millis(ms);
            match what {
                0 | 1 => {
                    for _ in 0..ms / 500 {
                        pushed += 1;
                        outbox.push(None, &event("one two three", now));
                    }
                }
                2 => outbox.disconnected(),
                3 => outbox.connected(now),
                4 => outbox.rejected(&channel("#mesh")),
                _ => {
                    if let Step::Probe(number) = outbox.next(now, |_| Some(9)) {
                        outbox.confirm(Some(number));
                    }
                }
            }
            prop_assert_eq!(outbox.held() + outbox.totals().0, pushed);
        }
    }
}
