//! Labels as user properties of a snapshot, and the list that reads them back.

use super::super::{Found, Labels, SnapshotError, Taken};
use super::first_line;
use crate::name::{Dataset, SnapshotName};
use tracing::debug;

/// What a user property may hold in bytes: ZFS keeps 8192 with the end mark.
const VALUE_MAX_BYTES: usize = 8191;

/// The columns that [`parse_list`] reads, in this order.
pub(super) const COLUMNS: &str =
    "name,guid,createtxg,meshfs:id,meshfs:reason,meshfs:source,meshfs:flush,meshfs:ids";

/// The permissions that it takes to make a snapshot with labels.
pub(super) const NEEDED: [&str; 2] = ["snapshot", "userprop"];

/// The labels as properties to set. What is longer than ZFS keeps is cut: whole
/// ids from the end of the list, characters from the end of a text.
pub(super) fn properties(labels: &Labels) -> Vec<(&'static str, String)> {
    let mut all =
        vec![("meshfs:id", escape(&labels.id)), ("meshfs:reason", escape(&labels.reason))];
    if let Some(source) = &labels.source {
        all.push(("meshfs:source", escape(source)));
    }
    all.push(("meshfs:flush", labels.flush.to_string()));
    let mut ids = String::new();
    for id in &labels.ids {
        let id = escape(id);
        if id.contains(',') || ids.len() + id.len() + 1 > VALUE_MAX_BYTES {
            debug!(%id, "announcement left out of the labels of its snapshot");
            continue;
        }
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(&id);
    }
    all.push(("meshfs:ids", ids));
    all
}

/// Reads `zfs list -Hp -o` [`COLUMNS`]: each snapshot with its transaction group.
///
/// A snapshot of a name that we could not have given is passed over; anything
/// else that does not fit is an error, because a list with holes looks complete.
pub(super) fn parse_list(
    text: &str,
    dataset: &Dataset,
) -> Result<Vec<(u64, Found)>, SnapshotError> {
    let mut all = Vec::new();
    for line in text.lines() {
        let wrong = || SnapshotError::Answer { verb: "zfs list", line: first_line(line) };
        let columns: Vec<&str> = line.split('\t').collect();
        let [full, guid, txg, id, reason, source, flush, ids] = columns[..] else {
            return Err(wrong());
        };
        let (owner, tag) = full.split_once('@').ok_or_else(wrong)?;
        if owner != dataset.as_str() || guid.parse::<u64>().is_err() {
            return Err(wrong());
        }
        let txg: u64 = txg.parse().map_err(|_| wrong())?;
        let name = match SnapshotName::parse(tag) {
            Ok(name) => name,
            Err(error) => {
                debug!(tag, %error, "snapshot passed over");
                continue;
            }
        };
        let taken = Taken {
            engine: "zfs",
            full: full.to_owned(),
            guid: Some(guid.to_owned()),
            txg: Some(txg),
        };
        let labels = set(id).map(|id| Labels {
            id,
            reason: set(reason).unwrap_or_default(),
            source: set(source),
            flush: flush == "true",
            ids: set(ids)
                .unwrap_or_default()
                .split(',')
                .filter(|s| !s.is_empty())
                .map(Into::into)
                .collect(),
        });
        all.push((txg, Found { name, taken, labels }));
    }
    Ok(all)
}

/// A property's value; zfs prints `-` for one that is not set.
fn set(column: &str) -> Option<String> {
    (column != "-").then(|| unescape(column))
}

/// Makes a text one field of one line: control characters and the backslash are
/// written as in Rust, and so is a lone `-`, which zfs prints for nothing.
fn escape(text: &str) -> String {
    if text == "-" {
        return "\\u{2d}".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let before = out.len();
        match c {
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        if out.len() > VALUE_MAX_BYTES {
            out.truncate(before);
            break;
        }
    }
    out
}

/// The opposite of [`escape`]; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match decode(rest) {
            Some((c, len)) => {
                out.push(c);
                rest = &rest[len..];
            }
            None => out.push('\\'),
        }
    }
    out.push_str(rest);
    out
}

/// The character that an escape stands for, and its length without the backslash.
fn decode(rest: &str) -> Option<(char, usize)> {
    match rest.chars().next()? {
        '\\' => Some(('\\', 1)),
        'n' => Some(('\n', 1)),
        'r' => Some(('\r', 1)),
        't' => Some(('\t', 1)),
        'u' => {
            let hex = rest.strip_prefix("u{")?;
            let end = hex.find('}').filter(|&end| end <= 6)?;
            let c = char::from_u32(u32::from_str_radix(&hex[..end], 16).ok()?)?;
            Some((c, end + 3))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dataset() -> Dataset {
        Dataset::parse("tank/meshfs").unwrap()
    }

    /// A line as zfs prints it for a snapshot that was taken with these labels.
    fn line(labels: &Labels) -> String {
        let set = properties(labels);
        let value = |name: &str| {
            set.iter().find(|(n, _)| *n == name).map_or("-".to_owned(), |(_, value)| value.clone())
        };
        let columns: Vec<String> = COLUMNS.split(',').skip(3).map(value).collect();
        format!("tank/meshfs@mesh-1\t42\t7\t{}\n", columns.join("\t"))
    }

    proptest! {
        #[test]
        fn labels_come_back_as_they_went_in(
            reason in any::<String>(),
            source in any::<Option<String>>(),
            ids in prop::collection::vec("[A-Za-z0-9._-]{1,64}", 1..20),
            flush: bool,
        ) {
            let labels = Labels { reason, source, id: ids[0].clone(), ids, flush };
            let found = parse_list(&line(&labels), &dataset()).unwrap();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].1.labels.as_ref(), Some(&labels));
        }

        #[test]
        fn whatever_zfs_prints_is_read_or_refused(text in "([\\PC\t\n@/-]|tank/meshfs@|\\\\u\\{|[0-9]{1,21}){0,60}") {
            for (txg, found) in parse_list(&text, &dataset()).unwrap_or_default() {
                prop_assert_eq!(Some(txg), found.taken.txg);
                prop_assert!(text.contains(&found.taken.full));
            }
            let _ = unescape(&text);
        }

        #[test]
        fn every_value_is_one_that_zfs_takes(reason in "[\\PC\t\n\0\\\\é-]{0,9000}", n in 0usize..300) {
            let ids = (0..n).map(|i| format!("0190c3f2-0000-7000-8000-{i:012}")).collect();
            let labels = Labels { reason, id: "a".into(), ids, ..Labels::default() };
            for (_, value) in properties(&labels) {
                prop_assert!(value.len() <= VALUE_MAX_BYTES);
                prop_assert!(!value.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn a_snapshot_that_is_not_ours_has_no_labels() {
        let found = parse_list("tank/meshfs@daily\t1\t2\t-\t-\t-\t-\t-\n", &dataset()).unwrap();
        assert_eq!(found[0].1.labels, None);
        assert_eq!(found[0].1.taken.guid.as_deref(), Some("1"));
    }

    #[test]
    fn surplus_and_missing_columns_are_refused() {
        let good = "tank/meshfs@a\t1\t2\t-\t-\t-\t-\t-";
        assert_eq!(parse_list(good, &dataset()).unwrap().len(), 1);
        let surplus = format!("{good}\tx");
        let bad = [
            surplus.as_str(),
            "tank/meshfs@a\t1\t2\t-\t-\t-\t-",
            "",
            "tank/meshfs\t1\t2\t-\t-\t-\t-\t-",
            "tank/other@a\t1\t2\t-\t-\t-\t-\t-",
            "tank/meshfs@a\tx\t2\t-\t-\t-\t-\t-",
            "tank/meshfs@a\t1\t-\t-\t-\t-\t-\t-",
        ];
        for line in bad {
            let text = format!("{good}\n{line}\n");
            assert!(
                matches!(parse_list(&text, &dataset()), Err(SnapshotError::Answer { .. })),
                "{line:?}"
            );
        }
    }
}
