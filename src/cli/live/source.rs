//! Where `meshfs live` reads: the running hub, or the files of a tree.

use super::super::client::{Client, escaped};
use super::super::output::{self, plain};
use super::super::{Failure, HubArgs};
use super::{NotOurs, Source};
use crate::http::api::{LiveMessage, LivePage};
use crate::live::{Foreign, Found, Meta, Reader, StoreError, path};
use crate::name::{Filter, Topic};
use std::error::Error as _;
use std::path::Path;

/// What was found.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) messages: Vec<LiveMessage>,
    pub(super) not_ours: Vec<NotOurs>,
}

/// Asks the hub, page by page.
pub(super) fn in_hub(hub: &HubArgs, filter: &Filter) -> Result<Listed, Failure> {
    let client = Client::new(hub, None)?;
    let mut listed = Listed::default();
    let mut from = String::new();
    loop {
        let filter = escaped(filter.as_str());
        let page: LivePage = client.get(&format!("/v1/live?filter={filter}{from}"))?;
        listed.messages.extend(page.messages);
        match page.next {
            Some(next) => from = format!("&after={}", escaped(&next)),
            None => return Ok(listed),
        }
    }
}

/// Reads the files.
pub(super) fn in_files(root: &Path, filter: &Filter) -> Result<Listed, Failure> {
    let reader = open(root)?;
    let mut listed = Listed::default();
    reader.visit(&mut |found| match found {
        Ok(found) if !filter.matches(&found.topic) => {}
        Ok(Found { topic, payload, meta: Ok(meta) }) => {
            listed.messages.push(message(topic, payload.len(), meta));
        }
        Ok(Found { topic, meta: Err(why), .. }) => {
            let path = path::of(&topic).unwrap_or_default();
            listed.not_ours.push(NotOurs { path: shown(&path), why });
        }
        Err(foreign) if !concerns(filter, &foreign) => {}
        Err(foreign) => {
            listed.not_ours.push(NotOurs { path: shown(&foreign.path), why: foreign.why });
        }
    });
    listed.messages.sort_by(|a, b| a.topic.cmp(&b.topic));
    Ok(listed)
}

/// A foreign file is shown if the filter would select a topic of its path, or if that cannot be
/// said; a folder that was not looked into may hold anything.
fn concerns(filter: &Filter, foreign: &Foreign) -> bool {
    let topic = foreign.path.to_str().map(|path| Topic::parse(&format!("mesh/{path}")));
    let Some(Ok(topic)) = topic else { return true };
    foreign.is_folder || filter.matches(&topic)
}

/// Prints a payload, or what is known about it.
pub(super) fn cat(topic: &Topic, meta: bool, source: &Source) -> Result<(), Failure> {
    let Some(root) = &source.root else {
        let client = Client::new(&source.hub, None)?;
        let levels: Vec<_> = topic.levels().map(escaped).collect();
        let path = format!("/v1/live/{}", levels.join("/"));
        if meta {
            let message: LiveMessage = client.get(&format!("{path}?metadata=true"))?;
            return output::json(&message);
        }
        return output::bytes(&client.get_bytes(&path)?);
    };
    let found = open(root)?.get(topic).map_err(|error| failure(&error))?;
    let nothing = || Failure::fault(format!("no file of this topic is below {}", root.display()));
    let found = found.ok_or_else(nothing)?;
    match found.meta {
        Ok(known) if meta => output::json(&message(found.topic, found.payload.len(), known)),
        Ok(_) => output::bytes(&found.payload),
        Err(why) if meta => Err(Failure::fault(format!("nothing can be said about it: {why}"))),
        Err(why) => {
            output::bytes(&found.payload)?;
            Err(Failure::fault(format!("these bytes are not to be trusted: {why}")))
        }
    }
}

fn open(root: &Path) -> Result<Reader, Failure> {
    Reader::open(root).map_err(|error| {
        let Failure { exit, message } = failure(&error);
        let message =
            format!("{message} (--root is the folder that holds live/, or a snapshot of it)");
        Failure { exit, message }
    })
}

fn failure(error: &StoreError) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::fault(plain(&format!("{error}{cause}")))
}

fn shown(path: &Path) -> String {
    plain(&path.display().to_string())
}

fn message(topic: Topic, bytes: usize, meta: Meta) -> LiveMessage {
    LiveMessage {
        topic,
        bytes: bytes as u64,
        by: meta.by,
        received_at: meta.received_at,
        qos: meta.qos,
        content_type: meta.content_type,
        user_properties: meta.user_properties,
        expires_at: meta.expires_at,
    }
}
