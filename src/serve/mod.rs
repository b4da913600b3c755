//! The HTTP server: metrics, whether the process is alive and ready, and the predictions of [`api`]. One thread of its own.
//!
//! A client that sends nothing, reads nothing or comes too often costs one of a bounded number of connections for a
//! bounded time, and never the stages. When all are taken, the one that has asked nothing for the longest gives way ([`seats`]); and
//! each may ask so often in a second ([`rates`]).

pub mod api;

mod pages;
mod rates;
mod seats;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time;

use self::rates::{Rate, Rates};
use self::seats::{Seat, Seats};
use crate::stage::Context;

/// Connections at a time; more wait in the system's queue.
const CONNECTIONS: usize = 64;
/// From the last answer (or the connection) to the end of a request's head.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// Life of a connection: the answer under way then is its last, and whoever reads that slower than [`HEAD_WAIT`] goes without.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);
/// What answers under way are given when the server stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often samples of histograms are folded, whether or not somebody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("listening on {key} = {listen:?}: give an address like 127.0.0.1:9464 whose port is free{or}")]
    Listen {
        /// The key.
        key: &'static str,
        /// What else may be given.
        or: &'static str,
        /// The address.
        listen: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No thread or no runtime.
    #[error("starting the HTTP server's thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The spec is not one that predictions can be answered for.
    #[error("{0}")]
    Spec(String),
    /// MongoDB's address cannot be used.
    #[error("{0}")]
    Mongodb(String),
}

/// Where and how one server listens.
struct Plan<'p> {
    /// The key of the address.
    key: &'static str,
    /// The address; empty for none.
    listen: &'p str,
    /// What else the key may be, in words.
    or: &'static str,
    /// Connections at a time.
    connections: usize,
    /// What one client may ask in a second.
    rate: Rate,
    /// What answers under way are given when the server stops.
    last_answers: Duration,
}

/// A running server. Stops when dropped, too.
pub struct Server {
    address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Listens on `http.listen` and serves until [`Server::stop`]. With an empty address only the metrics are kept tidy.
///
/// # Errors
/// [`ServeError`].
pub fn start(context: &Context, metrics: PrometheusHandle) -> Result<Server, ServeError> {
    let router = pages::router(&context.health, metrics.clone(), &pages::index(&context.spec.name, &context.config.kafka.topic_prefix));
    let plan = Plan {
        key: "http.listen",
        listen: &context.config.http.listen,
        or: ", or \"\" for no HTTP server",
        connections: CONNECTIONS,
        rate: Rate { per_second: context.config.http.max_requests_per_second, key: "http.max_requests_per_second" },
        last_answers: LAST_ANSWERS,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
    begin(&plan, runtime, router, metrics)
}

fn begin(plan: &Plan<'_>, runtime: Runtime, router: Router, metrics: PrometheusHandle) -> Result<Server, ServeError> {
    let listener = if plan.listen.is_empty() { None } else { Some(bind(plan)?) };
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (stop, stopped) = oneshot::channel();
    let (connections, last_answers) = (plan.connections, plan.last_answers);
    let rates = Arc::new(Rates::new(plan.rate));
    let body = move || {
        runtime.block_on(serve((listener, rates), router, metrics, stopped, (connections, last_answers)));
        // What still runs on the runtime has nobody left to answer.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("serve".to_owned()).spawn(body).map_err(ServeError::Thread)?;
    Ok(Server { address, stop: Some(stop), thread: Some(thread) })
}

fn bind(plan: &Plan<'_>) -> Result<std::net::TcpListener, ServeError> {
    let refused = |source| ServeError::Listen { key: plan.key, or: plan.or, listen: plan.listen.to_owned(), source };
    let listener = std::net::TcpListener::bind(plan.listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

impl Server {
    /// Returns where it listens; `None` when nowhere.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more connections, gives answers under way a moment, and returns when all is done.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP server panicked");
        }
    }
}

async fn serve(
    (listener, rates): (Option<std::net::TcpListener>, Arc<Rates>),
    router: Router,
    metrics: PrometheusHandle,
    mut stop: oneshot::Receiver<()>,
    (places, last_answers): (usize, Duration),
) {
    let listener = listener.map(TcpListener::from_std).transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "the HTTP server cannot use its socket");
        None
    });
    let (ending, end) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut upkeep = time::interval(UPKEEP);
    {
        let mut accepting = std::pin::pin!(accept_all((listener, rates), &mut connections, Seats::new(places), &router, &end));
        loop {
            tokio::select! {
                _ = &mut stop => break,
                _ = upkeep.tick() => metrics.run_upkeep(),
                () = &mut accepting => break,
            }
        }
    }
    drop(ending);
    drop(time::timeout(last_answers, async { while connections.join_next().await.is_some() {} }).await);
    connections.shutdown().await;
}

/// Takes connections and answers them; does not end. Without a listener there are none.
async fn accept_all(
    (listener, rates): (Option<TcpListener>, Arc<Rates>),
    connections: &mut JoinSet<()>,
    seats: Seats,
    router: &Router,
    end: &watch::Receiver<()>,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let (stream, client) = match listener.accept().await {
            Ok((stream, client)) => (stream, client.ip()),
            Err(error) => {
                tracing::warn!(%error, "the HTTP server cannot accept a connection");
                time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let seat = seats.take().await;
        while connections.try_join_next().is_some() {}
        let (router, rates, end) = (router.clone(), Arc::clone(&rates), end.clone());
        let answers = async move { answer((stream, client), router, &rates, end, &seat).await };
        connections.spawn(async move { drop(time::timeout(CONNECTION_LIFE + HEAD_WAIT, answers).await) });
    }
}

/// Answers one connection's requests. When the sender of `end` is gone, or its life is over, the answer under way is its last; when
/// its seat is wanted while nothing is asked, it ends.
async fn answer((stream, client): (TcpStream, IpAddr), router: Router, rates: &Rates, mut end: watch::Receiver<()>, seat: &Seat) {
    // An answer is small: it must not wait for the acknowledgement of the one before.
    drop(stream.set_nodelay(true));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(16 * 1024);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        let (answer, asked) = (rates.allows(client).then(|| router.call(request)), seat.is_asked());
        async move {
            let answer = match answer {
                Some(answer) => answer.await,
                None => Ok(api::too_often(rates.rate)),
            };
            drop(asked);
            answer
        }
    });
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let last = async {
        tokio::select! { _ = end.changed() => {}, () = time::sleep(CONNECTION_LIFE) => {} }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = seat.has_to_be_given_up() => return,
        () = last => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests;
