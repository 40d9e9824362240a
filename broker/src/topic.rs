//! Rules for topics and filters, in one place so that nobody checks by a different rule.

/// Deeper filters are refused: the tree is walked by recursion.
pub(crate) const FILTER_MAX_LEVELS: usize = 128;

/// May a message be published to this topic? Not empty, no wildcard, no NUL.
pub fn valid_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= 65_535
        && !topic.bytes().any(|c| matches!(c, b'+' | b'#' | 0))
}

/// May a client subscribe to this filter? Wildcards fill a whole level, `#` comes last,
/// at most 128 levels.
pub fn valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > 65_535 || filter.contains('\0') {
        return false;
    }
    let levels = filter.split('/').count();
    levels <= FILTER_MAX_LEVELS
        && filter.split('/').enumerate().all(|(i, level)| match level {
            "+" => true,
            "#" => i + 1 == levels,
            _ => !level.contains(['+', '#']),
        })
}

/// Does a filter select a topic? A leading wildcard never selects a topic that begins with `$`.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut topic, mut filter) = (topic.split('/'), filter.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// `$share/<group>/<filter>` in its two parts; other filters have no group.
/// `None` when the form is `$share/` but broken.
pub(crate) fn split_share(filter: &str) -> Option<(Option<&str>, &str)> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        return (filter != "$share").then_some((None, filter));
    };
    let (group, filter) = rest.split_once('/')?;
    (!group.is_empty() && !group.contains(['+', '#'])).then_some((Some(group), filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_hold_no_wildcard_and_no_nul() {
        for good in ["a", "/", "a//b", "é/x", "$SYS/x", "a b", "…/.."] {
            assert!(valid_topic(good), "{good}");
        }
        for bad in ["", "a/+", "#", "a#", "a\0b"] {
            assert!(!valid_topic(bad), "{bad:?}");
        }
    }

    #[test]
    fn wildcards_fill_whole_levels_and_the_hash_comes_last() {
        for good in ["#", "+", "a/+/b/#", "/", "+/+", "$share"] {
            assert!(valid_filter(good), "{good}");
        }
        for bad in ["", "a#", "a/#/b", "a+/b", "##", "a\0"] {
            assert!(!valid_filter(bad), "{bad:?}");
        }
        assert!(valid_filter(&vec!["a"; 128].join("/")));
        assert!(!valid_filter(&vec!["a"; 129].join("/")));
    }

    #[test]
    fn a_filter_selects_by_level() {
        for (filter, topic, selects) in [
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("+", "a/b", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/x", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(filter_matches(filter, topic), selects, "{filter} {topic}");
        }
    }

    #[test]
    fn shared_filters_are_split_or_refused() {
        assert_eq!(split_share("a/b"), Some((None, "a/b")));
        assert_eq!(split_share("$share/g/a/#"), Some((Some("g"), "a/#")));
        assert_eq!(split_share("$share/g"), None);
        assert_eq!(split_share("$share//a"), None);
        assert_eq!(split_share("$share/+/a"), None);
    }
}
