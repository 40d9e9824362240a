//! `/v1/live`: the retained messages as they are now, one page or one payload at a time.

use super::problem::Problem;
use super::{Answer, Api, Name, Params, api};
use crate::bus::Restored;
use crate::name::{Filter, Topic};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

/// Messages on a page.
const PAGE_MAX: usize = 1000;

/// Where the metadata of a payload are: JSON in ASCII.
const METADATA: HeaderName = HeaderName::from_static("meshfs-metadata");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    filter: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    metadata: bool,
}

/// `GET /v1/live?filter=mesh/nodes/%23&limit=100&after=TOPIC`
pub(super) async fn list(
    State(api): State<Api>,
    Params(which): Params<Which>,
) -> Answer<api::LivePage> {
    let filter = Filter::parse(which.filter.as_deref().unwrap_or("#"))
        .map_err(|e| Problem::bad_request(&e.to_string()))?;
    let limit = which.limit.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::bad_request("limit is a number from 1 to 1,000"));
    }
    let page = api.retained.page(&filter, which.after.as_deref(), limit);
    let messages = page.messages.iter().map(api::LiveMessage::from).collect();
    Ok(Json(api::LivePage { messages, next: page.next.map(Into::into) }))
}

/// `GET /v1/live/nodes/web1/heartbeat`, the topic without `mesh/`: the payload byte for byte; with
/// `?metadata=true` what is known about it.
pub(super) async fn one(
    State(api): State<Api>,
    Name(path): Name,
    Params(how): Params<How>,
) -> Result<Response, Problem> {
    let topic = Topic::parse(&format!("mesh/{path}"));
    let topic = topic.map_err(|e| Problem::not_found(&e.to_string()))?;
    let message = api.retained.get(&topic);
    let message = message.ok_or_else(|| Problem::not_found("nothing is retained on this topic"))?;
    let metadata = api::LiveMessage::from(&message);
    Ok(if how.metadata { Json(metadata).into_response() } else { payload(&message, &metadata) })
}

/// What a client of the bus published is shown as what it says it is, but never as a page of
/// this interface: no script in it runs, and nothing guesses it to be something else.
fn payload(message: &Restored, metadata: &api::LiveMessage) -> Response {
    let mut response = axum::body::Body::from(message.payload.clone()).into_response();
    let said = message.content_type.as_deref().and_then(|said| HeaderValue::from_str(said).ok());
    let usual = match message.topic.is_app() {
        true => HeaderValue::from_static("application/octet-stream"),
        false => HeaderValue::from_static("application/json"),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, said.unwrap_or(usual));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let metadata = serde_json::to_string(metadata).unwrap_or_default();
    if let Ok(metadata) = HeaderValue::from_str(&ascii(&metadata)) {
        headers.insert(METADATA, metadata);
    }
    response
}

/// JSON in which everything beyond printable ASCII is escaped.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            text.push(c);
        } else {
            let units = c
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|u| format!("\\u{u:04x}"))
                .collect::<String>();
            text.push_str(&units);
        }
    }
    text
}

impl From<&Restored> for api::LiveMessage {
    fn from(message: &Restored) -> Self {
        Self {
            topic: message.topic.clone(),
            bytes: message.payload.len() as u64,
            by: message.by.clone(),
            received_at: message.received_at,
            qos: message.qos,
            content_type: message.content_type.clone(),
            user_properties: message.user_properties.clone(),
            expires_at: message.expires_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_header_is_ascii_and_means_the_same() {
        let value = serde_json::json!({ "k": "é\u{1f600}\u{85}\n\u{7f}\"" });
        let escaped = ascii(&value.to_string());
        assert!(escaped.bytes().all(|b| (b' '..=b'~').contains(&b)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
