//! Errors as RFC 9457 problem details. Only 4xx and 5xx can be built.

use super::api::ProblemDetails;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// What a client is to do about it.
    hint: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, detail: &str) -> Self {
        Self { status, detail: detail.to_owned(), hint: None }
    }

    pub(super) fn unauthorized(detail: &str) -> Self {
        let ask = HeaderValue::from_static("Basic realm=\"meshfs\", charset=\"UTF-8\"");
        let hint = Some((header::WWW_AUTHENTICATE, ask));
        Self { hint, ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    pub(super) fn too_many(detail: &str, wait: Duration) -> Self {
        let hint = Some((header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)));
        Self { hint, ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    pub(super) fn bad_request(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
    }

    pub(super) fn conflict(detail: &str) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(super) fn too_large(detail: &str) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = ProblemDetails {
            r#type: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, axum::Json(details)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some((name, value)) = self.hint {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
