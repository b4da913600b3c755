//! Requests to MLflow: bounded in time, in size and in number, and without the credentials in any text.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::MlflowSettings;
use crate::config::show::MASK;
use crate::registry::RegistryError;

/// Requests made for one call, the first included.
const TRIES: u32 = 3;
/// Time in which a connection has to stand.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that a server's `Retry-After` is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Files go slower than answers: their time is this many times the settings'.
const FILE_TIMES: u32 = 10;
/// The largest answer that is not a file: some thousand versions with their tags.
const ANSWER_BYTES: u64 = 64 << 20;
/// Characters of a server's own words that are passed on.
const QUOTED: usize = 400;
/// What TLS says when it fails, and what to do about it.
const TLS: [(&str, &str); 5] = [
    (
        "UnknownIssuer",
        "the authority that vouches for the server is not known here: name that one's file as mlflow.ca_file (MLFLOW_TRACKING_SERVER_CERT_PATH)",
    ),
    ("not valid for name", "the server's certificate is for another host: connect by a name that it has, or have it issued for this one"),
    ("certificate expired", "the server's certificate has to be renewed"),
    ("not valid yet", "the server's certificate is of the future: look at the clocks"),
    ("InvalidContentType", "does the server speak TLS at all? Else mlflow.tracking_uri (MLFLOW_TRACKING_URI) begins with http://"),
];

/// Who we say we are.
enum Credentials {
    None,
    Token(SecretString),
    Basic(String, SecretString),
}

impl Credentials {
    /// Returns a server's words without the credentials that it may repeat.
    fn left_out_of(&self, words: &str) -> String {
        match self {
            Self::None => words.to_owned(),
            Self::Token(token) => without(words, token.expose_secret()),
            Self::Basic(user, password) => {
                let password = password.expose_secret();
                without(&without(words, &STANDARD.encode(format!("{user}:{password}"))), password)
            }
        }
    }
}

fn without(words: &str, secret: &str) -> String {
    if secret.is_empty() { words.to_owned() } else { words.replace(secret, MASK) }
}

/// A connection to one tracking server.
pub(super) struct Http {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    /// Address without user, password and trailing `/`.
    base: String,
    credentials: Credentials,
    timeout: Duration,
    pause: Duration,
}

/// One request.
struct Call<'a> {
    attempted: &'a str,
    method: Method,
    path: &'a str,
    body: Body<'a>,
    timeout: Duration,
    limit_bytes: u64,
}

#[derive(Clone, Copy)]
enum Body<'a> {
    None,
    Json(&'a Value),
    Bytes(&'a [u8]),
}

/// Why one try failed.
enum Failed {
    /// A further try may succeed, after the server's pause if it named one.
    Again(String, Option<Duration>),
    Never(RegistryError),
}

impl Http {
    pub(super) fn new(settings: &MlflowSettings) -> Result<Self, RegistryError> {
        let attempted = "connecting to MLflow";
        // The text may hold a password: it is not repeated.
        let wrong = || RegistryError::invalid(attempted, "the tracking URI is not http://HOST:PORT or https://HOST:PORT");
        let mut url = Url::parse(settings.tracking_uri.expose_secret()).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong());
        }
        let credentials = credentials(settings, &url);
        url.set_username("").map_err(|()| wrong())?;
        url.set_password(None).map_err(|()| wrong())?;
        url.set_query(None);
        url.set_fragment(None);
        let mut client = reqwest::Client::builder();
        if let Some(file) = &settings.ca_file {
            client = client.tls_certs_only(authorities(attempted, file)?);
        }
        let client = client
            // A redirect would carry the credentials to somebody who was not configured.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT.min(settings.timeout))
            .user_agent(concat!("tidemark/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| RegistryError::unavailable(attempted, causes(&error.without_url())))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.map_err(|error| RegistryError::unavailable(attempted, error.to_string()))?,
            client,
            base: url.as_str().trim_end_matches('/').to_owned(),
            credentials,
            timeout: settings.timeout,
            pause: settings.pause,
        })
    }

    /// Returns the server's address, which holds no secret.
    pub(super) fn address(&self) -> &str {
        &self.base
    }

    pub(super) fn get<T: DeserializeOwned>(&self, attempted: &str, path: &str) -> Result<T, RegistryError> {
        self.json(attempted, Method::GET, path, Body::None)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, attempted: &str, path: &str, body: &Value) -> Result<T, RegistryError> {
        self.json(attempted, Method::POST, path, Body::Json(body))
    }

    /// Returns an answer that may be anybody's.
    pub(super) fn post_for_text(&self, attempted: &str, path: &str, body: &Value) -> Result<String, RegistryError> {
        let (method, timeout) = (Method::POST, self.timeout);
        let bytes = self.run(&Call { attempted, method, path, body: Body::Json(body), timeout, limit_bytes: ANSWER_BYTES })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn delete<T: DeserializeOwned>(&self, attempted: &str, path: &str, body: &Value) -> Result<T, RegistryError> {
        self.json(attempted, Method::DELETE, path, Body::Json(body))
    }

    pub(super) fn upload(&self, attempted: &str, path: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let call = Call {
            attempted,
            method: Method::PUT,
            path,
            body: Body::Bytes(bytes),
            timeout: self.timeout * FILE_TIMES,
            limit_bytes: ANSWER_BYTES,
        };
        self.run(&call).map(drop)
    }

    /// Returns a file of at most `limit_bytes`.
    pub(super) fn download(&self, attempted: &str, path: &str, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let timeout = self.timeout * FILE_TIMES;
        self.run(&Call { attempted, method: Method::GET, path, body: Body::None, timeout, limit_bytes })
    }

    fn json<T: DeserializeOwned>(&self, attempted: &str, method: Method, path: &str, body: Body) -> Result<T, RegistryError> {
        let bytes = self.run(&Call { attempted, method, path, body, timeout: self.timeout, limit_bytes: ANSWER_BYTES })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            RegistryError::unavailable(
                attempted,
                format!("the answer of {} is not MLflow's ({error}); is it a tracking server?", self.base),
            )
        })
    }

    /// Carries out a call, again where that may help.
    fn run(&self, call: &Call) -> Result<Vec<u8>, RegistryError> {
        let mut tried = 1;
        let mut pause = self.pause;
        loop {
            let (reason, asked) = match self.runtime.block_on(self.once(call)) {
                Ok(bytes) => return Ok(bytes),
                Err(Failed::Never(error)) => return Err(error),
                Err(Failed::Again(reason, asked)) => (reason, asked),
            };
            if tried == TRIES {
                return Err(RegistryError::unavailable(call.attempted, format!("{} {reason} ({TRIES} tries)", self.base)));
            }
            tried += 1;
            std::thread::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE));
            pause *= 4;
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<Vec<u8>, Failed> {
        let mut request = self.client.request(call.method.clone(), format!("{}{}", self.base, call.path)).timeout(call.timeout);
        request = match &self.credentials {
            Credentials::None => request,
            Credentials::Token(token) => request.bearer_auth(token.expose_secret()),
            Credentials::Basic(user, password) => request.basic_auth(user, Some(password.expose_secret())),
        };
        request = match call.body {
            Body::None => request,
            Body::Json(value) => request.json(value),
            Body::Bytes(bytes) => request.header("content-type", "application/octet-stream").body(bytes.to_vec()),
        };
        let response = request.send().await.map_err(|error| self.transport(call, error))?;
        let (status, asked, wants) = (response.status(), pause_of(&response), wanted(&response));
        let limit_bytes = if status.is_success() { call.limit_bytes } else { ANSWER_BYTES };
        let bytes = self.body(call, response, limit_bytes).await?;
        if status.is_success() { Ok(bytes) } else { Err(self.judge(call, status, asked, &wants, &bytes)) }
    }

    /// Reads an answer, chunk by chunk: its announced length is a promise only.
    async fn body(&self, call: &Call<'_>, mut response: Response, limit_bytes: u64) -> Result<Vec<u8>, Failed> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(call, error))? {
            if (bytes.len() + chunk.len()) as u64 > limit_bytes {
                let reason = format!("the answer of {} passes {limit_bytes} bytes, the limit", self.base);
                return Err(Failed::Never(RegistryError::corrupt(call.attempted, reason)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn transport(&self, call: &Call, error: reqwest::Error) -> Failed {
        let never = error.is_builder();
        let reason = causes(&error.without_url());
        if never {
            return Failed::Never(RegistryError::invalid(call.attempted, format!("the request to {} cannot be made: {reason}", self.base)));
        }
        // A certificate does not get better within seconds.
        if let Some((_, advice)) = TLS.iter().find(|(found, _)| reason.contains(found)) {
            return Failed::Never(RegistryError::unavailable(call.attempted, format!("{} does not answer: {reason}; {advice}", self.base)));
        }
        let plain = if self.base.starts_with("http://") { " And if it speaks TLS, its address begins with https://." } else { "" };
        Failed::Again(format!("does not answer: {reason}; is it up?{plain}"), None)
    }

    fn judge(&self, call: &Call, status: StatusCode, asked: Option<Duration>, wants: &str, body: &[u8]) -> Failed {
        let told = Told::read(self.credentials.left_out_of(&String::from_utf8_lossy(body)).as_bytes());
        let wants = self.credentials.left_out_of(wants);
        let reason = format!("{} answered {status}: {}", self.base, told.message);
        if status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) {
            return Failed::Again(format!("answered {status}: {}", told.message), asked);
        }
        Failed::Never(match (status, told.error_code.as_str()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => RegistryError::refused(
                call.attempted,
                format!("{reason}{wants}; check MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
            ),
            (StatusCode::NOT_FOUND, _) | (_, "RESOURCE_DOES_NOT_EXIST") => RegistryError::not_found(call.attempted, reason),
            (StatusCode::CONFLICT, _) | (_, "RESOURCE_ALREADY_EXISTS" | "INVALID_STATE") => RegistryError::conflict(call.attempted, reason),
            // The only words by which MLflow says that a run was deleted.
            _ if told.message.contains("must be in the 'active' state") => RegistryError::conflict(call.attempted, reason),
            _ if status.is_redirection() => {
                RegistryError::invalid(call.attempted, format!("{reason}; redirects are not followed: give the final address"))
            }
            _ => RegistryError::invalid(call.attempted, reason),
        })
    }
}

/// What MLflow says when it refuses.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    error_code: String,
    message: String,
}

impl Told {
    fn read(body: &[u8]) -> Self {
        let mut told: Self = serde_json::from_slice(body).unwrap_or_else(|_| Self {
            error_code: String::new(),
            // A proxy's page, perhaps.
            message: String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED)]).into_owned(),
        });
        told.message = told.message.chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
        told
    }
}

/// The settings' own credentials, else those in the address.
fn credentials(settings: &MlflowSettings, url: &Url) -> Credentials {
    if let Some(token) = &settings.token {
        return Credentials::Token(token.clone());
    }
    if let Some(user) = &settings.username {
        return Credentials::Basic(user.clone(), settings.password.clone().unwrap_or_default());
    }
    if url.username().is_empty() {
        return Credentials::None;
    }
    Credentials::Basic(decoded(url.username()), SecretString::from(decoded(url.password().unwrap_or_default())))
}

/// Reads a file of authorities.
fn authorities(attempted: &str, file: &Path) -> Result<Vec<reqwest::Certificate>, RegistryError> {
    let wrong = |why: String| {
        let ways = "mlflow.ca_file (MLFLOW_TRACKING_SERVER_CERT_PATH) names a PEM file of certificates";
        RegistryError::invalid(attempted, format!("{}: {why}; {ways}", file.display()))
    };
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(causes(&error)))?;
    if found.is_empty() { Err(wrong("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// Returns what is wrong with the credentials, where the server says so in `WWW-Authenticate` (RFC 6750, 3.1).
fn wanted(response: &Response) -> String {
    let header = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let described = header.split_once("error_description=\"").and_then(|(_, rest)| rest.split_once('"'));
    described.map_or_else(String::new, |(text, _)| format!(" ({})", text.chars().take(QUOTED).collect::<String>()))
}

fn pause_of(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Writes a text so that it is one segment of a path, or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The inverse of [`encoded`]; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        match hex {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with everything behind it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_one_segment() {
        assert_eq!(encoded("a b/..?#%é"), "a%20b%2F..%3F%23%25%C3%A9");
        assert_eq!(decoded(&encoded("p@ss w%rd:é")), "p@ss w%rd:é");
        assert_eq!(decoded("100%"), "100%");
    }

    #[test]
    fn a_servers_words_are_passed_on_in_one_short_line() {
        let told = Told::read(br#"{"error_code": "X", "message": "a\nb"}"#);
        assert_eq!((told.error_code.as_str(), told.message.as_str()), ("X", "a b"));
        assert_eq!(Told::read(&vec![b'x'; 100_000]).message.len(), QUOTED);
        assert_eq!(Told::read(b"").message, "");
    }
}
