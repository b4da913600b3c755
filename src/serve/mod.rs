//! The HTTP server: metrics, and whether the process is alive and ready. One thread of its own.
//!
//! A client that sends nothing, reads nothing or comes too often costs one of a bounded number of connections for a
//! bounded time, and never the stages.

mod pages;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time;

use crate::stage::Context;

/// Connections at a time; more wait in the system's queue.
const CONNECTIONS: usize = 64;
/// From the last answer (or the connection) to the end of a request's head.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// Longest life of a connection: whoever reads slower makes a new one.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);
/// What answers under way are given when the server stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often samples of histograms are folded, whether or not somebody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("listening on http.listen = {listen:?}: give an address like 127.0.0.1:9464 whose port is free, or \"\" for no HTTP server")]
    Listen {
        /// The address.
        listen: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No thread or no runtime.
    #[error("starting the HTTP server's thread")]
    Thread(#[source] std::io::Error),
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
    let listen = &context.config.http.listen;
    let listener = if listen.is_empty() { None } else { Some(bind(listen)?) };
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let router = pages::router(context, metrics.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("serve".to_owned())
        .spawn(move || runtime.block_on(serve(listener, router, metrics, stopped)))
        .map_err(ServeError::Thread)?;
    Ok(Server { address, stop: Some(stop), thread: Some(thread) })
}

fn bind(listen: &str) -> Result<std::net::TcpListener, ServeError> {
    let refused = |source| ServeError::Listen { listen: listen.to_owned(), source };
    let listener = std::net::TcpListener::bind(listen).map_err(refused)?;
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

async fn serve(listener: Option<std::net::TcpListener>, router: Router, metrics: PrometheusHandle, mut stop: oneshot::Receiver<()>) {
    let listener = listener.map(TcpListener::from_std).transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "the HTTP server cannot use its socket");
        None
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut upkeep = time::interval(UPKEEP);
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = upkeep.tick() => metrics.run_upkeep(),
            Some(_) = connections.join_next() => {}
            stream = accept(listener.as_ref(), &places) => {
                let (stream, place) = stream;
                let router = router.clone();
                connections.spawn(async move {
                    drop(time::timeout(CONNECTION_LIFE, answer(stream, router)).await);
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    drop(time::timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await);
    connections.shutdown().await;
}

/// Waits for a free place, then for a connection.
async fn accept(listener: Option<&TcpListener>, places: &Arc<Semaphore>) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let Some(listener) = listener else { return std::future::pending().await };
    let place = Arc::clone(places).acquire_owned().await.expect("the places are never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "the HTTP server cannot accept a connection");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT).max_buf_size(16 * 1024);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests;
