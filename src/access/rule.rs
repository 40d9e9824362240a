//! Rules: topic filters in which the user and the client id may stand.

use super::filter::{covers, is_plain_level, selects, valid};
use std::borrow::Cow;

/// Somebody, as the rules see him.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a> {
    /// The user, proved by a password or a certificate; `None`: anonymous.
    pub user: Option<&'a str>,
    /// The client id, which everybody chooses for himself.
    pub client: &'a str,
}

/// A topic filter in which `%u` stands for the user, `%c` for the client id, `%%` for a percent sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule(Box<str>);

impl Rule {
    /// Checks a text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !valid(text) {
            return Err(format!(
                "{text:?} is no topic filter ('+' and '#' fill a whole level, '#' comes last)"
            ));
        }
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c == '%' && !matches!(rest.next(), Some('u' | 'c' | '%')) {
                let why = "after '%' only 'u' (user), 'c' (client id) and '%' have a meaning";
                return Err(format!("{text:?}: {why}"));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter for somebody; `None` where what would be put in is not there or is more than
    /// one plain level, so that nobody widens a rule by the name he gives himself.
    fn filter(&self, who: Who<'_>) -> Option<Cow<'_, str>> {
        if !self.0.contains('%') {
            return Some(Cow::Borrowed(&self.0));
        }
        let mut filter = String::with_capacity(self.0.len() + 32);
        let mut rest = self.0.chars();
        while let Some(c) = rest.next() {
            match (c, if c == '%' { rest.next() } else { None }) {
                ('%', Some('u')) => filter.push_str(plain(who.user?)?),
                ('%', Some('c')) => filter.push_str(plain(who.client)?),
                (c, _) => filter.push(c),
            }
        }
        Some(Cow::Owned(filter))
    }
}

fn plain(text: &str) -> Option<&str> {
    is_plain_level(text).then_some(text)
}

/// What somebody may do: whatever one of the rules grants, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rights {
    pub(super) publish: Vec<Rule>,
    pub(super) subscribe: Vec<Rule>,
}

impl Rights {
    pub(super) fn may_publish(&self, who: Who<'_>, topic: &str) -> bool {
        self.publish.iter().any(|rule| rule.filter(who).is_some_and(|f| selects(&f, topic)))
    }

    pub(super) fn may_publish_all(&self, who: Who<'_>, filter: &str) -> bool {
        self.publish.iter().any(|rule| rule.filter(who).is_some_and(|f| covers(&f, filter)))
    }

    pub(super) fn may_subscribe(&self, who: Who<'_>, filter: &str) -> bool {
        self.subscribe.iter().any(|rule| rule.filter(who).is_some_and(|f| covers(&f, filter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: Who<'_> = Who { user: Some("anna"), client: "c-1" };

    fn rights(publish: &[&str], subscribe: &[&str]) -> Rights {
        let rules = |texts: &[&str]| texts.iter().map(|t| Rule::parse(t).unwrap()).collect();
        Rights { publish: rules(publish), subscribe: rules(subscribe) }
    }

    #[test]
    fn nothing_is_granted_without_a_rule() {
        assert!(!Rights::default().may_publish(ANNA, "mesh/app/x"));
        assert!(!Rights::default().may_subscribe(ANNA, "mesh/app/x"));
        let rights = rights(&["mesh/app/a"], &["mesh/app/b"]);
        assert!(!rights.may_publish(ANNA, "mesh/app/b"));
        assert!(!rights.may_subscribe(ANNA, "mesh/app/a"));
    }

    #[test]
    fn the_user_and_the_client_id_stand_in_a_rule() {
        let rights = rights(&["mesh/app/%u/#", "mesh/app/by-%c/50%%"], &["mesh/app/+/%u/#"]);
        assert!(rights.may_publish(ANNA, "mesh/app/anna/x"));
        assert!(rights.may_publish(ANNA, "mesh/app/by-c-1/50%"));
        assert!(!rights.may_publish(ANNA, "mesh/app/bert/x"));
        assert!(rights.may_subscribe(ANNA, "mesh/app/x/anna/y"));
        assert!(!rights.may_subscribe(ANNA, "mesh/app/x/+/y"));
    }

    #[test]
    fn a_name_that_is_not_one_plain_level_makes_its_rule_grant_nothing() {
        let rights = rights(&["mesh/app/%u/x", "mesh/app/%c/y"], &["mesh/app/%u/#", "mesh/%c"]);
        for name in ["", "+", "#", "a/b", "a+", "#a", "a\0", "/"] {
            let who = Who { user: Some(name), client: name };
            for topic in ["mesh/app/a/x", "mesh/app/a/b/x", "mesh/app//x", "mesh/app/a/y"] {
                assert!(!rights.may_publish(who, topic), "{name:?} {topic}");
            }
            for filter in ["mesh/app/#", "mesh/app/+/x", "mesh/app//x", "mesh/#", "mesh/+", "#"] {
                assert!(!rights.may_subscribe(who, filter), "{name:?} {filter}");
            }
        }
        let nobody = Who { user: None, client: "%u" };
        assert!(!rights.may_publish(nobody, "mesh/app/%u/x"));
        assert!(rights.may_publish(nobody, "mesh/app/%u/y"), "it is not looked at twice");
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        for good in ["#", "mesh/app/%u/#", "mesh/+/%c", "100%%"] {
            Rule::parse(good).unwrap();
        }
        for bad in ["", "mesh/#/x", "mesh/a+", "%", "mesh/%x", "mesh/%%%", "a\0", "+%u"] {
            assert!(Rule::parse(bad).is_err(), "{bad:?}");
        }
    }
}
