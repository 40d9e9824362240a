//! Which topics a filter selects, and whether a rule grants all of them.

/// True if `filter` selects `topic`. A leading wildcard selects no topic that begins with `$`.
pub(super) fn selects(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// True if every topic that `filter` selects is one that `rule` selects.
///
/// Both have to be well formed. A filter may be covered by one rule only: what two rules grant
/// together has to be asked for in two subscriptions.
pub(super) fn covers(rule: &str, filter: &str) -> bool {
    // At the root these two are the same: a topic has at least one level.
    let rule = if rule == "+/#" { "#" } else { rule };
    if filter.starts_with('$') && rule.starts_with(['+', '#']) {
        return false;
    }
    let (mut rule, mut filter) = (rule.split('/'), filter.split('/'));
    loop {
        match (rule.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            // Of these `#` selects more levels than one, and also none.
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(granted), Some(level)) if granted == level => {}
            _ => return false,
        }
    }
}

/// True for text that MQTT takes as a filter.
pub(super) fn valid(filter: &str) -> bool {
    let levels = filter.split('/').count();
    let level = |(at, level): (usize, &str)| match level {
        "+" => true,
        "#" => at + 1 == levels,
        _ => !level.contains(['+', '#', '\0']),
    };
    !filter.is_empty() && filter.split('/').enumerate().all(level)
}

/// True for text that is one level of a topic, and stands for nothing but itself.
pub(super) fn is_plain_level(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '+', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_covers_what_selects_no_more_than_it() {
        for (rule, filter, covered) in [
            ("#", "#", true),
            ("#", "mesh/#", true),
            ("+/#", "#", true),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("mesh/#", "#", false),
            ("mesh/#", "+/#", false),
            ("mesh/#", "mesh", true),
            ("mesh/#", "mesh/+/x/#", true),
            ("mesh/+", "mesh/#", false),
            ("mesh/+", "mesh/+", true),
            ("mesh/+", "mesh/a", true),
            ("mesh/a", "mesh/+", false),
            ("mesh/+/x", "mesh/a/x", true),
            ("mesh/+/x", "mesh/a/+", false),
            ("mesh/+/#", "mesh/#", false),
            ("mesh/a/#", "mesh/a/#", true),
            ("mesh/a", "mesh/a/#", false),
            ("mesh/a", "mesh", false),
        ] {
            assert_eq!(covers(rule, filter), covered, "{rule} {filter}");
        }
    }

    /// Every topic up to four levels over an alphabet that holds a level of no rule, an empty
    /// one and one that begins with `$`.
    fn topics() -> Vec<String> {
        let alphabet = ["a", "b", "other", "", "$s"];
        let mut all: Vec<String> = alphabet.map(str::to_owned).to_vec();
        let mut last = all.clone();
        for _ in 1..4 {
            last = last
                .iter()
                .flat_map(|topic| alphabet.map(|level| format!("{topic}/{level}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all.retain(|topic| !topic.is_empty());
        all
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "+", "", "$s"]);
        (prop::collection::vec(level, 0..3), any::<bool>())
            .prop_map(|(mut levels, open)| {
                if open || levels.is_empty() {
                    levels.push("#");
                }
                levels.join("/")
            })
            // `/#` would select the empty topic too, which is none.
            .prop_filter("a filter of topics", |filter| valid(filter) && filter != "/#")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn covering_is_selecting_every_topic_that_the_other_selects(
            rule in filters(), filter in filters(),
        ) {
            thread_local!(static TOPICS: Vec<String> = topics());
            let enumerated = TOPICS.with(|topics| {
                topics.iter().all(|topic| !selects(&filter, topic) || selects(&rule, topic))
            });
            prop_assert_eq!(covers(&rule, &filter), enumerated, "{} {}", rule, filter);
        }
    }
}
