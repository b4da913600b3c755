//! What a request that cannot be answered is told: `application/problem+json`, with what, where and what to do.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Seconds after which somebody who was turned away may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A problem.
///
/// Source: RFC 9457, "Problem Details for HTTP APIs"; `where` and `action` are extension members.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// What is wrong.
    detail: String,
    /// Where: a JSON pointer into the body, or the part of the request.
    #[serde(rename = "where")]
    place: String,
    /// What to do.
    action: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference to the field")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    fn new(status: StatusCode, name: &str, title: &'static str, place: &str, detail: String, action: String) -> Self {
        Self { kind: format!("urn:tidemark:problem:{name}"), title, status, detail, place: place.to_owned(), action }
    }

    /// The body is not what the endpoint takes.
    pub(super) fn bad_request(place: &str, detail: String, action: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be read", place, detail, action.to_owned())
    }

    /// The body is readable, but nothing can be said about it.
    pub(super) fn unanswerable(place: &str, detail: String, action: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unanswerable", "Nothing can be predicted", place, detail, action.to_owned())
    }

    /// The body has too many bytes.
    pub(super) fn too_large(limit_bytes: usize) -> Self {
        let detail = format!("the body has more than {limit_bytes} bytes");
        let action =
            "send fewer tickets at a time, without the values of `parameters` that nobody needs; serve.max_body_bytes is the limit";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", "body", detail, action.to_owned())
    }

    /// The batch has too many entries: its bytes are few enough, so this is no matter of its size.
    pub(super) fn batch_too_large(place: &str, entries: usize, limit: usize) -> Self {
        let detail = format!("{entries} entries in one request; at most {limit} are answered");
        let action = format!("send them in several requests of at most {limit}; serve.max_batch is the limit");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "batch-too-large", "The batch is too large", place, detail, action)
    }

    /// The body is said to be something else than JSON.
    pub(super) fn not_json(content_type: &str) -> Self {
        let detail = format!("the body is said to be {content_type:?}");
        let action = "send JSON with the header content-type: application/json".to_owned();
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "The request is not JSON", "header content-type", detail, action)
    }

    /// The body did not come in time.
    pub(super) fn too_slow(timeout_ms: u128) -> Self {
        let detail = format!("the request was not complete after {timeout_ms} ms");
        let action = "send it whole; serve.timeout_ms is the limit".to_owned();
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The request came too slowly", "body", detail, action)
    }

    /// Too many ask at a time.
    pub(super) fn busy(limit: usize) -> Self {
        let detail = format!("{limit} requests are being answered already");
        let action = "try again after a second, or start another instance; serve.max_concurrent is the limit".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at a time", "server", detail, action)
    }

    /// One client asks too often.
    pub(super) fn too_often(per_second: u32, key: &str) -> Self {
        let detail = format!("more than {per_second} requests came from this address in a second");
        let action = format!("try again after a second, and ask for several tickets in one request; {key} is the limit");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-often", "Too many requests in a second", "client", detail, action)
    }

    /// The answer broke a promise of our own.
    pub(super) fn broken() -> Self {
        let detail = "the answer could not be made; the server's log says why".to_owned();
        let action = "report it with the ticket that was asked for".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", "The server failed", "server", detail, action)
    }

    /// No such page.
    pub(super) fn not_found(path: &str) -> Self {
        let detail = format!("there is nothing at {path}");
        let action = "GET /v1/openapi.json lists what there is".to_owned();
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such page", "path", detail, action)
    }

    /// Not this method.
    pub(super) fn wrong_method(method: &str) -> Self {
        let detail = format!("{method} does nothing here");
        let action = "POST to the predictions, GET everything else; /v1/openapi.json says which".to_owned();
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", "The method is not allowed", "method", detail, action)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a problem has only texts and numbers");
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        let mut response = (self.status, kind, body).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}
