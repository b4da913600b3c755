//! What the HTTP server answers.

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use axum::{Router, extract::DefaultBodyLimit};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use crate::stage::{Health, State};

const INDEX: &str = "tidemark

/metrics  what it counts and measures, for Prometheus
/healthz  200 while no stage has failed
/readyz   200 while every stage is at work or stands by; else what each waits for
";

#[derive(Clone)]
struct Pages {
    health: Health,
    metrics: PrometheusHandle,
}

/// Returns the text of the first page.
pub(super) fn index(spec: &str, topic_prefix: &str) -> String {
    format!("{INDEX}\nspec {spec} on topics {topic_prefix}\n")
}

pub(super) fn router(health: &Health, metrics: PrometheusHandle, index: &str) -> Router {
    let index = index.to_owned();
    Router::new()
        .route("/", get(async move || index.clone()))
        .route("/metrics", get(rendered))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(0))
        .with_state(Pages { health: health.clone(), metrics })
}

async fn rendered(Shared(pages): Shared<Pages>) -> impl IntoResponse {
    crate::metrics::refresh(crate::clock::now_ms());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

/// How the process is, by part.
#[derive(Serialize)]
struct Answer {
    ok: bool,
    parts: std::collections::BTreeMap<&'static str, Part>,
}

#[derive(Serialize)]
struct Part {
    state: &'static str,
    says: String,
}

impl Answer {
    fn of(health: &Health, ok: bool) -> Self {
        let part = |state| match state {
            State::Waiting(says) => Part { state: "waiting", says },
            State::Ready(says) => Part { state: "ready", says },
            State::Failed(says) => Part { state: "failed", says },
        };
        Self { ok, parts: health.all().into_iter().map(|(name, state)| (name, part(state))).collect() }
    }
}

fn answer(health: &Health, ok: bool) -> impl IntoResponse + use<> {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(Answer::of(health, ok)))
}

async fn alive(Shared(pages): Shared<Pages>) -> impl IntoResponse {
    let failed = pages.health.all().values().any(|state| matches!(state, State::Failed(_)));
    answer(&pages.health, !failed)
}

async fn ready(Shared(pages): Shared<Pages>) -> impl IntoResponse {
    answer(&pages.health, pages.health.is_ready())
}
