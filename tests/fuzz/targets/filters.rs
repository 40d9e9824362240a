//! Filters against models of them that are too slow to use and too plain to be wrong.
//!
//! Input: three lines: a filter, another one, which is also read as a rule, and a topic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshfs_broker::{filter_matches, valid_filter, valid_topic};
use rooms::name::{Filter, Topic};
use rooms::rights;

/// A level that is in no rule.
const FRESH: &str = "\u{1}fresh";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(filter), Some(rule), Some(topic)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    if filter.split('/').count() <= 128 {
        assert_eq!(rights::valid(filter), valid_filter(filter), "{filter:?}");
    }
    if !valid_filter(filter) {
        assert!(Filter::parse(filter).is_err(), "{filter:?} is none on the bus");
        return;
    }
    assert_eq!(rights::is_plain_level(filter), !filter.contains(['/', '+', '#']));
    if valid_topic(topic) {
        selecting(filter, topic);
    }
    if valid_filter(rule) && !rule.contains(FRESH) && !filter.contains(FRESH) {
        covering(rule, filter);
    }
});

/// Everybody who asks whether a filter selects a topic gets the same answer.
fn selecting(filter: &str, topic: &str) {
    let levels = |text: &'_ str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    let expected = !hidden && model(&levels(filter), &levels(topic));
    assert_eq!(filter_matches(filter, topic), expected, "{filter:?} {topic:?}");
    assert_eq!(rights::selects(filter, topic), expected, "{filter:?} {topic:?}");
    if let (Ok(filter), Ok(topic)) = (Filter::parse(filter), Topic::parse(topic)) {
        assert_eq!(filter.matches(&topic), expected, "{filter:?} {topic:?}");
    }
    assert_eq!(meshfs_broker::fuzzing::found(filter, topic), expected, "{filter:?} {topic:?}");
}

fn model(filter: &[String], topic: &[String]) -> bool {
    match (filter, topic) {
        ([], []) => true,
        ([wanted], _) if wanted == "#" => true,
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            (wanted == "+" || wanted == level) && model(filter, topic)
        }
        _ => false,
    }
}

/// A rule covers a filter if it selects all topics of it; those with levels of their own in place
/// of the wildcards stand for all others.
fn covering(rule: &str, filter: &str) {
    if filter == "/#" {
        return; // selects the empty topic too, which is none
    }
    let fresh = |level| if level == "+" { FRESH } else { level };
    let levels: Vec<_> = filter.split('/').map(fresh).collect();
    let topics = match levels.split_last() {
        Some((&"#", stem)) => [0, 1, 2].map(|more| [stem, &vec![FRESH; more]].concat()).to_vec(),
        _ => vec![levels],
    };
    let topics: Vec<_> = topics.iter().map(|levels| levels.join("/")).collect();
    let mut topics = topics.iter().filter(|topic| !topic.is_empty());
    let expected = topics.all(|topic| filter_matches(rule, topic));
    assert_eq!(rights::covers(rule, filter), expected, "{rule:?} {filter:?}");
}
