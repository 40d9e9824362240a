//! The hub over HTTP.

use super::{Exit, Failure, HubArgs, trust};
use crate::http::api::ProblemDetails;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;
use ureq::tls::TlsConfig;

/// Time limit of a read.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Largest payload: what one MQTT packet can bring.
const PAYLOAD_MAX_BYTES: u64 = 256 << 20;

/// A hub to talk to.
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

/// An answer of the hub, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new(hub: &HubArgs, limit: Option<Duration>) -> Result<Self, Failure> {
        let login = hub.login()?;
        let secure = hub.hub.starts_with("https://");
        if !secure && !hub.hub.starts_with("http://") {
            let message =
                format!("{}: the hub is written http://HOST:PORT or https://HOST:PORT", hub.hub);
            return Err(Failure::usage(message));
        }
        let tls = if secure { trust::for_https(hub.ca.as_deref())? } else { TlsConfig::default() };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(limit.unwrap_or(READ_LIMIT)))
            .timeout_connect(Some(CONNECT_LIMIT))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls)
            .user_agent(concat!("meshfs/", env!("CARGO_PKG_VERSION")))
            .build();
        let base = hub.hub.trim_end_matches('/').to_owned();
        let authorization = login.map(|login| {
            let pair = format!("{}:{}", login.user, login.password);
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        });
        Ok(Self { agent: config.into(), base, authorization })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let response = request.call();
        let answer = self.answer(response)?;
        if answer.status != 200 {
            return Err(Failure::fault(problem(&answer)));
        }
        parse(&answer)
    }

    /// The answer to a read as it is.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        let answer = self.answer_within(response, PAYLOAD_MAX_BYTES)?;
        if answer.status != 200 {
            return Err(Failure::fault(problem(&answer)));
        }
        Ok(answer.body)
    }

    /// A request that is answered line by line; each line is handed on as it comes.
    pub(super) fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
        mut each: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let response = request.header("Accept", "application/x-ndjson").send_json(body);
        let mut response = response.map_err(|error| self.failure(&error))?;
        if response.status().as_u16() != 200 {
            return Err(Failure::fault(problem(&self.answer(Ok(response))?)));
        }
        let lines = response.body_mut().with_config().limit(ANSWER_MAX_BYTES).reader();
        for line in BufReader::new(lines).lines() {
            let line = line.map_err(|error| self.failure(&ureq::Error::from(error)))?;
            let body = line.into_bytes();
            each(parse(&Answer { status: 200, body })?)?;
        }
        Ok(())
    }

    pub(super) fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Answer, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let response = request.send_json(body);
        self.answer(response)
    }

    fn answer(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, Failure> {
        self.answer_within(response, ANSWER_MAX_BYTES)
    }

    fn answer_within(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        max_bytes: u64,
    ) -> Result<Answer, Failure> {
        let mut response = response.map_err(|error| self.failure(&error))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(max_bytes).read_to_vec();
        Ok(Answer { status, body: body.map_err(|error| self.failure(&error))? })
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let base = &self.base;
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Failure {
                exit: Exit::Unreachable,
                message: format!("the hub at {base} cannot be reached: no answer"),
            },
            ureq::Error::Timeout(_) => Failure {
                exit: Exit::Deadline,
                message: format!("the hub at {base} did not answer in time"),
            },
            error => Failure {
                exit: Exit::Unreachable,
                message: format!(
                    "the hub at {base} cannot be reached: {error} (is `meshfs serve` running? --hub names another)"
                ),
            },
        }
    }
}

/// Text as a part of a path or a query: nothing in it is more than text.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::fault(format!("the hub's answer is not understood: {error}")))
}

/// What the hub says is wrong.
pub(super) fn problem(answer: &Answer) -> String {
    match serde_json::from_slice::<ProblemDetails>(&answer.body) {
        Ok(problem) if answer.status == 401 => format!("{} (--user NAME)", problem.detail),
        Ok(problem) => problem.detail,
        Err(_) => format!("the hub answered with status {}", answer.status),
    }
}
