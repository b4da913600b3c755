//! The predictions over HTTP: `POST /v1/predictions/{duration,anomaly,load}`. Nothing here changes any state but its own cache.
//!
//! A request costs one of a bounded number of places for a bounded time; its body, its batch and its answer are bounded, too. One
//! ticket is answered on the spot, some tens of µs; a batch leaves the runtime's threads.

mod anomaly;
mod duration;
mod facts;
mod follow;
mod load;
mod problem;
mod request;
mod source;
mod tickets;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time;

use self::load::Loads;
use self::problem::Problem;
use self::request::Asked;
use self::tickets::Tickets;
use self::workers::Workers;
use super::rates::Rate;
use super::{Plan, ServeError, Server, begin, pages};
use crate::config::Config;
use crate::metrics;
use crate::registry::Registry;
use crate::spec::Spec;
use crate::stage::{Health, State, Stop};

/// Connections at a time; more wait in the system's queue.
const CONNECTIONS: usize = 1_024;
/// What answers under way are given when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// A batch of more tickets than this leaves the runtime's threads: some 500 µs.
const ON_THE_SPOT: usize = 8;
/// How long a process that has just started is not ready because the registry has not answered.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often MongoDB is asked for its indexes until it has answered.
const INDEX_AGAIN: Duration = Duration::from_secs(5);
/// The description of the interface, for batches as they are by default.
const OPENAPI: &str = include_str!("../../../schemas/openapi.json");

/// What is served from.
pub struct Serving<'s> {
    /// The configuration.
    pub config: &'s Config,
    /// The spec.
    pub spec: &'s Arc<Spec>,
    /// The registry; not touched unless `serve.enhanced_scheduling` is true.
    pub registry: Option<Arc<dyn Registry>>,
    /// Asks for the end of what follows the registry.
    pub stop: &'s Stop,
    /// How each part is.
    pub health: &'s Health,
}

/// What every request sees.
struct Api {
    tickets: Tickets,
    loads: Loads,
    places: Semaphore,
    max_concurrent: usize,
    max_body_bytes: usize,
    max_batch: usize,
    timeout: Duration,
}

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Duration,
    Anomaly,
    Load,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Self::Duration => "duration",
            Self::Anomaly => "anomaly",
            Self::Load => "load",
        }
    }
}

/// An answer in the form of its question.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Prediction(T),
    Predictions(Vec<T>),
}

impl<T> From<Asked<T>> for Answer<T> {
    fn from(asked: Asked<T>) -> Self {
        match asked {
            Asked::One(one) => Self::Prediction(one),
            Asked::Many(many) => Self::Predictions(many),
        }
    }
}

/// Listens on `serve.listen` and answers until [`Server::stop`]; follows Production meanwhile.
///
/// # Errors
/// [`ServeError`].
pub fn start(serving: &Serving<'_>, metrics: PrometheusHandle) -> Result<Server, ServeError> {
    let (config, spec) = (serving.config, serving.spec);
    let serve = &config.serve;
    let ms_per_unit = ms_per_unit(&spec.target.name).ok_or_else(|| {
        ServeError::Spec(format!(
            "the spec's target.name is {:?}: predictions are in ms, so it must end in _ms, _seconds, _minutes or _hours",
            spec.target.name
        ))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("serve-http")
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let workers = runtime.block_on(Workers::connect(config, spec, ms_per_unit)).map_err(ServeError::Mongodb)?.map(Arc::new);
    match &workers {
        Some(workers) => drop(runtime.spawn(look_for_index(Arc::clone(workers), serving.health.clone()))),
        None => serving.health.set("load", State::Ready("the fallback answers: mongodb.uri (MONGODB_URI) is not set".to_owned())),
    }
    let tickets = Tickets::new(spec, ms_per_unit).map_err(ServeError::Spec)?;
    let tickets = if serve.enhanced_scheduling {
        drop(runtime.spawn(do_not_wait_long(serving.health.clone())));
        let every = Duration::from_secs(u64::from(serve.follow_seconds));
        tickets.follow(serving.registry.clone(), serving.stop, serving.health, every).map_err(ServeError::Thread)?
    } else {
        let why = "rules answer: serve.enhanced_scheduling (ENABLE_ML_ENHANCED_SCHEDULING) is false";
        serving.health.set("model", State::Ready(why.to_owned()));
        tickets
    };
    let api = Api {
        tickets,
        loads: Loads::new(workers),
        places: Semaphore::new(serve.max_concurrent),
        max_concurrent: serve.max_concurrent,
        max_body_bytes: serve.max_body_bytes,
        max_batch: serve.max_batch,
        timeout: Duration::from_millis(u64::from(serve.timeout_ms)),
    };
    let index = format!(
        "tidemark serve\n\nPOST /v1/predictions/duration, /anomaly, /load; /v1/openapi.json describes them\n\nspec {}\n",
        spec.name
    );
    let router = router(Arc::new(api)).merge(pages::router(serving.health, metrics.clone(), &index));
    let rate = Rate { per_second: serve.max_requests_per_second, key: "serve.max_requests_per_second" };
    let plan = Plan { key: "serve.listen", listen: &serve.listen, or: "", connections: CONNECTIONS, rate, last_answers: LAST_ANSWERS };
    begin(&plan, runtime, router, metrics)
}

fn router(api: Arc<Api>) -> Router {
    let endpoint =
        |endpoint: Endpoint| post(async move |Shared(api): Shared<Arc<Api>>, request: Request| answered(api, endpoint, request).await);
    let openapi = Bytes::from(OPENAPI.replace(r#""maxItems": 1000"#, &format!(r#""maxItems": {}"#, api.max_batch)));
    Router::new()
        .route("/v1/predictions/duration", endpoint(Endpoint::Duration))
        .route("/v1/predictions/anomaly", endpoint(Endpoint::Anomaly))
        .route("/v1/predictions/load", endpoint(Endpoint::Load))
        .route("/v1/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], openapi.clone())))
        .fallback(async |uri: Uri| Problem::not_found(uri.path()))
        .method_not_allowed_fallback(async |method: Method| Problem::wrong_method(method.as_str()))
        .with_state(api)
}

/// Answers a client that comes too often.
pub(super) fn too_often(rate: Rate) -> Response {
    metrics::came_too_often();
    Problem::too_often(rate.per_second, rate.key).into_response()
}

/// Answers a request, and counts it.
async fn answered(api: Arc<Api>, endpoint: Endpoint, request: Request) -> Response {
    let begun = Instant::now();
    let Ok(_place) = api.places.try_acquire() else {
        metrics::request_answered(endpoint.name(), 503, begun.elapsed());
        return Problem::busy(api.max_concurrent).into_response();
    };
    let response = match predict(&api, endpoint, request).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response(),
        Err(problem) => problem.into_response(),
    };
    metrics::request_answered(endpoint.name(), response.status().as_u16(), begun.elapsed());
    response
}

async fn predict(api: &Arc<Api>, endpoint: Endpoint, request: Request) -> Result<Vec<u8>, Problem> {
    is_json(request.headers())?;
    let limit = api.max_body_bytes;
    let body = time::timeout(api.timeout, to_bytes(request.into_body(), limit)).await;
    let body = body.map_err(|_| Problem::too_slow(api.timeout.as_millis()))?.map_err(|_| Problem::too_large(limit))?;
    if endpoint == Endpoint::Load {
        return load(api, &body).await;
    }
    if request::tickets(&body, api.max_batch)?.len() <= ON_THE_SPOT {
        return tickets(api, endpoint, &body);
    }
    let api = Arc::clone(api);
    let answer = tokio::task::spawn_blocking(move || tickets(&api, endpoint, &body)).await;
    answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a batch of predictions panicked");
        Err(Problem::broken())
    })
}

fn tickets(api: &Api, endpoint: Endpoint, body: &Bytes) -> Result<Vec<u8>, Problem> {
    let asked = request::tickets(body, api.max_batch)?;
    match endpoint {
        Endpoint::Duration => {
            let answer = asked.try_map(&request::TICKETS, |place, ticket| api.tickets.duration(place, ticket))?;
            Ok(written(answer, endpoint, |answer| answer.source))
        }
        _ => {
            let answer = asked.try_map(&request::TICKETS, |place, ticket| api.tickets.anomaly(place, ticket))?;
            Ok(written(answer, endpoint, |answer| answer.source))
        }
    }
}

async fn load(api: &Api, body: &Bytes) -> Result<Vec<u8>, Problem> {
    let asked = request::workers(body, api.max_batch)?;
    let (is_one, workers) = match asked {
        Asked::One(one) => (true, vec![one]),
        Asked::Many(many) => (false, many),
    };
    let mut answers = api.loads.answer(workers).await;
    let answer = match (is_one, answers.pop()) {
        (true, Some(one)) => Asked::One(one),
        (_, last) => {
            answers.extend(last);
            Asked::Many(answers)
        }
    };
    Ok(written(answer, Endpoint::Load, |answer| answer.source))
}

fn written<T: Serialize>(answer: Asked<T>, endpoint: Endpoint, source: impl Fn(&T) -> source::Source) -> Vec<u8> {
    let count = |answer: &T| metrics::predicted(endpoint.name(), source(answer).name());
    match &answer {
        Asked::One(one) => count(one),
        Asked::Many(many) => many.iter().for_each(count),
    }
    serde_json::to_vec(&Answer::from(answer)).expect("an answer has only texts and finite numbers")
}

/// A body without a type is taken for JSON.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(kind.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(Problem::not_json(&text.chars().take(100).collect::<String>())) }
}

/// A registry that does not answer keeps nobody waiting: rules answer meanwhile.
async fn do_not_wait_long(health: Health) {
    time::sleep(FIRST_LOOK).await;
    for part in ["model", "anomaly-model"] {
        if matches!(health.all().get(part), Some(State::Waiting(_))) {
            health.set(part, State::Ready("rules answer: the registry has not answered yet".to_owned()));
        }
    }
}

/// Says at the start whether MongoDB has the index that the load predictor needs.
async fn look_for_index(workers: Arc<Workers>, health: Health) {
    health.set("load", State::Ready("asks MongoDB; its indexes are being looked at".to_owned()));
    loop {
        let said = match workers.index().await {
            Ok(Ok(index)) => {
                health.set("load", State::Ready(format!("asks MongoDB, which has the index {index}")));
                return;
            }
            Ok(Err(command)) => {
                let said = format!("asks MongoDB without an index, so slow answers fall back; in mongosh: {command}");
                tracing::warn!("load predictions need an index that MongoDB does not have; in mongosh: {command}");
                health.set("load", State::Ready(said));
                return;
            }
            Err(why) => format!("the fallback answers: {why}"),
        };
        if health.all().get("load") != Some(&State::Ready(said.clone())) {
            tracing::warn!("{said}");
        }
        health.set("load", State::Ready(said));
        time::sleep(INDEX_AGAIN).await;
    }
}

/// Returns how many ms one unit of a target is, from the target's name.
fn ms_per_unit(target: &str) -> Option<f64> {
    match target.rsplit_once('_').map_or(target, |(_, unit)| unit) {
        "ms" => Some(1.0),
        "s" | "seconds" => Some(1_000.0),
        "min" | "minutes" => Some(60_000.0),
        "h" | "hours" => Some(3_600_000.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
